"""Losses and meta-gradients of another framework: PyTorch, float64."""

from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj

pytestmark = pytest.mark.usefixtures("float64")

# The references' names of layers, and ours.
NAMES = {
    "W1": {"l1": "Dense_0", "l2": "Dense_1", "l3": "Dense_2"},
    "W2": {
        **{f"conv{i + 1}": f"Conv_{i}" for i in range(4)},
        **{f"bn{i + 1}": f"BatchStatistics_{i}" for i in range(4)},
        "head": "Dense_0",
    },
}
MODELS = {
    "W1": (mj.models.mlp((40, 40, 1)), mj.squared_error),
    "W2": (mj.models.strided_conv_net(5), mj.cross_entropy),
}


def _tree(arrays: dict[str, np.ndarray], workload: str) -> dict:
    """The references' flat arrays as the parameters of our model."""
    tree: dict = {}
    for path, array in arrays.items():
        layer, leaf = path.split("/")
        node = tree.setdefault(NAMES[workload][layer], {})
        leaf = {"w": "kernel", "b": "bias"}.get(leaf, leaf)
        node[leaf] = jnp.asarray(array, jnp.float64)
    return tree


@pytest.mark.parametrize("order", ["second", "first"])
@pytest.mark.parametrize("num_steps", [1, 5])
@pytest.mark.parametrize("workload", ["W1", pytest.param("W2", marks=pytest.mark.slow)])
def test_meta_gradient_of_pytorch(
    references: Path, workload: str, num_steps: int, order: str
) -> None:
    with np.load(references / f"{workload}.npz") as file:
        data = dict(file)
    model, loss_fn = MODELS[workload]
    learner = mj.maml(
        model,
        inner=optax.sgd(float(data["inner_lr"])),
        num_steps=num_steps,
        first_order=order == "first",
        loss_fn=loss_fn,
    )
    params = _tree(_below(data, "param/"), workload)
    # Labels stay integers; everything else is cast to float64.
    cast = [
        jnp.asarray(data[name], jnp.int64 if data[name].dtype.kind == "i" else jnp.float64)
        for name in ("xs", "ys", "xq", "yq")
    ]
    episodes = mj.Episode(mj.Examples(*cast[:2]), mj.Examples(*cast[2:]))
    tasks = len(cast[0])

    gradient, (loss, _) = jax.jit(
        lambda params, episodes: mj.meta_gradient(
            learner.loss,
            params,
            episodes,
            mj.task_keys(jax.random.key(0), tasks),
        )
    )(params, episodes)

    prefix = f"ref64/steps{num_steps}_{order}"
    np.testing.assert_allclose(loss, data[f"{prefix}/loss"], rtol=1e-8)
    expected = _tree(_below(data, f"{prefix}/grad/"), workload)
    # Relative to a layer's largest entry: single entries may be zero but for rounding.
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(
            ours, theirs, rtol=1e-8, atol=1e-8 * np.abs(theirs).max()
        ),
        gradient,
        expected,
    )
    chex.assert_trees_all_equal_dtypes(gradient, expected)


def _below(data: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {
        key.removeprefix(prefix): value for key, value in data.items() if key.startswith(prefix)
    }
