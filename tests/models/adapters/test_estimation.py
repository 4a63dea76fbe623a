"""Running averages after meta-training from scratch."""

from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax import nnx

from metajax.keys import evaluation_keys
from metajax.models.adapters.estimation import estimate_statistics
from metajax.models.adapters.linen import from_linen
from metajax.models.adapters.nnx import from_nnx
from metajax.types import Episode, Examples, Model

KEY = jax.random.key(0)
EPISODES = 40


class _Linen(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Dropout(0.5, deterministic=not train)(nn.Dense(2)(x))
        return nn.BatchNorm(not train, momentum=0.9)(x)


class _NNX(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(3, 2, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.norm = nnx.BatchNorm(2, momentum=0.9, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.drop(self.first(x)))


def _sample(key: jax.Array) -> Episode:
    support, query = (
        Examples(1 + 2 * jax.random.normal(part, (items, 3)), jax.numpy.zeros(items, int), weights)
        for part, items, weights in zip(
            jax.random.split(key), (4, 6), (jax.numpy.array([1.0, 1, 0, 2]), None), strict=True
        )
    )
    return Episode(support, query)


MODELS: dict[str, Any] = {
    "linen": (
        lambda **given: from_linen(_Linen(), **given),
        lambda params: params["Dense_0"],
        lambda state: state["batch_stats"]["BatchNorm_0"],
    ),
    "nnx": (
        lambda **given: from_nnx(_NNX, **given),
        lambda params: params["first"],
        lambda state: state["norm"],
    ),
    "built": (
        lambda **given: from_nnx(_NNX(nnx.Rngs(2)), **given),
        lambda params: params["first"],
        lambda state: state["norm"],
    ),
}


@pytest.mark.parametrize(
    "name",
    [name if name == "nnx" else pytest.param(name, marks=pytest.mark.slow) for name in MODELS],
)
def test_the_averages_of_training(name: str) -> None:
    make, first, averages = MODELS[name]
    model = make()
    params = jax.tree.map(np.asarray, model.init(KEY, np.zeros((1, 3), np.float32)))
    state = estimate_statistics(model, params, _sample, episodes=EPISODES, seed=3)

    mean, variance = np.zeros(2), np.ones(2)
    episodes = jax.vmap(_sample)(evaluation_keys(3, EPISODES)[0])
    for support, query in zip(episodes.support.inputs, episodes.query.inputs, strict=True):
        for items in (np.asarray(support)[[0, 1, 3]], np.asarray(query)):
            hidden = items @ first(params)["kernel"] + first(params)["bias"]
            mean = 0.9 * mean + 0.1 * hidden.mean(0)
            variance = 0.9 * variance + 0.1 * hidden.var(0)
    np.testing.assert_allclose(averages(state)["mean"], mean, rtol=1e-4)
    np.testing.assert_allclose(averages(state)["var"], variance, rtol=1e-4)

    given = make(frozen=state)
    x = np.asarray(query)
    hidden = x @ first(params)["kernel"] + first(params)["bias"]
    np.testing.assert_allclose(
        given.apply(params, x), (hidden - mean) / np.sqrt(variance + 1e-5), rtol=1e-3, atol=1e-4
    )
    assert given.sharing(params, x) == "none"


def test_mistakes() -> None:
    plain = Model(lambda key: {}, lambda params, x: x)
    with pytest.raises(TypeError, match=r"expected a metajax.Model"):
        estimate_statistics(_Linen(), {}, _sample)  # pyright: ignore
    with pytest.raises(ValueError, match="keeps no running averages; expected one that an adapter"):
        estimate_statistics(plain, {}, _sample)
    dense = from_linen(nn.Dense(1))
    with pytest.raises(ValueError, match="keeps no running averages beside"):
        estimate_statistics(dense, dense.init(KEY, np.zeros((1, 3))), _sample)
    with pytest.raises(ValueError, match="episodes=0; expected an integer of 1"):
        estimate_statistics(dense, {}, _sample, episodes=0)
