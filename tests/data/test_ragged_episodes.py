"""Episodes of unequal size, padded: the same means, few programs, and what cannot be padded."""

import pickle
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj

WAYS, FEATURES = 3, 4
SGD = optax.sgd(0.1)
pad = mj.data.pad_episodes


def examples(seed: int, items: int, weighted: bool = False) -> mj.Examples:
    """Labels 0, 1, 2, 0, ... of vectors."""
    drawn = np.random.default_rng(seed)
    labels = np.arange(items) % WAYS
    weights = drawn.uniform(0.5, 2, items) if weighted else None
    return mj.Examples(drawn.normal(size=(items, FEATURES)), labels, weights)  # type: ignore[arg-type]


# The first of 5 support items and 3 queries, the last with weights of its own, one of them 0.
RAGGED = [
    mj.Episode(examples(0, 5), examples(1, 3)),
    mj.Episode(examples(2, 3), examples(3, 6)),
    mj.Episode(examples(4, 4, weighted=True), examples(5, 4, weighted=True)),
]
RAGGED[2].query.weights[3] = 0  # type: ignore[index]


def linear(width: int) -> mj.Model:
    def init(key: jax.Array, inputs: jax.Array) -> jax.Array:
        return jax.random.normal(key, (inputs.shape[-1], width))

    return mj.Model(init, lambda params, inputs: jnp.tanh(inputs @ params))


def relation() -> mj.Learner:
    scores = mj.Model(
        lambda key, pairs: jax.random.normal(key, (pairs.shape[-1], 1)),
        lambda params, pairs: jax.nn.sigmoid(pairs @ params),
    )
    return mj.relation_network(linear(2), scores)


LEARNERS: dict[str, Callable[[], mj.Learner]] = {
    "maml": lambda: mj.maml(linear(WAYS), inner=SGD, num_steps=2),
    "prototypical": lambda: mj.prototypical_network(linear(2)),
    "reptile": lambda: mj.reptile(linear(WAYS), inner=SGD, num_steps=2),
    "proto_maml": lambda: mj.proto_maml(linear(2), inner=SGD, num_steps=2),
    "matching": lambda: mj.matching_network(linear(2), ways=WAYS),
    "relation": relation,
}


def slow_but(*fast: str) -> list[Any]:
    return [pytest.param(name, marks=[] if name in fast else pytest.mark.slow) for name in LEARNERS]


def check_means(name: str, tolerance: float) -> None:
    learner = LEARNERS[name]()
    params = learner.init(jax.random.key(0), jnp.zeros((1, FEATURES)))
    keys = jax.random.split(jax.random.key(1), len(RAGGED))

    @jax.jit
    def mean(params: Any, episodes: Any) -> Any:
        return mj.meta_gradient(learner.loss, params, episodes, keys)

    @jax.jit
    def single(params: Any, episode: Any, key: jax.Array) -> Any:
        (loss, aux), gradient = jax.value_and_grad(learner.loss, has_aux=True)(params, episode, key)
        return gradient, (loss, dict(aux.metrics))

    ours = mean(params, pad(RAGGED))
    each = [single(params, episode, key) for episode, key in zip(RAGGED, keys, strict=True)]
    theirs = jax.tree.map(lambda *x: sum(x) / len(x), *each)
    chex.assert_trees_all_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", slow_but("maml", "prototypical"))
@pytest.mark.usefixtures("float64")
def test_the_mean_is_that_of_the_episodes_one_by_one(name: str) -> None:
    check_means(name, 1e-12)


@pytest.mark.parametrize("name", slow_but())
def test_in_float32_too(name: str) -> None:
    check_means(name, 1e-6)


def test_what_comes_out() -> None:
    support, query = pad(RAGGED)
    assert {type(leaf) for leaf in jax.tree.leaves((support, query))} == {np.ndarray}
    assert (support.inputs.dtype, support.targets.dtype) == (np.float32, np.int32)
    assert support.inputs.shape == (3, 8, FEATURES)
    for filled, given in zip(support.inputs, RAGGED, strict=True):
        count = len(given.support.targets)
        np.testing.assert_array_equal(filled[:count], given.support.inputs.astype(np.float32))
        assert not filled[count:].any()
    ones, own = (support.weights[index] for index in (0, 2))  # type: ignore[index]
    np.testing.assert_array_equal(ones, [1, 1, 1, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(own[:4], RAGGED[2].support.weights.astype(np.float32))  # type: ignore[union-attr]
    assert pad(RAGGED[1:2]).support.weights.tolist() == [[1, 1, 1, 0]]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("given", "items"),
    [(None, 8), (5, 5), (7, 7), ((4, 16, 6), 6), ([5], 5), (range(1, 10), 5), (np.int64(6), 6)],
)
def test_how_many_items(given: Any, items: int) -> None:
    support, query = pad(RAGGED, support=given)
    assert jax.tree.map(np.shape, (support.targets, query.targets)) == ((3, items), (3, 8))


class Tensor:
    """An array of another library."""

    def __init__(self, values: Any) -> None:
        self._values = np.asarray(values, np.float64)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self._values


def test_pytrees_lists_and_other_libraries_arrays() -> None:
    def tree(items: int, ids: Callable[[list], Any], sizes: Callable[[list], Any]) -> Any:
        inputs = {"ids": ids([[i, 2] for i in range(items)]), "seen": np.ones(items, bool)}
        return inputs, {"label": list(range(items)), "size": sizes([0.5] * items)}

    first = (tree(2, list, Tensor), tree(1, list, Tensor))
    second = (tree(3, np.array, list), tree(1, np.array, np.array))
    support, query = pad(iter([first, second]))
    first_ids, second_ids = support.inputs["ids"].tolist()
    assert first_ids == [[0, 2], [1, 2], [0, 0], [0, 0]]
    assert second_ids == [[0, 2], [1, 2], [2, 2], [0, 0]]
    dtypes = [leaf.dtype for leaf in jax.tree.leaves((support.inputs, support.targets))]
    assert dtypes == [np.int32, bool, np.int32, np.float32]
    assert query.targets["size"].tolist() == [[0.5], [0.5]]


def test_kinds_of_one_number_are_joined() -> None:
    narrow = jax.tree.map(lambda x: x.astype(np.float16 if x.dtype == float else "u1"), RAGGED[0])
    support, _ = pad([narrow, RAGGED[1]])
    assert (support.inputs.dtype, support.targets.dtype) == (np.float32, np.int32)


def test_few_programs() -> None:
    traces = []

    @jax.jit
    def step(episodes: mj.Episode) -> jax.Array:
        traces.append(episodes.support.inputs.shape)
        return episodes.support.inputs.sum()

    for size in range(1, 17):
        one = mj.Episode(examples(0, size), examples(1, 3))
        step(pad([RAGGED[0], one], support=(8, 16)))
    assert traces == [(2, 8, FEATURES), (2, 16, FEATURES)]


def test_it_goes_to_a_worker_process() -> None:
    assert pickle.loads(pickle.dumps(pad)) is pad


GOOD = RAGGED[0]
ROOM = r"episode 1 has 6 query items but query=.*; expected room for all: query=6 or more, or None"


def changed(**changes: Any) -> mj.Episode:
    return GOOD._replace(support=GOOD.support._replace(**changes))


@pytest.mark.parametrize(
    ("episodes", "options", "error", "message"),
    [
        ([], {}, ValueError, r"there are no episodes; expected at least one"),
        (GOOD, {}, TypeError, r"episodes is one Episode; expected several of them: \[episode\]"),
        ([GOOD, 3], {}, TypeError, r"episode 1 is a int; expected metajax.Episode"),
        (
            [GOOD, changed(targets=[0, 1])],
            {},
            ValueError,
            r"episode 1: support has 5 inputs but targets of shape \(2,\); expected one target",
        ),
        (
            [GOOD, ((np.ones((0, 4)), []), GOOD.query)],
            {},
            ValueError,
            r"episode 1: support inputs have shape \(0, 4\); expected \[items, ...\], items > 0",
        ),
        (
            [GOOD, changed(inputs=np.ones((5, 2)))],
            {},
            ValueError,
            r"episode 1: support items have shape \(2,\) but query items \(4,\)",
        ),
        (
            [GOOD, [(np.ones((2, 3)), [0, 1])] * 2],
            {},
            ValueError,
            r"episode 1: support has inputs floats \[items, 3\], and that of episode 0 "
            r"floats \[items, 4\]; expected items of one structure, shape and kind",
        ),
        (
            [GOOD, changed(targets=np.ones(5))],
            {},
            ValueError,
            r"support has targets floats \[items\], and that of episode 0 integers \[items\]",
        ),
        (
            [GOOD, GOOD._replace(query=(np.ones((2, 4)), np.ones((2, 1), int)))],
            {},
            ValueError,
            r"query has targets integers \[items, 1\], and that of episode 0 integers \[items\]",
        ),
        (
            [GOOD, [({"a": np.ones((2, 4))}, [0, 1])] * 2],
            {},
            ValueError,
            r"episode 1: support has inputs nothing, and that of episode 0 floats \[items, 4\]",
        ),
        (
            [GOOD, changed(weights=[1, 1, 1, 1, -1])],
            {},
            ValueError,
            r"episode 1: support weights hold -1; expected finite numbers of 0 or more",
        ),
        (
            [changed(weights=[0] * 5)],
            {},
            ValueError,
            "support weights are all 0, so that nothing",
        ),
        (RAGGED, {"query": 5}, ValueError, ROOM),
        (RAGGED, {"query": (2, 4)}, ValueError, ROOM),
        (RAGGED, {"query": ()}, ValueError, ROOM),
        (RAGGED, {"support": 8.0}, TypeError, r"support=8.0; expected an integer of 1 or more"),
        (RAGGED, {"support": (8, 0)}, ValueError, r"support=0; expected an integer of 1 or more"),
    ],
)
def test_what_cannot_be_padded(episodes: Any, options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        pad(episodes, **options)
