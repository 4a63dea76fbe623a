"""Environments of brax; what is said where a library is missing."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax as mj

# Importing it here would hide what it says as it is imported.
needs_brax = pytest.mark.skipif(find_spec("brax") is None, reason="brax is optional")

KEY = jax.random.key(0)


class _State(NamedTuple):
    """What of brax's state is used."""

    pipeline_state: jax.Array
    obs: Any
    done: jax.Array
    metrics: dict[str, jax.Array]


class _Cart:
    """A cart on a line, of whom brax's conventions are kept: it ends beyond 1."""

    action_size = 1

    def reset(self, rng: jax.Array) -> _State:
        place = 0.1 * jax.random.normal(rng)
        return _State(place, place[None], jnp.zeros(()), {"velocity": jnp.zeros(())})

    def step(self, state: _State, action: jax.Array) -> _State:
        place = state.pipeline_state + action[0]
        state.metrics.update(velocity=action[0])  # As brax does, in the state it was given.
        done = jnp.where(place > 1, 1.0, 0.0)
        return state._replace(pipeline_state=place, obs=place[None], done=done)


def _pay(task: jax.Array, action: jax.Array, state: Any) -> jax.Array:
    return task * state.metrics["velocity"] - 0.05 * (action**2).sum()


def _sample_sign(key: jax.Array) -> jax.Array:
    return jax.random.rademacher(key, dtype=jnp.float32)


def test_brax_steps_are_pure_and_paid_by_the_task() -> None:
    environment = mj.rl.from_brax(_Cart(), reward=_pay, sample_task=_sample_sign)
    assert environment.action_size == 1
    state, observation = environment.reset(KEY, jnp.ones(()))
    before = jax.tree.map(np.asarray, state)
    after, seen, reward, done = environment.step(KEY, state, jnp.array([0.4]), -jnp.ones(()))
    jax.tree.map(np.testing.assert_array_equal, state, before)
    np.testing.assert_allclose(seen, observation + 0.4)
    np.testing.assert_allclose(reward, -0.4 - 0.05 * 0.16, rtol=1e-6)
    np.testing.assert_allclose(after.metrics["velocity"], 0.4)
    assert done.dtype == bool
    assert not done
    again = environment.step(KEY, state, jnp.array([0.4]), -jnp.ones(()))[0]
    jax.tree.map(np.testing.assert_array_equal, again, after)


def test_brax_episodes_end() -> None:
    environment = mj.rl.from_brax(_Cart(), reward=_pay, sample_task=_sample_sign)
    policy = mj.rl.gaussian_policy(mj.models.mlp((1,), stddev=0.1))

    @jax.jit
    def act(key: jax.Array) -> mj.rl.Trajectories:
        params = policy.init(key, jnp.zeros((1, 1)))
        return mj.rl.roll_out(policy, environment, params, 1.0, key, horizon=6, rollouts=8)

    paths = jax.tree.map(np.asarray, act(KEY))
    places = paths.observations[..., 0] + paths.actions[..., 0]
    ended = places > 1
    assert ended.any()
    lengths = np.where(ended.any(axis=1), ended.argmax(axis=1) + 1, 6)
    np.testing.assert_array_equal(paths.mask.sum(axis=1), lengths)


def test_what_is_no_environment_of_brax() -> None:
    def make(environment: Any, backend: Any = None, reward: Any = _pay) -> mj.rl.Environment:
        return mj.rl.from_brax(
            environment, reward=reward, sample_task=_sample_sign, backend=backend
        )

    with pytest.raises(TypeError, match="environment is 3; expected a name such as 'halfcheetah'"):
        make(3)
    with pytest.raises(ValueError, match="backend='spring' beside an environment already made"):
        make(_Cart(), "spring")
    with pytest.raises(ValueError, match='backend=\'springs\'; expected "generalized", "pos'):
        make("halfcheetah", "springs")
    with pytest.raises(TypeError, match=r"reward has the parameters .*\(task, action, state\)"):
        make(_Cart(), reward=lambda action, state: 0.0)


def test_a_missing_library_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    said = 'needs {}, which cannot be imported .*pip install "metajax\\[rl\\]"'
    for library in ("gymnax", "brax"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=said.format("gymnax")):
        mj.rl.from_gymnax("CartPole-v1")
    with pytest.raises(ImportError, match=said.format("brax")):
        mj.rl.from_brax("halfcheetah", reward=_pay, sample_task=_sample_sign)


def _run(direction: jax.Array, action: jax.Array, state: Any) -> jax.Array:
    return direction * state.metrics["x_velocity"] - 0.05 * (action**2).sum()


@needs_brax
@pytest.mark.slow
def test_half_cheetah(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    environment = mj.rl.from_brax(
        "halfcheetah", reward=_run, sample_task=_sample_sign, backend="spring"
    )
    policy = mj.rl.gaussian_policy(mj.models.mlp((6,), stddev=0.1))
    mj.rl.PolicyGradient(policy, environment, horizon=3, rollouts=2)  # Looks whether they fit.
    params = policy.init(KEY, jnp.zeros((1, 17)))

    @jax.jit
    def roll_out(direction: jax.Array) -> mj.rl.Trajectories:
        return mj.rl.roll_out(policy, environment, params, direction, KEY, horizon=3, rollouts=2)

    forth, back = roll_out(jnp.ones(())), roll_out(-jnp.ones(()))
    np.testing.assert_array_equal(forth.observations, back.observations)
    cost = 0.05 * (forth.actions**2).sum(axis=-1)
    np.testing.assert_allclose(forth.rewards + cost, -(back.rewards + cost), rtol=1e-4, atol=1e-5)
    assert np.isfinite(forth.rewards).all()
    assert forth.mask.all()
    assert os.listdir(tmp_path) == []  # MuJoCo would write down what it warns of.
    assert capfd.readouterr() == ("", "")


@needs_brax
@pytest.mark.slow
def test_no_environment_of_that_name() -> None:
    with pytest.raises(ValueError, match="no environment 'cheetah'; expected one that brax"):
        mj.rl.from_brax("cheetah", reward=_run, sample_task=_sample_sign)
