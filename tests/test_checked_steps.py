"""A user's own step in `train`: the same run as the learner's, and clear errors."""

import functools
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import metajax as mj
from metajax.keys import episode_keys

KEY = jax.random.key(3)
OPTIMIZER = optax.adam(1e-2)
SAMPLE = mj.data.sinusoid_episodes(shots=2, queries=2)


def _loss(params: dict, episode: mj.Episode, key: jax.Array) -> tuple[jax.Array, mj.Aux]:
    del key
    value = ((params["w"] * episode.query.inputs - episode.query.targets) ** 2).mean()
    return value, mj.Aux(None, {"query_loss": value})


LEARNER = mj.Learner(_loss, _loss, _loss, _loss)  # type: ignore[arg-type]
STATE = mj.init_state({"w": jnp.ones((1, 1))}, OPTIMIZER, KEY)


def _mesh() -> jax.sharding.Mesh:
    return mj.parallel.task_mesh(jax.devices()[:2])


def _train(
    learner: object, optimizer: object = None, *, sample: Callable = SAMPLE, **options: object
) -> mj.TrainResult:
    options = {"iterations": 4, "meta_batch": 4, "dispatch": 2, "progress": False, **options}
    return mj.train(learner, optimizer, STATE, sample, **options)


@pytest.mark.exact
@pytest.mark.parametrize("devices", [1, 2])
def test_the_librarys_step_is_the_learners_run(devices: int) -> None:
    mesh, axis_name = (None, None) if devices == 1 else (_mesh(), "tasks")
    step = mj.train_step(LEARNER, OPTIMIZER, axis_name=axis_name)
    own = _train(jax.jit(step), mesh=mesh)
    learners = _train(LEARNER, OPTIMIZER, mesh=mesh)
    chex.assert_trees_all_equal(mj.parallel.to_host(own.state), mj.parallel.to_host(learners.state))
    assert [record["loss"] for record in own.history] == [
        record["loss"] for record in learners.history
    ]


def test_tasks_are_weighed_by_their_queries_on_every_device() -> None:
    """Of the first device's two tasks none counts."""

    def weigh(episode: mj.Episode) -> jax.Array:
        return episode.query.weights.sum()

    episodes = jax.vmap(SAMPLE)(episode_keys(KEY, 0, 4))
    weights = jnp.array([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    spoilt = episodes.query.targets.at[0].set(jnp.nan)
    query = mj.Examples(episodes.query.inputs, spoilt, weights)
    episodes = episodes._replace(query=query)
    options = {"task_weight": weigh, "task_transform": optax.clip(0.5)}
    alone, metrics = mj.train_step(LEARNER, OPTIMIZER, **options)(STATE, episodes)
    step = mj.parallel.mesh_step(
        mj.train_step(LEARNER, OPTIMIZER, axis_name="tasks", **options), _mesh()
    )
    chex.assert_trees_all_close(step(STATE, episodes)[1], metrics, rtol=1e-5)
    losses = [
        _loss(STATE.params, jax.tree.map(lambda x, i=i: x[i], episodes), KEY)[0] for i in (2, 3)
    ]
    assert float(metrics["loss"]) == pytest.approx(float(2 * losses[0] + losses[1]) / 3, rel=1e-5)
    assert jnp.isfinite(alone.params["w"]).all()


def _own(state: mj.TrainState, episodes: mj.Episode, *, axis_name: str | None = None) -> tuple:
    """Gradient descent written out: no count of the steps, no norm."""

    def mean_loss(params: dict) -> jax.Array:
        return jax.vmap(lambda episode: _loss(params, episode, KEY)[0])(episodes).mean()

    loss, gradient = jax.value_and_grad(mean_loss)(state.params)
    if axis_name is not None:
        loss, gradient = jax.lax.cond(  # Seen inside of other programs.
            True, lambda mean: jax.lax.pmean(mean, axis_name), lambda mean: mean, (loss, gradient)
        )
    params = jax.tree.map(lambda x, slope: x - 0.1 * slope, state.params, gradient)
    return state._replace(params=params), {"loss": loss}


@pytest.mark.parametrize("non_finite", ["stop", "skip"])
def test_a_step_written_out(non_finite: str) -> None:
    result = _train(_own, non_finite=non_finite)
    assert int(result.state.step) == 4
    assert set(result.history[0]) == {"step", "seconds", "tasks_per_second", "loss"}
    state = STATE
    for step in range(4):
        state, _ = _own(state, jax.vmap(SAMPLE)(episode_keys(KEY, step, 4)))
    chex.assert_trees_all_close(result.state.params, state.params, rtol=1e-5)
    over_devices = _train(
        functools.partial(_own, axis_name="tasks"), non_finite=non_finite, mesh=_mesh()
    )
    chex.assert_trees_all_close(
        mj.parallel.to_host(over_devices.state.params), state.params, rtol=1e-5
    )


def test_a_loss_that_is_not_finite_stops_a_step_without_a_norm() -> None:
    def step(state: mj.TrainState, episodes: mj.Episode) -> tuple[mj.TrainState, dict]:
        state, _ = _own(state, episodes)
        return state, {"loss": jnp.where(state.step == 2, jnp.nan, 1.0)}

    with pytest.warns(RuntimeWarning, match="not finite at step 2"):
        assert _train(step).stopped == "non-finite"


def _returning(change: Callable) -> Callable:
    return lambda state, episodes: change(*_own(state, episodes))


def _only_index(state: mj.TrainState, episodes: mj.Episode) -> tuple:
    """It knows which device it is on, and exchanges nothing."""
    loss = jax.lax.axis_index("tasks").astype(jnp.float32)
    return _own(state, episodes)[0], {"loss": loss}


def _misspelt(state: mj.TrainState, episodes: mj.Episode) -> tuple:
    raise NameError("name 'epsiodes' is not defined")


@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        (3, TypeError, r"learner is 3; expected a metajax.Learner, or a step \(state, epi"),
        (_returning(lambda state, _: state.params), TypeError, r"returned a dict; expected a pair"),
        (
            _returning(lambda state, metrics: (state.params, metrics)),
            TypeError,
            r"returned a dict as its state; expected a metajax.TrainState",
        ),
        (
            _returning(lambda state, _: (state, jnp.ones(()))),
            TypeError,
            r"the step returned an array as its metrics; expected a mapping",
        ),
        (
            _returning(lambda state, metrics: (state, {"error": metrics["loss"]})),
            ValueError,
            r"metrics are \['error'\]; expected the meta-loss among them, as 'loss'",
        ),
        (
            _returning(lambda state, _: (state, {"loss": jnp.ones(2)})),
            ValueError,
            r"the step's metric 'loss' has shape \(2,\); expected a scalar",
        ),
        (
            _returning(lambda state, rest: (state, {**rest, "grad_norm": jnp.ones(2)})),
            ValueError,
            r"the step's metric 'grad_norm' has shape \(2,\)",
        ),
        (
            _returning(lambda state, rest: (state, {**rest, "step": state.step, "finite": True})),
            ValueError,
            r"metrics has the names \['finite', 'step'\], which the library reports itself",
        ),
        (
            _returning(lambda state, rest: (state._replace(params={"w": jnp.ones(2)}), rest)),
            ValueError,
            r"given state.params\['w'\] as float32\[1,1\] and returned float32\[2\]; expected",
        ),
        (
            _returning(
                lambda state, rest: (state._replace(step=state.step.astype(jnp.float32)), rest)
            ),
            ValueError,
            r"given state.step as int32\[\] and returned float32\[\]",
        ),
        (
            _returning(lambda state, rest: (state._replace(key=None), rest)),
            ValueError,
            r"given state.key as key<fry>\[\] and returned nothing",
        ),
        (
            _returning(lambda state, rest: (state._replace(opt_state=state.opt_state[:1]), rest)),
            ValueError,
            r"given a state of the structure .* and returned .*; expected the same",
        ),
        (
            functools.partial(_own, axis_name="tasks"),
            ValueError,
            r"averages over devices, and there is no mesh .*; expected mesh=metajax.parallel",
        ),
        (_misspelt, NameError, r"^name 'epsiodes' is not defined"),
    ],
)
def test_a_step_that_cannot_be_one_of_train(step: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        _train(step)


@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        (_own, ValueError, r"not average over the axis 'tasks', so .*; expected train_step\(..., "),
        (_only_index, ValueError, r"not average .* by jax.lax.pmean\(..., 'tasks'\)$"),
        (
            functools.partial(_own, axis_name="devices"),
            ValueError,
            r"uses an axis that is not there .*devices.*; expected .*axis_name='tasks'",
        ),
        (_misspelt, NameError, r"^name 'epsiodes' is not defined"),
    ],
)
def test_a_step_that_leaves_devices_to_themselves(
    step: Callable, error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        _train(step, mesh=_mesh())


def test_what_goes_with_a_step_and_with_a_learner() -> None:
    with pytest.raises(TypeError, match=r"optimizer is None beside a learner; expected an optax"):
        _train(LEARNER)
    with pytest.raises(ValueError, match=r"an optimizer beside a step, .*; expected None: train"):
        _train(_own, OPTIMIZER)
    with pytest.raises(ValueError, match=r"chunk_size=2 beside a step, .*train_step\(..., chunk_s"):
        _train(_own, chunk_size=2)


def test_what_weighs_a_task() -> None:
    with pytest.raises(TypeError, match=r"task_weight is 1.0; expected a function, or None"):
        mj.train_step(LEARNER, OPTIMIZER, task_weight=1.0)  # type: ignore[arg-type]
    step = mj.train_step(LEARNER, OPTIMIZER, task_weight=lambda episode: episode.query.targets)
    with pytest.raises(ValueError, match=r"the task_weight of an episode has shape \(2, 1\); exp"):
        step(STATE, jax.vmap(SAMPLE)(jax.random.split(KEY, 4)))
