"""Observation at some steps: what is seen at all of them, and no more computed than asked for."""

import collections
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

import metajax as mj
from metajax.inner.observation import AtSteps

STEPS = 5
ASKED = ((0, 2, 5), (1, 3))
LOOPS: dict[str, dict[str, Any]] = {
    "exact": {},
    "truncated": {"backward": mj.Backward(last_steps=2)},
    "nested": {"backward": mj.Backward(checkpoint="nested")},
    "written out": {"backward": mj.Backward(unroll=True)},
    "a part": {"adapt": "head"},
}


def _loss(params: Any, step: Any) -> jax.Array:
    inputs, targets = oracles.normals(3, (6, 4), (6, 2))
    shift = 0.0 if step is None else step
    return jnp.mean((jnp.tanh(inputs @ params["body"]) @ params["head"] - targets - shift) ** 2)


@pytest.mark.usefixtures("float64")
@pytest.mark.exact
@pytest.mark.parametrize("name", LOOPS)
def test_some_steps_are_those_of_all_and_so_is_their_gradient(name: str) -> None:
    body, head, shifts = oracles.normals(0, (4, 3), (3, 2), (STEPS,))
    params = {"body": body, "head": head}
    loop = mj.InnerLoop(optax.sgd(0.3), STEPS, **LOOPS[name])

    @jax.jit
    def both(params: Any) -> Any:
        def summed(params: Any, observe: Any, rows: Any) -> tuple[jax.Array, jax.Array]:
            phi, seen = loop.run(_loss, params, per_step=shifts, observe=observe)
            picked = seen if rows is None else seen[rows]
            return (picked**2).sum() + _loss(phi, None), picked

        def observe(phi: Any) -> jax.Array:
            return _loss(phi, None)

        slope = jax.grad(summed, has_aux=True)
        return [
            (slope(params, AtSteps(observe, asked), None), slope(params, observe, np.array(asked)))
            for asked in ASKED
        ]

    for ours, theirs in both(params):
        oracles.assert_close(ours, theirs)


def _counting(record_steps: Any) -> tuple[mj.Learner, collections.Counter]:
    counted = collections.Counter()

    def count(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        jax.debug.callback(lambda output: counted.update(["scored"]), outputs[0, 0])
        return outputs.mean()

    return (
        mj.maml(
            mj.models.mlp((1,)),
            inner=optax.sgd(0.01),
            num_steps=STEPS,
            loss_fn=mj.squared_error,
            metrics={"output": lambda outputs, targets: count(outputs, targets)},
            record_steps=record_steps,
        ),
        counted,
    )


def test_queries_are_scored_at_the_steps_that_are_named_alone() -> None:
    sample = mj.data.sinusoid_episodes(shots=3, queries=3)
    keys = jax.random.split(jax.random.key(0), 3)
    episodes = jax.vmap(sample)(keys)

    def scored(record_steps: Any) -> tuple[int, Any]:
        learner, counted = _counting(record_steps)
        params = learner.init(jax.random.key(0), jnp.zeros((1, 1)))

        @jax.jit
        def scores(params: Any, episodes: mj.Episode) -> Any:
            return jax.vmap(lambda episode: learner.loss(params, episode)[1].metrics)(episodes)

        metrics = jax.block_until_ready(scores(params, episodes))
        jax.effects_barrier()
        return counted["scored"] // len(keys), metrics

    often, curve = scored(True)
    seldom, points = scored((0, 3))
    once, last = scored(False)
    support = once - 1  # The metrics of each step's support set, which nothing uses.
    assert (seldom - support, often - support) == (3, STEPS + 2)
    for name in ("query_loss", "output"):
        each = points[f"{name}_per_step"]
        np.testing.assert_allclose(each, curve[f"{name}_per_step"][:, (0, 3)], rtol=1e-6)
        np.testing.assert_allclose(points[name], last[name], rtol=1e-6)
        assert f"{name}_per_step" not in last


def test_steps_beyond_the_last_are_an_error() -> None:
    learner, _ = _counting((0, STEPS + 1))
    params = learner.init(jax.random.key(0), jnp.zeros((1, 1)))
    episode = mj.data.sinusoid_episodes(shots=3, queries=3)(jax.random.key(0))
    with pytest.raises(ValueError, match=r"record_steps=\(0, 6\) with num_steps=5; expected steps"):
        learner.loss(params, episode)


def test_a_fit_that_observes_otherwise_is_an_error() -> None:
    objective = mj.supervised(mj.models.mlp((1,)), mj.squared_error)
    loop = mj.InnerLoop(optax.sgd(0.1), STEPS)

    def fit(params: Any, support: Any, key: Any, training: bool, observe: Any) -> Any:
        fitted = mj.support_fit(objective, loop)
        return fitted(params, support, key, training, lambda phi: observe(phi))

    learner = mj.gradient_learner(objective, fit, record_steps=(0, 1))
    params = learner.init(jax.random.key(0), jnp.zeros((1, 1)))
    episode = mj.data.sinusoid_episodes(shots=3, queries=3)(jax.random.key(0))
    with pytest.raises(ValueError, match=r"expected \(2,\): a fit that hands its observe on"):
        learner.loss(params, episode)
