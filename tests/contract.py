"""What every learner must do, as functions that raise AssertionError: `CHECKS`, by name.

Programs are compiled once a row and shared: most checks call a `Subject`'s functions on other
numbers of the same shapes.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
from learners import SIDE, WAYS, Row, episode

import metajax as mj
from metajax.keys import learner_keys

KEY, OTHER_KEY = jax.random.split(jax.random.key(7))
RATE = 1e-2
OPTIMIZER = optax.sgd(RATE)  # Adam would blow up the rounding of gradients that are zero.
STEPS = (0, 1, 2, 5)


class Subject(NamedTuple):
    """A row's learner, and the programs of it that several checks run.

    Attributes:
      row: the row.
      learner: of the row's number of steps.
      params: its parameters, in float32.
      value_and_grad: `(params, episode, key) -> ((meta-loss, Aux), meta-gradient)`.
      answer: `(params, support, key, inputs) -> outputs` by `adapt` and `predict`.
      step: a meta-step.
      traces: as many entries as `step` was traced.
    """

    row: Row
    learner: mj.Learner
    params: Any
    value_and_grad: Callable
    answer: Callable
    step: Callable
    traces: list[mj.TrainState]


class Check(NamedTuple):
    """A check of the contract.

    Attributes:
      run: raises AssertionError on a subject that fails.
      about: "algorithm", or "program" of what costs much and asks how it runs.
      float64: it runs in float64.
      exact: it asks for floats that are equal to the bit.
      of: whether it is asked of a row.
    """

    run: Callable[[Subject], None]
    about: str
    float64: bool
    exact: bool
    of: Callable[[Row], bool]

    def __call__(self, row: Row) -> None:
        subject = start(row)
        with jax.enable_x64(self.float64):
            self.run(subject)


CHECKS: dict[str, Check] = {}


def _check(
    about: str,
    *,
    float64: bool = True,
    exact: bool = False,
    of: Callable[[Row], bool] = lambda row: True,
) -> Callable:
    def register(run: Callable[[Subject], None]) -> Callable[[Subject], None]:
        CHECKS[run.__name__] = Check(run, about, float64, exact, of)
        return run

    return register


_algorithm = functools.partial(_check, "algorithm")
_program = functools.partial(_check, "program")


@functools.cache
def start(row: Row) -> Subject:
    learner = row.learner()
    step, traces = mj.train_step(learner, OPTIMIZER), []

    def counted(state: mj.TrainState, episodes: mj.Episode) -> tuple[mj.TrainState, dict]:
        traces.append(state)
        return step(state, episodes)

    def answer(params: Any, support: mj.Examples, key: jax.Array | None, inputs: Any) -> jax.Array:
        return learner.predict(params, learner.adapt(params, support, key), inputs)

    value_and_grad = jax.value_and_grad(learner.loss, has_aux=True)
    return Subject(
        row,
        learner,
        _init(learner),
        jax.jit(value_and_grad),
        jax.jit(answer),
        jax.jit(counted),
        traces,
    )


def _init(learner: mj.Learner) -> Any:
    with jax.enable_x64(False):
        return jax.jit(learner.init)(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 1)))


@functools.cache
def _episode() -> mj.Episode:
    with jax.enable_x64(False):
        return jax.jit(episode)(KEY)


@functools.cache
def _batch(tasks: int) -> mj.Episode:
    with jax.enable_x64(False):
        return jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(1), tasks))


# What is asked of the algorithm.


@_algorithm()
def gradient_reaches_every_parameter(subject: Subject) -> None:
    _, gradient = _at(subject)
    largest = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.abs(leaf).max()
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
    }
    rounding = 1e-10 * max(largest.values())  # Which reaches everything.
    for path, size in largest.items():
        assert size < rounding if subject.row.blind(path) else size > rounding, path


@_algorithm()
def gradient_is_the_derivative_as_claimed(subject: Subject) -> None:
    """Central differences along two directions in all the parameters."""
    params = _cast(subject.params)
    _, gradient = _at(subject)
    claimed, slopes = [], []
    for seed in range(2):
        direction = _unit_direction(params, seed)
        # So short that hardly ever a ReLU turns on the way.
        (ahead, _), _ = _at(subject, jax.tree.map(lambda x, d: x + 1e-6 * d, params, direction))
        (behind, _), _ = _at(subject, jax.tree.map(lambda x, d: x - 1e-6 * d, params, direction))
        slopes.append((ahead - behind) / 2e-6)
        claimed.append(sum(jax.tree.leaves(jax.tree.map(np.vdot, gradient, direction))))
    error = np.abs(np.subtract(claimed, slopes)).max() / np.abs(slopes).max()
    assert error < 1e-6 if subject.row.exact else error > 1e-3


@_algorithm()
def step_against_the_gradient_lowers_the_query_loss(subject: Subject) -> None:
    """The one thing that is asked of the gradients of first-order learners and pseudo-losses."""
    params = _cast(subject.params)
    (_, aux), gradient = _at(subject)
    (_, after), _ = _at(subject, jax.tree.map(lambda x, g: x - 1e-2 * g, params, gradient))
    assert after.metrics["query_loss"] < aux.metrics["query_loss"]


@_algorithm(of=lambda row: not row.pseudo_loss)
def meta_loss_is_the_query_loss_of_the_outputs(subject: Subject) -> None:
    (value, aux), _ = _at(subject)
    expected = subject.row.loss_fn(aux.outputs, _episode().query.targets)
    np.testing.assert_allclose(value, expected, rtol=1e-12)


@_algorithm()
def metrics_are_those_of_the_outputs(subject: Subject) -> None:
    (_, aux), _ = _at(subject)
    targets = _episode().query.targets
    for name, score in {"query_loss": subject.row.loss_fn, "accuracy": mj.accuracy}.items():
        np.testing.assert_allclose(aux.metrics[name], score(aux.outputs, targets), rtol=1e-12)


@_algorithm()
def adapt_and_predict_give_the_outputs_of_loss(subject: Subject) -> None:
    params, (support, query) = _cast((subject.params, _episode()))
    outputs = subject.answer(params, support, KEY, query.inputs)
    np.testing.assert_allclose(outputs, _at(subject)[0][1].outputs, rtol=1e-10)


@_algorithm()
def outputs_depend_on_the_support_targets_alone(subject: Subject) -> None:
    support, query = _episode()

    def outputs(support: mj.Examples, query: mj.Examples) -> np.ndarray:
        return _at(subject, task=mj.Episode(support, query))[0][1].outputs

    def turned(examples: mj.Examples) -> mj.Examples:
        return examples._replace(targets=(examples.targets + 1) % WAYS)

    expected = outputs(support, query)
    np.testing.assert_allclose(outputs(support, turned(query)), expected, rtol=1e-12)
    finite = np.isfinite(expected)
    assert np.abs(outputs(turned(support), query)[finite] - expected[finite]).max() > 1e-3


@_algorithm()
def results_depend_on_the_key_as_claimed(subject: Subject) -> None:
    params, (support, query) = _cast((subject.params, _episode()))
    for result in (
        lambda key: jax.tree.leaves(_at(subject, key=key)),
        lambda key: [subject.answer(params, support, key, query.inputs)],
    ):
        once, again, other = result(KEY), result(KEY), result(OTHER_KEY)
        chex.assert_trees_all_close(once, again, rtol=1e-12, atol=1e-12)
        if subject.row.draws:
            finite = [np.isfinite(leaf) for leaf in once]
            gaps = [
                np.abs(a[kept] - b[kept]).max()
                for a, b, kept in zip(once, other, finite, strict=True)
            ]
            assert max(gaps) > 1e-6
        else:
            chex.assert_trees_all_close(once, other, rtol=1e-12, atol=1e-12)


@_algorithm(of=lambda row: row.draws and row.adapts is not None)
def every_step_draws_anew(subject: Subject) -> None:
    """Two steps, so short that the gradient stays, are not twice the first."""
    path = _path(subject.row, (0, 1, 2), 1e-6, drawing=True)
    first, second = (outputs - path.outputs[0] for outputs in path.outputs[1:])
    assert np.abs(first).max() > 0
    assert np.abs(second - 2 * first).max() > 1e-2 * np.abs(first).max()


@_algorithm(of=lambda row: row.adapts is not None)
def support_loss_falls_with_the_steps(subject: Subject) -> None:
    losses = _path(
        subject.row, STEPS, subject.row.rate, drawing=subject.row.needs_key
    ).support_losses
    assert (np.diff(losses) < 0).all()


@_algorithm(of=lambda row: row.adapts is not None and not row.needs_key)
def first_step_is_steepest_descent(subject: Subject) -> None:
    """`phi_1 = phi_0 - rate * gradient`, the gradient being taken without the inner loop."""
    path = _path(subject.row, STEPS, subject.row.rate, drawing=subject.row.needs_key)
    before, after = path.outputs[:2]
    expected = path.by_hand - before
    np.testing.assert_allclose(after - before, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@_algorithm(of=lambda row: not row.needs_key)
def padding_changes_nothing(subject: Subject) -> None:
    support, query = _episode()
    key = None if subject.row.draws else KEY
    both = mj.Episode(_padded(support, [1] * 6, 3), _padded(query, [1] * 12, 3))
    (value, aux), gradient = _at(subject, key=key)
    (padded_value, padded_aux), padded_gradient = _at(subject, task=both, key=key)
    np.testing.assert_allclose(padded_value, value, rtol=1e-12)
    chex.assert_trees_all_close(padded_gradient, gradient, rtol=1e-12, atol=1e-12)
    chex.assert_trees_all_close(padded_aux.metrics, aux.metrics, rtol=1e-12)


@_algorithm(of=lambda row: row.weighs and not row.needs_key)
def weight_two_is_the_item_twice(subject: Subject) -> None:
    key = None if subject.row.draws else KEY

    def weighted(examples: mj.Examples) -> mj.Examples:
        return _padded(examples, [2, *[1] * (len(examples.targets) - 1)], 3)

    def repeated(examples: mj.Examples) -> mj.Examples:
        inputs, targets, _ = examples
        twice = mj.Examples(np.concatenate([inputs[:1], inputs]), np.append(targets[:1], targets))
        return _padded(twice, [1] * len(twice.targets), 2)

    by_weight, by_row = (
        _at(subject, task=mj.Episode(*map(change, _episode())), key=key)
        for change in (weighted, repeated)
    )
    chex.assert_trees_all_close(
        (by_weight[0][0], by_weight[0][1].metrics, by_weight[1]),
        (by_row[0][0], by_row[0][1].metrics, by_row[1]),
        rtol=1e-10,
        atol=1e-12,
    )
    # One item more of its class does change what comes out.
    assert abs(by_weight[0][0] - _at(subject, key=key)[0][0]) > 1e-6


# What is asked of the programs that come of it.


@functools.cache
def _eagerly(row: Row) -> Any:
    """The meta-loss and `Aux` of the learner as it stands, in float32, without a key if it can."""
    subject = start(row)
    return subject.learner.loss(subject.params, _episode(), KEY if row.needs_key else None)


@_program(float64=False)
def results_are_finite_and_of_the_right_shapes(subject: Subject) -> None:
    value, aux = _eagerly(subject.row)
    assert value.shape == ()
    assert value.dtype == aux.outputs.dtype == jnp.float32
    assert jnp.isfinite(value)
    assert aux.outputs.shape[0] == len(_episode().query.targets)
    assert jnp.isfinite(aux.outputs[:, :WAYS]).all()
    # A learner that was not told the number of ways has room for more of them.
    assert (aux.outputs[:, WAYS:] == -jnp.inf).all()
    _, gradient = jax.eval_shape(subject.value_and_grad, subject.params, _episode(), KEY)
    chex.assert_trees_all_equal_shapes_and_dtypes(gradient, subject.params)


@_program(float64=False, of=lambda row: not row.needs_key)
def loss_is_pure_and_needs_no_key(subject: Subject) -> None:
    """Eager and in float32 it is what it is compiled and in float64."""
    eager = _eagerly(subject.row)
    with jax.enable_x64(True):
        compiled, _ = _at(subject, key=None if subject.row.draws else KEY)
    chex.assert_trees_all_close(_cast(eager), compiled, rtol=1e-4, atol=1e-5)


@_program(float64=False, exact=True)
def a_task_is_arrays_that_can_be_saved(subject: Subject) -> None:
    learner, params = subject.learner, subject.params
    support, query = _episode()
    task = learner.adapt(params, support, KEY)
    empty = jax.tree.map(jnp.zeros_like, task)
    copied = flax.serialization.from_bytes(empty, flax.serialization.to_bytes(task))
    chex.assert_trees_all_equal(copied, task)
    # Saving computes nothing; a prediction may round otherwise from NumPy's arrays.
    np.testing.assert_allclose(
        learner.predict(params, copied, query.inputs),
        learner.predict(params, task, query.inputs),
        rtol=1e-5,
        atol=1e-6,
    )


@_program()
def chunked_looped_and_vmapped_gradients_agree(subject: Subject) -> None:
    params, episodes = _cast((subject.params, _batch(8)))
    after, metrics = subject.step(mj.init_state(params, OPTIMIZER, KEY), episodes)
    vmapped = jax.tree.map(lambda x, y: (x - y) / RATE, params, after.params), metrics
    keys = learner_keys(KEY, 0, 8)
    gradient, (loss, metrics) = jax.jit(
        functools.partial(mj.meta_gradient, subject.learner.loss, chunk_size=2)
    )(params, episodes, keys)
    chunked = gradient, {**metrics, "loss": loss}
    single = [
        subject.value_and_grad(
            params, jax.tree.map(lambda x, task=task: x[task], episodes), keys[task]
        )
        for task in range(8)
    ]
    looped = jax.tree.map(
        lambda *leaves: np.mean(leaves, axis=0), *(gradient for _, gradient in single)
    )
    accuracies = [aux.metrics["accuracy"] for (_, aux), _ in single]
    for gradient, metrics in (vmapped, chunked):
        chex.assert_trees_all_close(gradient, looped, rtol=1e-12, atol=1e-12)
        losses = [value for (value, _), _ in single]
        np.testing.assert_allclose(metrics["loss"], np.mean(losses), rtol=1e-12)
        np.testing.assert_allclose(metrics["accuracy"], np.mean(accuracies), rtol=1e-12)


@_program()
def steps_over_devices_equal_the_step_on_one(subject: Subject) -> None:
    params, episodes = _cast((subject.params, _batch(8)))
    state = mj.init_state(params, OPTIMIZER, KEY)
    expected, expected_metrics = subject.step(state, episodes)

    devices = jax.devices()[:4]
    step = mj.train_step(subject.learner, OPTIMIZER, axis_name="tasks")
    for over_devices in (
        mj.parallel.pmap_step(step, devices=devices),
        mj.parallel.mesh_step(step, mj.parallel.task_mesh(devices)),
    ):
        after, metrics = over_devices(state, episodes)
        for leaf, wanted in zip(
            jax.tree.leaves(after.params), jax.tree.leaves(expected.params), strict=True
        ):
            assert len(leaf.addressable_shards) == 4
            for shard in leaf.addressable_shards:
                np.testing.assert_allclose(shard.data, wanted, rtol=1e-10, atol=1e-12)
        for name in ("loss", "grad_norm"):
            np.testing.assert_allclose(metrics[name], expected_metrics[name], rtol=1e-12)


@_program(float64=False)
def step_in_a_scan_learns(subject: Subject) -> None:
    optimizer = optax.sgd(0.5 if subject.row.pseudo_loss else 0.1)
    step = mj.train_step(subject.learner, optimizer)

    @jax.jit
    def run(state: mj.TrainState, batch: mj.Episode) -> tuple[mj.TrainState, dict]:
        return jax.lax.scan(lambda state, _: step(state, batch), state, length=30)

    state, metrics = run(mj.init_state(subject.params, optimizer, KEY), _batch(4))
    assert int(state.step) == 30
    assert metrics["query_loss"][-1] < 0.8 * metrics["query_loss"][0]


@_program()
def step_is_traced_once(subject: Subject) -> None:
    params, episodes = _cast((subject.params, _batch(8)))
    state = mj.init_state(params, OPTIMIZER, KEY)
    for _ in range(3):
        state, _ = subject.step(state, episodes)
    assert len(subject.traces) == 1


# What the checks share.


def _at(
    subject: Subject,
    params: Any = None,
    *,
    task: mj.Episode | None = None,
    key: jax.Array | None = KEY,
) -> Any:
    """The meta-loss, `Aux` and meta-gradient in float64, by default of the episode of the tests."""
    task = _episode() if task is None else task
    params, task = _cast((subject.params if params is None else params, task))
    return jax.tree.map(np.asarray, subject.value_and_grad(params, task, key))


class _Path(NamedTuple):
    """What adaptation does, by the number of steps.

    Attributes:
      support_losses: `[numbers]` of the predictions for the support set itself.
      outputs: `[numbers, queries, ways]`, of the ways that there are.
      by_hand: `[queries, ways]` after one step of steepest descent without the inner loop.
    """

    support_losses: np.ndarray
    outputs: np.ndarray
    by_hand: np.ndarray


@functools.cache
def _path(row: Row, numbers: tuple[int, ...], rate: float, *, drawing: bool) -> _Path:
    learners = [row.make(number, rate) for number in numbers]
    # What is learned beside the model's parameters may depend on the rate, its shape on the number.
    starts = [_init(learners[0])]
    for learner in learners[1:]:
        same = _shapes(learner) == _shapes(learners[0])
        starts.append(starts[0] if same else _init(learner))
    key = KEY if drawing else None

    @jax.jit
    def run(starts: list, support: mj.Examples, inputs: jax.Array) -> _Path:
        tasks = [
            learner.adapt(params, support, key)
            for learner, params in zip(learners, starts, strict=True)
        ]
        triples = list(zip(learners, starts, tasks, strict=True))

        def support_loss(learner: mj.Learner, params: Any, task: Any) -> jax.Array:
            return row.loss_fn(learner.predict(params, task, support.inputs), support.targets)

        learner, params, task = triples[0]
        gradient = jax.grad(lambda phi: support_loss(learner, params, task._replace(params=phi)))(
            task.params
        )

        def stepped(path: tuple, leaf: jax.Array, slope: jax.Array) -> jax.Array:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            return leaf - rate * slope if row.adapts(name) else leaf

        paths = [
            jax.tree_util.keystr(path, simple=True, separator="/")
            for path, _ in jax.tree_util.tree_leaves_with_path(task.params)
        ]
        assert any(map(row.adapts, paths)), f"the row's adapts selects none of {paths}"
        by_hand = jax.tree_util.tree_map_with_path(stepped, task.params, gradient)
        return _Path(
            jnp.stack([support_loss(*triple) for triple in triples]),
            jnp.stack([learner.predict(*rest, inputs)[:, :WAYS] for learner, *rest in triples]),
            learner.predict(params, task._replace(params=by_hand), inputs)[:, :WAYS],
        )

    with jax.enable_x64(True):
        starts, (support, query) = _cast((starts, _episode()))
        return jax.tree.map(np.asarray, run(starts, support, query.inputs))


def _shapes(learner: mj.Learner) -> Any:
    shapes = jax.eval_shape(learner.init, jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 1)))
    return jax.tree.map(lambda leaf: leaf.shape, shapes)


def _padded(examples: mj.Examples, weights: list[int], rows: int) -> mj.Examples:
    """With these weights, and `rows` more of weight 0 in between."""
    inputs, targets, _ = examples
    # Not a number, labels of no class, and in between the items that count.
    junk = np.full((rows, *inputs.shape[1:]), np.nan)
    return mj.Examples(
        np.concatenate([inputs[:2], junk, inputs[2:]]),
        np.concatenate([targets[:2], np.full(rows, 99, targets.dtype), targets[2:]]),
        np.concatenate([weights[:2], np.zeros(rows), weights[2:]]),
    )


def _unit_direction(params: Any, seed: int) -> Any:
    generator = np.random.default_rng(seed)
    direction = jax.tree.map(lambda x: generator.normal(size=x.shape), params)
    length = np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(direction)))
    return jax.tree.map(lambda x: x / length, direction)


def _cast(tree: Any) -> Any:
    """`tree` in NumPy's float64."""
    arrays = jax.tree.map(np.asarray, tree)
    return jax.tree.map(
        lambda x: x.astype(np.float64) if np.issubdtype(x.dtype, np.floating) else x, arrays
    )
