"""Iterators and iterables of episodes in `train` and `evaluate`: the tasks they yield, resumed."""

import functools
import itertools
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj

OPTIMIZER = optax.adam(1e-2)
LEARNER = mj.maml(
    mj.models.mlp((8, 1), stddev=0.3),
    inner=optax.sgd(0.01),
    num_steps=1,
    loss_fn=mj.squared_error,
)
TASKS = 4


def tasks(seed: int, most: int | None = None, *, items: Callable[[Any], int] = lambda _: 5) -> Any:
    rng = np.random.default_rng(seed)
    made = 0
    while most is None or made < most:
        made += 1
        sets = []
        phase = rng.uniform(0, np.pi)
        for more in range(2):
            x = rng.uniform(-5, 5, (items(rng) + more, 1))
            sets.append((x, np.sin(x + phase)))
        yield tuple(sets)


def batches(seed: int, size: int) -> Iterator[Any]:
    each = tasks(seed)
    while True:
        yield jax.tree.map(lambda *x: np.stack(x), *(next(each) for _ in range(size)))


def start() -> mj.TrainState:
    params = LEARNER.init(jax.random.key(0), jnp.zeros((1, 1)))
    return mj.init_state(params, OPTIMIZER, jax.random.key(3))


def train(sample: Any, iterations: int = 8, state: Any = None, **options: Any) -> mj.TrainResult:
    options = {"meta_batch": TASKS, "dispatch": 4, "progress": False, **options}
    given = start() if state is None else state
    return mj.train(LEARNER, OPTIMIZER, given, sample, iterations=iterations, **options)


@functools.cache
def by_hand() -> mj.TrainState:
    """Eight meta-steps on the tasks of `tasks(0)`, one after another."""
    step, state, each = jax.jit(mj.train_step(LEARNER, OPTIMIZER)), start(), tasks(0)
    for _ in range(8):
        state, _ = step(state, mj.data.pad_episodes([next(each) for _ in range(TASKS)], support=5))
    return state


class Reused:
    """An iterator that fills one pair of arrays again and again."""

    def __init__(self) -> None:
        self._tasks = tasks(0)
        self._arrays = jax.tree.map(np.zeros_like, next(tasks(0)))

    def __iter__(self) -> "Reused":
        return self

    def __next__(self) -> Any:
        jax.tree.map(np.copyto, self._arrays, next(self._tasks))
        return self._arrays


class Indexed:
    """As data sets of PyTorch and Grain are: a length, and items by number."""

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> Any:
        return _LISTED[index]


_LISTED = list(tasks(0, 32))
SOURCES = {
    "a generator": lambda: tasks(0),
    "a list": lambda: _LISTED,
    "an iterator that uses its arrays again": Reused,
    "what has a length and items": Indexed,
    "meta-batches of the same size": lambda: batches(0, TASKS),
    "meta-batches of another": lambda: mj.data.from_iterable(batches(0, 3), batched=True),
    "rows of a table": lambda: mj.data.from_iterable(
        [{"sx": s[0], "sy": s[1], "q": q} for s, q in _LISTED],
        to_episode=lambda row: ((row["sx"], row["sy"]), row["q"]),
    ),
    "lists of numbers": lambda: jax.tree.map(np.ndarray.tolist, _LISTED),
    "JAX arrays": lambda: jax.tree.map(jnp.asarray, _LISTED),
    "padded": lambda: mj.data.from_iterable(tasks(0), pad=mj.data.pad_episodes),
}


def each_of(names: Any, *fast: str) -> Any:
    return pytest.mark.parametrize(
        "name",
        [pytest.param(name, marks=() if name in fast else pytest.mark.slow) for name in names],
    )


@each_of(SOURCES, "a generator", "meta-batches of another")
def test_training_takes_the_tasks_in_their_order(name: str) -> None:
    result = train(SOURCES[name]())
    assert result.stopped == "finished"
    chex.assert_trees_all_close(result.state.params, by_hand().params, rtol=1e-5, atol=1e-6)


def test_iterables_go_through_epochs_and_iterators_end() -> None:
    whole = train([*_LISTED, *_LISTED], 12).state.params
    chex.assert_trees_all_equal(train(_LISTED, 12).state.params, whole)
    ended = train(tasks(0, 30), 12)
    assert (ended.stopped, int(ended.state.step)) == ("exhausted", 7)
    chex.assert_trees_all_equal(ended.state.params, train(tasks(0), 7).state.params)


def test_padded_tasks_of_several_dtypes() -> None:
    as_given = zip(tasks(0, 32), [np.float16] * 16 + [np.float32] * 16, strict=True)
    mixed = ((x.astype(dtype), y) for (x, y), dtype in ((s, d) for (s, _), d in as_given))
    source = mj.data.from_iterable(((each, each) for each in mixed), pad=mj.data.pad_episodes)
    assert train(source).stopped == "finished"


def test_ragged_tasks_are_padded() -> None:
    ragged = lambda: tasks(0, 32, items=lambda rng: int(rng.integers(2, 9)))  # noqa: E731
    padded = mj.data.from_iterable(ragged(), pad=functools.partial(mj.data.pad_episodes, query=9))
    step, state, each = jax.jit(mj.train_step(LEARNER, OPTIMIZER)), start(), ragged()
    for _ in range(8):
        state, _ = step(state, mj.data.pad_episodes([next(each) for _ in range(TASKS)]))
    chex.assert_trees_all_close(train(padded).state.params, state.params, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"the episode \d has .* expected episodes of one size"):
        train(ragged())
    few = list(ragged())[:5]
    padded = mj.data.from_iterable(few, pad=mj.data.pad_episodes)
    scores = mj.evaluate(LEARNER, state.params, padded)
    alone = [LEARNER.loss(state.params, task)[0] for task in few]
    np.testing.assert_allclose(scores.scores["query_loss"], alone, rtol=1e-5)


class Telling:
    """An iterator that tells where it stands, as those of Grain do."""

    names = ("get_state", "set_state")

    def __init__(self) -> None:
        self.index = 0
        tell, put = self.names
        held = {"as": (b"\x00", None), "array": np.arange(2.0), "best": np.float32(-np.inf)}
        setattr(self, tell, lambda: {"index": np.int64(self.index), **held})
        setattr(self, put, self._put)

    def _put(self, state: Any) -> None:
        assert state["as"] == (b"\x00", None)
        assert (state["array"].tolist(), state["best"]) == ([0, 1], -np.inf)
        self.index = state["index"]

    def __iter__(self) -> "Telling":
        return self

    def __next__(self) -> Any:
        self.index += 1
        return _LISTED[(self.index - 1) % len(_LISTED)]


class TellingLoader(Telling):
    """An iterable that tells it, as loaders of PyTorch and data sets of Hugging Face do."""

    names = ("state_dict", "load_state_dict")
    __next__ = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        while True:
            self.index += 1
            yield _LISTED[(self.index - 1) % len(_LISTED)]


RESUMABLE = {
    "an iterator with get_state": Telling,
    "an iterable with state_dict": TellingLoader,
    "one that starts in the middle of a meta-batch": lambda: mj.data.from_iterable(
        Batched(), batched=True
    ),
    "a generator that is declared repeatable": lambda: mj.data.from_iterable(
        tasks(0), repeatable=True
    ),
    "a list": lambda: _LISTED,
}


class Batched(Telling):
    """Meta-batches of three, of which a dispatch of sixteen leaves the last in part."""

    def __next__(self) -> Any:
        each = [super(Batched, self).__next__() for _ in range(3)]
        return jax.tree.map(lambda *x: np.stack(x), *each)


@pytest.mark.exact
@each_of(RESUMABLE, "one that starts in the middle of a meta-batch")
def test_a_run_that_is_resumed_takes_the_tasks_that_come_next(name: str, tmp_path: Path) -> None:
    whole = train(RESUMABLE[name]())
    for iterations in (4, 8):
        with mj.Checkpoints(tmp_path, options={}) as checkpoints:
            state = checkpoints.restore(start())
            assert int(state.step) == iterations - 4
            made = RESUMABLE[name]()
            result = train(made, iterations, state, checkpoints=checkpoints)
    chex.assert_trees_all_equal(result.state.params, whole.state.params)


class Epoch(Telling):
    """A pass over sixteen episodes."""

    def __next__(self) -> Any:
        if self.index == 16:
            raise StopIteration
        return super().__next__()


class Epochs:
    """An iterable whose iterators tell where they stand, as data sets of Grain are."""

    def __iter__(self) -> Iterator[Any]:
        return Epoch()


@pytest.mark.exact
def test_a_run_that_is_resumed_at_the_end_of_an_epoch_begins_the_next(tmp_path: Path) -> None:
    whole = train(_LISTED[:16])
    for iterations in (4, 8):
        with mj.Checkpoints(tmp_path, options={}) as checkpoints:
            state = checkpoints.restore(start())
            result = train(Epochs(), iterations, state, checkpoints=checkpoints)
    assert result.stopped == "finished"
    chex.assert_trees_all_equal(result.state.params, whole.state.params)


@pytest.mark.exact
def test_a_run_goes_on_from_the_state_it_is_given(tmp_path: Path) -> None:
    source, whole = mj.data.from_iterable(Telling()), train(tasks(0, 32), 8)

    def fail(state: Any, record: Any) -> None:
        if record["step"] == 4:
            raise OSError("the network is gone")

    with (
        pytest.raises(OSError, match="the network is gone"),
        mj.Checkpoints(tmp_path, options={}) as checkpoints,
    ):
        train(source, 8, checkpoints=checkpoints, on_dispatch=fail)
    with mj.Checkpoints(tmp_path, options={}) as checkpoints:
        state = checkpoints.restore(start())
        result = train(source, 8, state, checkpoints=checkpoints)
    chex.assert_trees_all_equal(result.state.params, whole.state.params)
    with mj.Checkpoints(tmp_path / "one", options={}) as checkpoints:  # For both calls.
        half = train(_LISTED, 4, checkpoints=checkpoints)
        result = train(_LISTED, 8, half.state, checkpoints=checkpoints)
    chex.assert_trees_all_equal(result.state.params, whole.state.params)


def test_a_run_that_stops_within_a_dispatch_keeps_the_place_of_its_state(tmp_path: Path) -> None:
    source = Telling()
    bad = mj.data.from_iterable(source, to_episode=lambda task: broken(task, source.index))

    def broken(task: Any, index: int) -> Any:
        return jax.tree.map(lambda x: x * np.nan, task) if index == 23 else task

    with (
        pytest.warns(RuntimeWarning, match="not finite at step 5; stopped"),
        mj.Checkpoints(tmp_path, options={}) as checkpoints,
    ):
        train(bad, 8, checkpoints=checkpoints)
    with mj.Checkpoints(tmp_path, options={}) as checkpoints:
        assert int(checkpoints.restore(start()).step) == 5
        assert checkpoints.position["tasks"] == source.index == 20


def test_a_list_is_not_gone_through_again_when_a_run_stops() -> None:
    made = []
    source = mj.data.from_iterable(
        _LISTED, to_episode=lambda task: [*task, made.append(0)][:2], repeatable=True
    )
    half = train(source, 40, on_dispatch=lambda *_: True)
    assert (half.stopped, len(made) <= 33) == ("callback", True)
    chex.assert_trees_all_equal(
        train(source, 8, half.state).state.params, train(_LISTED).state.params
    )


def test_a_state_that_json_cannot_hold_is_said() -> None:
    source = Telling()
    source.get_state = lambda: {"index": object()}
    with pytest.warns(
        RuntimeWarning, match=r"holds a object; .* a run that is resumed cannot go on"
    ):
        assert train(source).stopped == "finished"


def test_a_state_that_no_record_can_hold_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metajax.iterator_states._LARGEST", 100)
    with (
        pytest.warns(RuntimeWarning, match=r"has \d+ characters; .* a run that is resumed cannot"),
        mj.Checkpoints(tmp_path, options={}) as checkpoints,
    ):
        assert train(Telling(), checkpoints=checkpoints).stopped == "finished"
    assert checkpoints.newest == 8


def test_what_cannot_be_resumed_is_said() -> None:
    half = train(tasks(0), 4).state
    with pytest.warns(RuntimeWarning, match=r"goes on at step 4, and its iterator cannot be set"):
        train(tasks(0), 8, half)


@pytest.mark.exact
@pytest.mark.slow
def test_one_source_over_two_calls_goes_on() -> None:
    source = mj.data.from_iterable(tasks(0))
    half = train(source, 4).state
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chex.assert_trees_all_equal(
            train(source, 8, half).state.params, train(tasks(0)).state.params
        )


def test_a_run_that_stops_early_leaves_the_source_where_it_trained() -> None:
    source, seen = Telling(), []

    def stop(state: Any, record: Any) -> bool:
        del state
        seen.append(record["step"])
        return True

    result = train(source, 40, on_dispatch=stop)
    assert (result.stopped, seen, source.index) == ("callback", [4], 16)


class Repeating:
    """Episodes without end."""

    def __init__(self, length: Callable[[], int]) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length()

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(itertools.cycle(_LISTED), 1000)


def _no_length() -> int:
    raise NotImplementedError


def test_evaluation_takes_each_once() -> None:
    params = start().params
    alone = np.array([float(LEARNER.loss(params, task)[0]) for task in _LISTED])
    for sample, number in ((_LISTED, 32), (tasks(0, 32), 32), (batches(0, 3), 32)):
        scores = mj.evaluate(
            LEARNER, params, sample, episodes=number if sample != _LISTED else None
        )
        assert scores.episodes == number
        np.testing.assert_allclose(scores.scores["query_loss"], alone, rtol=1e-5)
    assert mj.evaluate(LEARNER, params, tasks(0, 20)).episodes == 20
    for length in (lambda: sys.maxsize, _no_length):  # Of data that repeat, and without a length.
        assert mj.evaluate(LEARNER, params, Repeating(length)).episodes == 600
    with pytest.raises(ValueError, match="the iterator ended after 20 episodes; expected 40"):
        mj.evaluate(LEARNER, params, tasks(0, 20), episodes=40)
    with pytest.raises(ValueError, match="ended after 1 episodes; expected two or more"):
        mj.evaluate(LEARNER, params, tasks(0, 1))


@pytest.mark.slow
def test_a_step_of_ones_own_takes_them_too() -> None:
    step = mj.train_step(LEARNER, OPTIMIZER)
    for source in (tasks(0), batches(0, 3)):
        options = {"iterations": 8, "meta_batch": TASKS, "dispatch": 4, "progress": False}
        result = mj.train(step, None, start(), source, **options)
        chex.assert_trees_all_close(result.state.params, by_hand().params, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_devices_share_the_tasks() -> None:
    mesh = mj.parallel.task_mesh(jax.devices()[:2])
    result = train(tasks(0), mesh=mesh)
    params = jax.device_get(result.state.params)
    chex.assert_trees_all_close(params, jax.device_get(by_hand().params), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_runs_of_a_stack_share_the_tasks() -> None:
    def begin(key: jax.Array) -> mj.TrainState:
        return mj.init_state(LEARNER.init(key, jnp.zeros((1, 1))), OPTIMIZER, key)

    keys = jax.random.split(jax.random.key(5), 2)
    stack = train(tasks(0), state=jax.vmap(begin)(keys)).state
    for index, key in enumerate(keys):
        ours = jax.tree.map(lambda x, index=index: x[index], stack.params)
        alone = train(tasks(0), state=begin(key)).state.params
        chex.assert_trees_all_close(ours, alone, rtol=1e-4, atol=1e-5)
    scores = mj.evaluate(LEARNER, stack, tasks(1), episodes=20)
    assert scores.scores["query_loss"].shape == (2, 20)
    for index in range(2):
        params = jax.tree.map(lambda x, index=index: x[index], stack.params)
        alone = mj.evaluate(LEARNER, params, tasks(1), episodes=20)
        np.testing.assert_allclose(
            scores.scores["query_loss"][index], alone.scores["query_loss"], rtol=1e-4
        )


def test_an_error_of_the_source_is_its_own() -> None:
    def failing() -> Iterator[Any]:
        yield from tasks(0, 20)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        train(failing())


def test_episode_or_meta_batch() -> None:
    model = mj.Model(lambda key: jnp.ones(()), lambda params, x: params * x)
    learner = mj.maml(model, inner=optax.sgd(0.1), num_steps=1, loss_fn=mj.squared_error)
    alike = [(((x := np.ones((3, 5, 1))), x),) * 2] * 2
    with pytest.raises(ValueError, match=r"is an episode for this learner, and a meta-batch"):
        mj.evaluate(learner, jnp.ones(()), alike)
    given = mj.data.from_iterable(alike, batched=True)
    assert mj.evaluate(learner, jnp.ones(()), given, episodes=6).episodes == 6
    with pytest.raises(ValueError, match="squared_error got") as error:
        train(iter([((np.ones((5, 1)), np.ones((5, 2))),) * 2]))
    assert "As a meta-batch of episodes it does not fit, either" in error.value.__notes__[-1]


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (5, TypeError, r"the source is 5; expected an iterator or iterable of episodes"),
        ("data", TypeError, "the source is 'data'; expected"),
        ({"a": 1}, TypeError, "expected an iterator or iterable"),
        (
            tasks,
            TypeError,
            r"is the generator function tasks; expected the generator .*tasks\(...\)",
        ),
        ([], ValueError, "the iterator is at its end and yields no episode"),
        (
            functools.partial(tasks, 0),
            TypeError,
            r"is the generator function sample; expected the generator",
        ),
        (iter([]), ValueError, "the iterator is at its end and yields no episode"),
        ([1, 2], TypeError, "the first episode is a int; expected metajax.Episode"),
        (mj.Episode(*_LISTED[0]), TypeError, r"is one Episode; .*FixedEpisode\(episode\)"),
    ],
)
def test_what_is_no_source(source: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        train(source)


@pytest.mark.parametrize("argument", ["to_episode", "pad"])
def test_what_is_no_function(argument: str) -> None:
    with pytest.raises(TypeError, match=f"{argument} is 8; expected a function, or None"):
        mj.data.from_iterable([], **{argument: 8})


def test_samplers_that_do_not_follow_their_key() -> None:
    rng = np.random.default_rng(0)

    def drawn() -> mj.Episode:
        return mj.Episode(*(mj.Examples(x := rng.normal(size=(5, 1)), x) for _ in range(2)))

    fixed = drawn()
    for run in (train, lambda sample: mj.evaluate(LEARNER, start().params, sample)):
        with pytest.raises(ValueError, match=r"two episodes for one key.*an iterator of episodes"):
            run(lambda key: drawn())
        with pytest.raises(ValueError, match=r"one episode for 8 keys: it ignores its key"):
            run(lambda key: fixed)

    def on_host(key: jax.Array) -> mj.Episode:
        x = np.random.default_rng(np.asarray(jax.random.key_data(key))).normal(size=(5, 1))
        return mj.Episode(*(mj.Examples(x, x) for _ in range(2)))

    with pytest.raises(TypeError, match="cannot be compiled: it computes with the key on the host"):
        train(on_host)
    result = train(mj.data.FixedEpisode(fixed))
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    assert mj.evaluate(LEARNER, start().params, mj.data.FixedEpisode(fixed), episodes=3).interval(
        "query_loss"
    ) == pytest.approx(0)
