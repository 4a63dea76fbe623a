"""SimpleShot: prototypes of centred features of unit length, and what a mean may be."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from metric_cases import start, tanh_encoder

import metajax as mj

pytestmark = pytest.mark.usefixtures("float64")

WAYS, INPUTS, FEATURES = 3, 4, 5
MEAN = np.random.default_rng(5).normal(size=FEATURES)


def transformed(mean: np.ndarray | None, unit: bool) -> mj.Model:
    """The encoder, then the equation in so many words."""
    encoder = tanh_encoder(FEATURES)

    def apply(params: Any, inputs: jax.Array) -> jax.Array:
        features = encoder.apply(params, inputs)
        if mean is not None:
            features = features - mean[None]
        if unit:
            features = features / jnp.sqrt((features**2).sum(axis=1, keepdims=True))
        return features

    return mj.Model(encoder.init, apply)


@pytest.mark.parametrize(
    ("mean", "unit"),
    [
        (MEAN, True),
        *(
            pytest.param(mean, unit, marks=pytest.mark.slow)
            for mean, unit in ((None, True), (MEAN, False), (None, False))
        ),
    ],
)
def test_it_is_the_prototypical_network_of_the_transformed_features(
    mean: np.ndarray | None, unit: bool
) -> None:
    learner = mj.nearest_class_mean(tanh_encoder(FEATURES), mean=mean, unit=unit, ways=WAYS)
    params, episode = start(learner, INPUTS)
    episode = episode._replace(
        support=episode.support._replace(weights=jnp.array([1.0, 2.0, 1.0, 0.5, 3.0, 0.0]))
    )
    other = mj.prototypical_network(transformed(mean, unit), ways=WAYS)
    ours, theirs = (
        jax.jit(jax.value_and_grad(each.loss, has_aux=True))(params, episode)
        for each in (learner, other)
    )
    assert jnp.isfinite(ours[0][1].outputs).all()
    oracles.assert_close(ours[0], theirs[0])
    # Without the unit length a mean is taken from queries and prototypes alike.
    rounding = 1e-14 * max(float(jnp.abs(x).max()) for x in jax.tree.leaves(theirs[1]))
    for leaf, same in zip(*map(jax.tree.leaves, (ours[1], theirs[1])), strict=True):
        np.testing.assert_allclose(leaf, same, rtol=1e-11, atol=10 * rounding)


@pytest.mark.parametrize(
    ("mean", "error", "message"),
    [
        (np.zeros((1, 5)), ValueError, r"the mean has shape \(1, 5\); expected \[features\]"),
        (np.array([0.0, np.nan]), ValueError, r"the mean is nan at feature 1; expected finite"),
        ("mean", TypeError, r"mean is 'mean'"),
    ],
    ids=["shape", "nan", "text"],
)
def test_a_mean_that_is_none(mean: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mj.nearest_class_mean(tanh_encoder(FEATURES), mean=mean)


def test_a_mean_of_another_width() -> None:
    learner = mj.nearest_class_mean(tanh_encoder(FEATURES), mean=np.zeros(4))
    params, episode = start(learner, INPUTS)
    message = r"the mean has shape \(4,\) and features \(6, 5\); expected \[..., 4\] features"
    with pytest.raises(ValueError, match=message):
        learner.loss(params, episode)


def test_unit_that_is_no_flag() -> None:
    with pytest.raises(TypeError, match=r"unit=1; expected True or False"):
        mj.nearest_class_mean(tanh_encoder(FEATURES), unit=1)  # type: ignore[arg-type]
