"""Other people's models work as they are, and give what their own framework gives by hand."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from trial import STEPS, Apply, Trial, meta_loss
from trial_episodes import Sampler, unpadded
from trials import MODELS

import metajax as mj
from metajax.items import take
from metajax.types import Array, Episode, Key, Params

pytestmark = pytest.mark.usefixtures("float64")

KEYS = jax.random.split(jax.random.key(7), 2)
TASKS = jax.random.split(jax.random.key(8), 2)
SLOW = pytest.mark.slow
CASES = [pytest.param(x, id=x.name, marks=[] if x.fast else SLOW) for x in MODELS]
TRAINED = [pytest.param(x, id=x.name, marks=[] if x.fast and x.draws else SLOW) for x in MODELS]


class Case(NamedTuple):
    """A trial, made."""

    learner: mj.Learner
    by_hand: Apply
    params: Params
    episodes: Episode


@functools.cache
def drawn_by(sample: Sampler) -> Episode:
    return jax.jit(jax.vmap(sample))(TASKS)


def case(trial: Trial) -> Case:
    if trial.needs:
        pytest.importorskip(trial.needs)
    model, by_hand = trial.bring()
    learner = mj.maml(model, inner=optax.sgd(trial.rate), num_steps=STEPS, **trial.options)
    episodes = drawn_by(trial.sample)
    inputs = take(episodes.support.inputs, 0)
    shapes = jax.eval_shape(learner.init, jax.random.key(0), inputs)
    return Case(learner, by_hand, oracles.normal_like(1, shapes, 0.5), episodes)


@pytest.mark.parametrize("trial", CASES)
def test_it_is_what_the_framework_gives_by_hand(trial: Trial) -> None:
    learner, by_hand, params, episodes = case(trial)
    episode = take(episodes, 0)

    @functools.partial(jax.jit, static_argnums=2)
    def both(params: Params, key: Key, training: bool) -> Any:
        def theirs(params: Params) -> tuple[Array, Any]:
            return meta_loss(trial, by_hand, params, unpadded(episode), key if training else None)

        ours = jax.value_and_grad(learner.loss, has_aux=True)(params, episode, key, training)
        return ours, jax.value_and_grad(theirs, has_aux=True)(params)

    still, by_framework = both(params, KEYS[0], False)
    check_same(still, by_framework)
    outputs = by_framework[0][1]
    check_predictions(Case(learner, by_hand, params, episodes), outputs, shares=trial.shares)
    if trial.draws:
        drawn = [both(params, key, True) for key in KEYS]
        for ours, theirs in drawn:
            check_same(ours, theirs)
        losses = [float(loss) for ((loss, _), _), _ in [(still, None), *drawn]]
        assert len({*losses}) == 3
        again = both(params, KEYS[1], False)[0]
        jax.tree.map(np.testing.assert_array_equal, again, still)


def check_same(ours: Any, theirs: Any) -> None:
    """The same loss and the same slopes; those that are 0 but for rounding are so in both."""
    np.testing.assert_allclose(ours[0][0], theirs[0][0], rtol=1e-10)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(theirs[1]))
    assert np.isfinite(largest)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            a, b, rtol=0, atol=1e-8 * np.abs(b).max() + 1e-14 * largest
        ),
        ours[1],
        theirs[1],
    )


def check_predictions(made: Case, outputs: Any, *, shares: bool) -> None:
    """Two items asked at once are answered as each alone, and as by hand where none shares."""
    support, query = unpadded(take(made.episodes, 0))
    task = made.learner.adapt(made.params, support)
    two = made.learner.predict(made.params, task, take(query.inputs, slice(2)))
    ones = [
        made.learner.predict(made.params, task, take(query.inputs, slice(i, i + 1)))
        for i in range(2)
    ]
    alone = jax.tree.map(lambda *parts: jnp.concatenate(parts), *ones)
    oracles.assert_close(two, alone, 1e-6)
    if not shares:
        oracles.assert_close(two, take(outputs, slice(2)), 1e-6)


@pytest.mark.parametrize("trial", TRAINED)
def test_it_trains(trial: Trial) -> None:
    learner, _, params, episodes = case(trial)
    optimizer = optax.adam(0.02)
    step = jax.jit(mj.train_step(learner, optimizer))
    state = mj.init_state(params, optimizer, jax.random.key(3))
    losses = []
    for _ in range(10):
        state, metrics = step(state, episodes)
        losses.append(metrics["loss"])
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
