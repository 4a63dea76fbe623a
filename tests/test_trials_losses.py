"""Other people's losses are the means that one writes by hand, padded episodes or not."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from trial_episodes import WAYS, padded, vectors
from trials_losses import TRIALS, LossTrial, focal

import metajax as mj
from metajax.types import Array, Episode, Examples

pytestmark = pytest.mark.usefixtures("float64")

RATE, STEPS = 0.1, 2
MODEL = mj.Model(lambda key: jnp.eye(3), lambda params, x: jnp.tanh(x @ params))
PARAMS = 0.4 * np.eye(3) + 0.1


def learners(trial: LossTrial) -> dict[str, mj.Learner]:
    own: dict[str, Any] = {"loss_fn": trial.loss_fn, "metrics": trial.metrics}
    steps: dict[str, Any] = {"inner": optax.sgd(RATE), "num_steps": STEPS}
    made = {"maml": mj.maml(MODEL, **steps, **own)}
    if trial.targets is None:
        made["prototypical_network"] = mj.prototypical_network(MODEL, ways=WAYS, **own)
        made["proto_maml"] = mj.proto_maml(MODEL, ways=WAYS, **steps, **own)
    return made


def by_hand(name: str, trial: LossTrial, params: Array, episode: Episode) -> tuple[Array, Array]:
    """The query loss and the outputs for the queries."""
    support, query = episode
    features = jnp.tanh(support.inputs @ params)
    if name == "prototypical_network":
        gaps = jnp.tanh(query.inputs @ params)[:, None] - centres(features, support.targets)[None]
        outputs = -(gaps**2).sum(axis=-1)
        return trial.by_hand(outputs, query.targets).mean(), outputs
    phi: Any = (params,)
    if name == "proto_maml":
        middle = centres(features, support.targets)
        phi = (params, 2 * middle.T, -(middle**2).sum(axis=1)[None])

    def outputs_of(phi: Any, x: Array) -> Array:
        features = jnp.tanh(x @ phi[0])
        return features if name == "maml" else features @ phi[1] + phi[2]

    def loss(phi: Any, examples: Examples) -> Array:
        return trial.by_hand(outputs_of(phi, examples.inputs), examples.targets).mean()

    for _ in range(STEPS):
        slope = jax.grad(loss)(phi, support)
        phi = jax.tree.map(lambda p, s: p - RATE * s, phi, slope)
    return loss(phi, query), outputs_of(phi, query.inputs)


def centres(features: Array, labels: Array) -> Array:
    members = jnp.eye(WAYS)[labels]
    return members.T @ features / members.sum(axis=0)[:, None]


@pytest.mark.parametrize(
    "trial",
    [pytest.param(x, id=x.name, marks=[] if x.fast else pytest.mark.slow) for x in TRIALS],
)
def test_it_is_the_mean_by_hand(trial: LossTrial) -> None:
    episode = jax.jit(vectors)(jax.random.key(0))
    if trial.targets:
        episode = Episode(*(Examples(x, trial.targets(labels, x)) for x, labels, _ in episode))
    made = learners(trial)

    @jax.jit
    def ours(params: Array, episode: Episode) -> Any:
        return [
            jax.value_and_grad(learner.loss, has_aux=True)(params, episode)
            for learner in made.values()
        ]

    @jax.jit
    def theirs(params: Array) -> Any:
        return [
            jax.value_and_grad(lambda p, name=name: by_hand(name, trial, p, episode), has_aux=True)(
                params
            )
            for name in made
        ]

    if not trial.weighs:
        with pytest.raises(ValueError, match="returned a scalar and takes no weights, but items"):
            ours(PARAMS, padded(episode))
    episodes = [episode, padded(episode)] if trial.weighs else [episode]
    for results in (ours(PARAMS, one) for one in episodes):
        for ((loss, aux), slope), ((expected, outputs), expected_slope) in zip(
            results, theirs(PARAMS), strict=True
        ):
            np.testing.assert_allclose(loss, expected, rtol=1e-10)
            oracles.assert_close(slope, expected_slope, 1e-8)
            if trial.targets is None and trial.loss_fn is not focal:
                assert 0 <= aux.metrics["accuracy"] <= 1
            for name, score in trial.metrics.items():
                mean = score(outputs, episode.query.targets).mean()
                np.testing.assert_allclose(aux.metrics[name], mean, rtol=1e-10)
