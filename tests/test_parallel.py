"""Many devices: the result of one, one all-reduce a meta-step, and clear errors."""

import re
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

import metajax as mj
from metajax.keys import episode_keys
from metajax.training.feed import as_pytree
from metajax.training.program import dispatch_program

KEY = jax.random.key(3)
OPTIMIZER = optax.adam(1e-2)
SAMPLE = mj.data.sinusoid_episodes(shots=5, queries=5)
MODEL = mj.models.mlp((64, 64, 1), stddev=0.3)


def _learner(num_steps: int = 2) -> mj.Learner:
    return mj.maml(MODEL, inner=optax.sgd(0.01), num_steps=num_steps, loss_fn=mj.squared_error)


LEARNER = _learner()


def _state() -> mj.TrainState:
    params = MODEL.init(jax.random.key(0), jnp.zeros((1, 1)))
    return mj.init_state(params, OPTIMIZER, KEY)


def _episodes(tasks: int) -> mj.Episode:
    return jax.vmap(SAMPLE)(jax.random.split(KEY, tasks))


def _step(**options: object) -> Callable:
    return mj.train_step(LEARNER, OPTIMIZER, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"task_transform": optax.clip(10.0)},
        {"task_weight": lambda episode: episode.query.targets[0, 0] ** 2},
    ],
    ids=["mean", "clipped", "weighed"],
)
def test_each_device_has_its_own_tasks_and_one_all_reduce_a_step(options: dict) -> None:
    mesh = mj.parallel.task_mesh(jax.devices()[:4])
    step = _step(axis_name="tasks", **options)
    program = dispatch_program(step, _state(), SAMPLE, tasks=2, non_finite="stop", mesh=mesh)
    text = (
        program.lower(mj.parallel.place_state(_state(), mesh), as_pytree(SAMPLE), 3)
        .compile()
        .as_text()
    )
    assert len(re.findall(r" all-reduce\(", text)) == 1
    assert not re.findall(r" (all-gather|all-to-all|collective-permute)\(", text)


@pytest.mark.parametrize("devices", [2, 4])
def test_the_parameters_can_be_cut_over_a_second_axis(devices: int) -> None:
    mesh = mj.parallel.task_mesh(jax.devices()[:devices], model=2)
    result = mj.train(
        LEARNER,
        OPTIMIZER,
        _state(),
        SAMPLE,
        iterations=2,
        meta_batch=4,
        mesh=mesh,
        progress=False,
    )
    for tree in (result.state.params, result.state.opt_state[0].mu):
        kernel = tree["Dense_1"]["kernel"]
        assert kernel.sharding.spec == PartitionSpec("model")
        assert {shard.data.shape for shard in kernel.addressable_shards} == {(32, 64)}
        assert tree["Dense_0"]["bias"].sharding.spec == PartitionSpec()
    alone = mj.train(
        LEARNER, OPTIMIZER, _state(), SAMPLE, iterations=2, meta_batch=4, progress=False
    )
    chex.assert_trees_all_close(
        mj.parallel.to_host(result.state.params), alone.state.params, rtol=1e-4, atol=1e-6
    )


def test_a_placed_state_goes_on_where_it_lies() -> None:
    mesh = mj.parallel.task_mesh(jax.devices()[:2])
    step = mj.parallel.mesh_step(_step(axis_name="tasks"), mesh)
    state = mj.parallel.place_state(_state(), mesh)
    for _ in range(2):
        state, metrics = step(state, mj.parallel.place_episodes(_episodes(4), mesh))
    assert int(state.step) == 2
    assert metrics["loss"].sharding.is_fully_replicated
    chex.assert_trees_all_equal(
        jax.tree.map(lambda x: x.sharding, state), mj.parallel.state_shardings(state, mesh)
    )


def test_scores_do_not_depend_on_where_the_parameters_lie() -> None:
    mesh = mj.parallel.task_mesh(jax.devices()[:4], model=2)
    placed = mj.parallel.place_state(_state(), mesh).params
    scores = [
        mj.evaluate(LEARNER, params, SAMPLE, episodes=4).mean("query_loss")
        for params in (_state().params, placed, mj.parallel.to_host(placed))
    ]
    np.testing.assert_allclose(scores, scores[0], rtol=1e-5)


@pytest.mark.exact
def test_one_process_has_all_tasks() -> None:
    mesh = mj.parallel.task_mesh(jax.devices()[:4], model=2)
    assert mj.parallel.process_tasks(6, mesh) == range(6)
    drawn = jax.vmap(SAMPLE)(episode_keys(_state().key, 0, 6))
    placed = mj.parallel.place_episodes(drawn, mesh)
    assert placed.support.inputs.sharding.spec == PartitionSpec("tasks")
    chex.assert_trees_all_equal(jax.device_get(placed), jax.device_get(drawn))


@pytest.mark.parametrize("name", ["pmap_step", "mesh_step", "place", "process_tasks", "train"])
def test_a_meta_batch_that_the_devices_do_not_divide(name: str) -> None:
    devices = jax.devices()[:4]
    mesh = mj.parallel.task_mesh(devices)
    step, episodes = _step(axis_name="tasks"), _episodes(6)
    options = {"iterations": 1, "meta_batch": 6, "mesh": mesh}
    call: Callable = {
        "pmap_step": lambda: mj.parallel.pmap_step(step, devices=devices)(_state(), episodes),
        "mesh_step": lambda: mj.parallel.mesh_step(step, mesh)(_state(), episodes),
        "place": lambda: mj.parallel.place_episodes(episodes, mesh),
        "process_tasks": lambda: mj.parallel.process_tasks(6, mesh),
        "train": lambda: mj.train(LEARNER, OPTIMIZER, _state(), SAMPLE, **options),
    }[name]
    with pytest.raises(ValueError, match=r"6 tasks cannot be cut over 4 .* of 4, such as 8"):
        call()


@pytest.mark.parametrize("helper", ["pmap", "mesh"])
def test_a_step_that_does_not_average_is_refused(helper: str) -> None:
    devices = jax.devices()[:2]
    if helper == "pmap":
        step = mj.parallel.pmap_step(_step(), devices=devices)
    else:
        step = mj.parallel.mesh_step(_step(), mj.parallel.task_mesh(devices))
    with pytest.raises(ValueError, match=r"does not average over the axis 'tasks'.*axis_name="):
        step(_state(), _episodes(2))


@pytest.mark.parametrize("model", [3, 8])
def test_a_mesh_needs_a_divisor(model: int) -> None:
    with pytest.raises(ValueError, match=f"model={model} with 4 devices; expected a divisor"):
        mj.parallel.task_mesh(jax.devices()[:4], model=model)


def test_the_check_of_shard_map_is_refused_where_it_would_sum_gradients() -> None:
    mesh = mj.parallel.task_mesh(jax.devices()[:2])
    spec, whole = PartitionSpec("tasks"), PartitionSpec()

    def loss(params: dict, episodes: mj.Episode, learner: mj.Learner) -> jax.Array:
        return learner.loss(params, jax.tree.map(lambda x: x[0], episodes))[0][None]

    def over_devices(learner: mj.Learner, **options: bool) -> jax.Array:
        part = jax.shard_map(
            lambda params, episodes: loss(params, episodes, learner),
            mesh=mesh,
            in_specs=(whole, spec),
            out_specs=spec,
            **options,
        )
        return jax.jit(part)(_state().params, _episodes(2))

    message = r"the data differ along the axis 'tasks' .* expected jax.shard_map\(..., check_vma"
    with pytest.raises(ValueError, match=message):
        over_devices(LEARNER)
    step = jax.shard_map(
        _step(axis_name="tasks"), mesh=mesh, in_specs=(whole, spec), out_specs=whole
    )
    with pytest.raises(ValueError, match=message):
        step(_state(), _episodes(2))
    expected = [
        float(
            loss(_state().params, jax.tree.map(lambda x, i=i: x[i : i + 1], _episodes(2)), LEARNER)[
                0
            ]
        )
        for i in range(2)
    ]
    np.testing.assert_allclose(over_devices(LEARNER, check_vma=False), expected, rtol=1e-5)


def test_a_mesh_needs_an_axis_of_tasks() -> None:
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("x",))
    for call in (
        lambda: mj.parallel.process_tasks(4, mesh),
        lambda: mj.parallel.place_episodes(_episodes(4), mesh),
        lambda: mj.parallel.mesh_step(_step(axis_name="tasks"), mesh)(_state(), _episodes(4)),
        lambda: mj.train(
            LEARNER, OPTIMIZER, _state(), SAMPLE, iterations=1, meta_batch=4, mesh=mesh
        ),
    ):
        with pytest.raises(ValueError, match=r"axes \('x',\); expected one called 'tasks'"):
            call()


def test_several_processes_need_a_mesh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match=r"2 processes and no mesh.*metajax.parallel.task_mesh"):
        mj.train(LEARNER, OPTIMIZER, _state(), SAMPLE, iterations=1, meta_batch=4)


def test_python_numbers_can_be_placed() -> None:
    state = mj.TrainState({"scale": 1.5}, (), np.int32(0), KEY)
    placed = mj.parallel.place_state(state, mj.parallel.task_mesh(jax.devices()[:4], model=2))
    assert placed.params["scale"].sharding.is_fully_replicated


def test_anything_comes_to_the_host() -> None:
    tree = {"numpy": np.ones(2), "key": KEY, "number": 1.5, "array": jnp.arange(3)}
    host = mj.parallel.to_host(tree)
    assert {type(leaf) for leaf in jax.tree.leaves(host)} == {np.ndarray}
    np.testing.assert_array_equal(host["key"], jax.random.key_data(KEY))


def test_starting_processes_needs_all_arguments_or_a_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ValueError, match=r"processes is not given; expected all of coordinator, "):
        mj.parallel.start_processes("localhost:1234", process=0)
    with pytest.raises(ValueError, match=r"process=2 of 2; expected 0 to 1"):
        mj.parallel.start_processes("localhost:1234", 2, 2)
    with pytest.raises(ValueError, match=r"coordinator='node1'; expected host:port"):
        mj.parallel.start_processes("node1", 2, 0)
    # As before anything was computed: the test run has computed long ago.
    monkeypatch.setattr("jax._src.xla_bridge.backends_are_initialized", lambda: False)
    with pytest.raises(ValueError, match=r"no cluster was found .* start_processes\(coordinator="):
        mj.parallel.start_processes()
