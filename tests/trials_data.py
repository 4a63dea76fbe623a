"""Data as people have them, and loops around them. Each trial checks what comes of it."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from trial_episodes import ITEMS, WAYS, padded, unpadded, vectors

import metajax as mj
from metajax.keys import episode_keys
from metajax.types import Array, Episode, Examples, Key, Params

RUN = jax.random.key(3)
OPTIMIZER = optax.adam(1e-2)


class DataTrial(NamedTuple):
    """Data or a loop of somebody's.

    Attributes:
      name: in the table of the documentation, as are `how` and `notes`.
      check: raises unless it works.
      how: how it gets in.
      notes: what else is to be known.
      fast: whether it is among the tests that run by default.
    """

    name: str
    check: Callable[[], None]
    how: str
    notes: str = ""
    fast: bool = False


def start(key: Key) -> Params:
    return {"left": jax.random.normal(key, (3, WAYS)), "right": jnp.ones((2, WAYS))}


def two_arrays(params: Params, inputs: dict[str, Array]) -> Array:
    return inputs["left"] @ params["left"] + inputs["right"] @ params["right"]


LEARNER = mj.maml(mj.Model(start, two_arrays), inner=optax.sgd(0.1), num_steps=1)
WORDS = np.random.default_rng(0).normal(size=(WAYS, 6, 2)).astype(np.float32)


def sample(key: Key) -> Episode:
    """Vectors, and a row of a table beside each: inputs are a dictionary."""
    chosen = jnp.asarray(WORDS)[:, 1]

    def beside(examples: Examples) -> Examples:
        inputs = {"left": examples.inputs, "right": chosen[examples.targets]}
        return examples._replace(inputs=inputs)

    support, query = vectors(key)
    return Episode(beside(support), beside(query))


def begun() -> mj.TrainState:
    return mj.init_state(start(jax.random.key(0)), OPTIMIZER, RUN)


def trained(source: Any = sample, state: mj.TrainState | None = None, **options: Any) -> Any:
    settings: dict[str, Any] = {"iterations": 4, "meta_batch": 2, "dispatch": 2, **options}
    given = begun() if state is None else state
    return mj.train(LEARNER, OPTIMIZER, given, source, progress=False, **settings).state


def same(ours: Any, theirs: Any) -> None:
    trees = [jax.device_get(tree.params) for tree in (ours, theirs)]
    chex.assert_trees_all_close(*trees, rtol=1e-5, atol=1e-6)


def linear() -> tuple[mj.Learner, Array, Episode]:
    model = mj.Model(lambda key: jnp.zeros((3, WAYS)), lambda params, x: x @ params)
    return mj.maml(model, inner=optax.sgd(0.1), num_steps=1), jnp.ones((3, WAYS)), vectors(RUN)


def tuples_and_lists() -> None:
    learner, params, (support, query) = linear()
    expected = learner.loss(params, Episode(support, query))[0]
    for convert in (np.asarray, lambda x: np.asarray(x).tolist()):
        sets = [(convert(x), convert(labels)) for x, labels, _ in (support, query)]
        np.testing.assert_allclose(learner.loss(params, tuple(sets))[0], expected, rtol=1e-6)
        outputs = learner.predict(params, learner.adapt(params, sets[0]), sets[1][0])
        assert outputs.shape == (ITEMS, WAYS)


def double_precision() -> None:
    learner, params, episode = linear()
    labels = np.tile(np.arange(WAYS), 2)
    wide = Episode(*(Examples(np.asarray(x, np.float64), labels) for x, _, _ in episode))
    loss = learner.loss(params, wide)[0]
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, learner.loss(params, episode)[0], rtol=1e-6)


def sampler_and_loop() -> None:
    step, state = jax.jit(mj.train_step(LEARNER, OPTIMIZER)), begun()
    for _ in range(4):
        episodes = jax.vmap(sample)(episode_keys(state.key, state.step, 2))
        state, _ = step(state, jax.tree.map(np.asarray, episodes))
    same(trained(), state)
    scores = mj.evaluate(LEARNER, state.params, sample, episodes=4, chunk_size=2)
    assert 0 <= scores.mean("accuracy") <= 1


def chunks_and_devices() -> None:
    mesh = mj.parallel.task_mesh(jax.devices()[:2])
    whole = trained()
    same(trained(chunk_size=1), whole)
    same(trained(mesh=mesh), whole)
    step = mj.parallel.mesh_step(mj.train_step(LEARNER, OPTIMIZER, axis_name="tasks"), mesh)
    state = mj.parallel.place_state(begun(), mesh)
    for index in range(4):
        episodes = jax.vmap(sample)(episode_keys(RUN, index, 2))
        state, _ = step(state, mj.parallel.place_episodes(episodes, mesh))
    same(state, whole)


class FromDisk:
    """`sample`, whose table is read on the host."""

    def fetch(self, keys: Key, indices: np.ndarray | None = None) -> dict[str, np.ndarray]:
        del indices
        return {"rows": np.broadcast_to(WORDS[:, 1], (*keys.shape, WAYS, 2)).copy()}

    def finish(self, key: Key, fetched: dict[str, Array]) -> Episode:
        return Episode(
            *(
                Examples({"left": x, "right": fetched["rows"][labels]}, labels)
                for x, labels, _ in vectors(key)
            )
        )

    def __call__(self, key: Key) -> Episode:
        return self.finish(key, jax.tree.map(lambda x: x[0], self.fetch(key[None])))


def read_ahead() -> None:
    state = trained(FromDisk())
    same(state, trained())
    scores = [
        mj.evaluate(LEARNER, state.params, source, episodes=3).mean("query_loss")
        for source in (FromDisk(), sample)
    ]
    np.testing.assert_allclose(*scores, rtol=1e-5)


def interrupted() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for iterations in (2, 4):
            with mj.Checkpoints(Path(folder) / "run", options={"a": 1}, every=2) as checkpoints:
                state = checkpoints.restore(begun())
                assert int(state.step) == iterations - 2
                state = trained(state=state, iterations=iterations, checkpoints=checkpoints)
    chex.assert_trees_all_equal(state.params, trained().params)


def padding() -> None:
    episode = sample(RUN)
    params = start(jax.random.key(1))
    with_junk = padded(episode)
    loss = jax.jit(jax.value_and_grad(LEARNER.loss, has_aux=True))
    (ours, _), slope = loss(params, with_junk)
    (theirs, _), expected = loss(params, unpadded(with_junk))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    chex.assert_trees_all_close(slope, expected, rtol=1e-4, atol=1e-6)


def unequal_sizes() -> None:
    learner, params, (support, query) = linear()
    tasks = [
        ((support.inputs[:known], support.targets[:known]), (np.asarray(query.inputs), asked))
        for known, asked in ((ITEMS, [0, 1, 2, 0, 1, 2]), (4, np.array([2, 2, 2, 0, 0, 1])))
    ]
    keys = jax.random.split(RUN, 2)
    episodes = mj.data.pad_episodes(tasks)
    assert episodes.support.inputs.shape[:2] == (2, 8)
    loss = mj.meta_gradient(learner.loss, params, episodes, keys)[1][0]
    alone = [learner.loss(params, task)[0] for task in tasks]
    np.testing.assert_allclose(loss, sum(alone) / 2, rtol=1e-6)


TRIALS = (
    DataTrial(
        "tuples, lists, NumPy arrays",
        tuples_and_lists,
        "`((x, y), (x, y))` for an `Episode`",
        fast=True,
    ),
    DataTrial("float64 arrays", double_precision, "as they are", "float32 unless x64 is on"),
    DataTrial(
        "a sampler of one's own",
        sampler_and_loop,
        "a function `key -> Episode`",
        "in `train`, `evaluate` and a loop by hand",
    ),
    DataTrial(
        "chunks and devices",
        chunks_and_devices,
        "`chunk_size=`, `mesh=`, `mesh_step`",
        "the same parameters",
    ),
    DataTrial(
        "data on the host", read_ahead, "`fetch` and `finish`", "read ahead, in `train`, `evaluate`"
    ),
    DataTrial("a run that is cut", interrupted, "`Checkpoints`", "goes on bit for bit"),
    DataTrial(
        "episodes of several sizes",
        padding,
        "`Examples(inputs, targets, weights)`",
        "padding has weight 0, NaN may stand there",
    ),
    DataTrial(
        "a list of tasks of unequal size",
        unequal_sizes,
        "`metajax.data.pad_episodes`",
        "the same mean, few shapes",
        fast=True,
    ),
)
