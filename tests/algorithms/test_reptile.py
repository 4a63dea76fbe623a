"""Reptile: the pseudo-loss's gradient, its mini-batches, and the outer step of the paper."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

import metajax as mj
from metajax.algorithms.reptile import mini_batches

pytestmark = pytest.mark.usefixtures("float64")

Array = jax.Array
RATE = 0.3
STEPS = 4
SUPPORT, QUERY, FEATURES, OUTPUTS = 6, 5, 4, 3
MODEL = mj.models.mlp((5, OUTPUTS))
BATCHES = pytest.mark.parametrize("batch_size", [None, 4])


def learner(**options: Any) -> mj.Learner:
    defaults = {"inner": optax.sgd(RATE), "num_steps": STEPS, "loss_fn": mj.squared_error}
    return mj.reptile(MODEL, **(defaults | options))


def episodes(tasks: int) -> mj.Episode:
    sizes = ((SUPPORT, FEATURES), (SUPPORT, OUTPUTS), (QUERY, FEATURES), (QUERY, OUTPUTS))
    xs, ys, xq, yq = oracles.normals(0, *((tasks, *size) for size in sizes))
    return mj.Episode(mj.Examples(xs, ys), mj.Examples(xq, yq))


def task(index: int = 0) -> mj.Episode:
    return jax.tree.map(lambda x: x[index], episodes(3))


def theta() -> Any:
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), jnp.zeros((1, FEATURES)))
    return oracles.normal_like(1, shapes)


def loss_of(params: Any, inputs: Array, targets: Array) -> Array:
    return oracles.mean_squared_error(oracles.perceptron(params, inputs), targets)


def rows_of(key: Array, support: mj.Examples, batch_size: int | None) -> Sequence[Sequence[int]]:
    """The rows of every inner step of a task with this key."""
    if batch_size is None:
        return [range(SUPPORT)] * STEPS
    order = jax.random.fold_in(jax.random.fold_in(key, 0), 1)
    return mini_batches(order, support, num_steps=STEPS, size=batch_size).tolist()


def phi_of(key: Array, episode: mj.Episode, batch_size: int | None, params: Any) -> Any:
    support = episode.support
    rows = rows_of(key, support, batch_size)
    rule = oracles.sgd(RATE)
    return jax.jit(
        lambda params: oracles.reptile_phi(
            loss_of, params, support.inputs, support.targets, rows, rule
        )
    )(params)


@BATCHES
def test_gradient_is_theta_minus_phi(batch_size: int | None) -> None:
    params, episode, key = theta(), task(), jax.random.key(2)
    loss = learner(batch_size=batch_size, record_steps=True).loss
    (value, aux), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, episode, key)

    phi = phi_of(key, episode, batch_size, params)
    gap = jax.tree.map(jnp.subtract, params, phi)
    oracles.assert_close(gradient, gap)
    oracles.assert_close(value, 0.5 * oracles.dot(gap, gap))
    query = loss_of(phi, *episode.query[:2])
    oracles.assert_close(aux.metrics["query_loss"], query)
    assert abs(value - query) > 1e-3  # Two different things under two names.
    curve = aux.metrics["query_loss_per_step"]
    oracles.assert_close(curve[0], loss_of(params, *episode.query[:2]))
    oracles.assert_close(curve[-1], query)


@BATCHES
def test_adapted_parameters_are_phi(batch_size: int | None) -> None:
    params, episode, key = theta(), task(), jax.random.key(2)
    one = learner(batch_size=batch_size)
    adapted = jax.jit(one.adapt)(params, episode.support, key)
    oracles.assert_close(adapted.params, phi_of(key, episode, batch_size, params))
    outputs = one.predict(params, adapted, episode.query.inputs)
    oracles.assert_close(outputs, oracles.perceptron(adapted.params, episode.query.inputs))


@BATCHES
def test_outer_sgd_is_the_step_of_the_paper(batch_size: int | None) -> None:
    params, batch, epsilon, tasks = theta(), episodes(3), 0.7, 3
    optimizer = optax.sgd(epsilon)
    run_key = jax.random.key(3)
    step = mj.train_step(learner(batch_size=batch_size), optimizer)
    state, metrics = jax.jit(step)(mj.init_state(params, optimizer, run_key), batch)

    keys = mj.task_keys(jax.random.fold_in(run_key, 0), tasks)
    phis = [phi_of(keys[t], task(t), batch_size, params) for t in range(tasks)]
    oracles.assert_close(
        state.params,
        jax.tree.map(lambda p, *each: p + epsilon * (sum(each) / tasks - p), params, *phis),
    )
    losses = [loss_of(phi, *task(t).query[:2]) for t, phi in enumerate(phis)]
    oracles.assert_close(metrics["query_loss"], sum(losses) / tasks)


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_quadratic_has_the_closed_form(steps: int) -> None:
    params, centre, root = oracles.normals(4, (4,), (4,), (4, 4))
    matrix = root @ root.T / 4 + jnp.eye(4)

    def loss(
        phi: Array, examples: mj.Examples, key: Array | None, support: mj.Examples | None
    ) -> tuple[Array, mj.ObjectiveAux]:
        gap = phi - examples.targets
        return 0.5 * gap @ examples.inputs @ gap, mj.ObjectiveAux(None, {})

    objective = mj.Objective(lambda key, inputs: jnp.zeros(4), loss, lambda phi, x, support: x)
    reptile = mj.reptile(objective, inner=optax.sgd(0.1), num_steps=steps)
    support = mj.Examples(matrix, centre)
    gradient, _ = jax.grad(reptile.loss, has_aux=True)(params, mj.Episode(support, support))
    power = jnp.linalg.matrix_power(jnp.eye(4) - 0.1 * matrix, steps)
    oracles.assert_close(gradient, params - centre - power @ (params - centre))


@pytest.mark.exact
def test_queries_do_not_touch_the_gradient() -> None:
    params, episode, key = theta(), task(), jax.random.key(2)
    slope = jax.jit(jax.value_and_grad(learner(batch_size=4).loss, has_aux=True))
    (_, aux), gradient = slope(params, episode, key)
    (_, other_aux), other = slope(params, episode._replace(query=task(1).query), key)
    oracles.assert_close(other, gradient, 0.0)
    assert abs(aux.metrics["query_loss"] - other_aux.metrics["query_loss"]) > 1e-3


def test_mini_batches_need_a_key() -> None:
    params, episode = theta(), task()
    for batch_size, call in ((4, "loss"), (4, "adapt")):
        one = learner(batch_size=batch_size)
        data = episode if call == "loss" else episode.support
        with pytest.raises(ValueError, match="pass a key"):
            getattr(one, call)(params, data)


def examples(items: int, padded: Sequence[int] = ()) -> mj.Examples:
    weights = jnp.ones(items).at[jnp.array(padded, int)].set(0.0) if padded else None
    return mj.Examples(jnp.zeros((items, 1)), jnp.zeros((items, 1)), weights)


@pytest.mark.parametrize("size", [1, 3, 5, 8])
@pytest.mark.parametrize("padded", [(), (0, 4)])
def test_every_pass_takes_each_item_once(size: int, padded: Sequence[int]) -> None:
    items, passes = 7, 6
    real = sorted(set(range(items)) - set(padded))
    steps = -(-passes * len(real) // size)
    rows = mini_batches(jax.random.key(5), examples(items, padded), num_steps=steps, size=size)
    assert rows.shape == (steps, size)
    drawn = np.asarray(rows).ravel()[: passes * len(real)].reshape(passes, len(real))
    for one in drawn:
        assert sorted(one) == real
    # Six shuffles of five or more items agree by chance less than once in 1e10.
    assert len({tuple(one) for one in drawn}) > 1
    assert set(np.asarray(rows).ravel()) <= set(real)


def test_mini_batches_depend_on_the_key_alone() -> None:
    first, again, other = (
        mini_batches(jax.random.key(seed), examples(12), num_steps=3, size=4).tolist()
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_padding_counts_for_nothing_in_mini_batches() -> None:
    params, episode, key = theta(), task(), jax.random.key(2)
    support = episode.support
    hidden = mj.Examples(
        support.inputs.at[1].set(1e3),
        support.targets.at[1].set(jnp.nan),
        jnp.ones(SUPPORT).at[1].set(0.0),
    )
    rows = rows_of(key, hidden, 4)
    adapted = jax.jit(learner(batch_size=4).adapt)(params, hidden, key)
    assert all(row != 1 for step in rows for row in step)
    unpadded = (support.inputs, support.targets, rows, oracles.sgd(RATE))
    oracles.assert_close(adapted.params, oracles.reptile_phi(loss_of, params, *unpadded))


def _rmsprop_by_hand(params: Any, second: Any, episode: mj.Episode) -> tuple[Any, Any]:
    """`STEPS` full-batch steps of `nu <- 0.9 nu + 0.1 g^2`, `phi <- phi - 0.01 g / sqrt(nu)`."""
    for _ in range(STEPS):
        gradient = jax.grad(loss_of)(params, *episode.support[:2])
        second = jax.tree.map(lambda nu, g: 0.9 * nu + 0.1 * g**2, second, gradient)
        params = jax.tree.map(
            lambda phi, g, nu: phi - 0.01 * g / jnp.sqrt(nu), params, gradient, second
        )
    return params, second


def _carrying() -> mj.Learner:
    inner = optax.rmsprop(0.01, decay=0.9, eps=0.0, initial_scale=0.5)
    return learner(inner=inner, carry_state=True)


def _start() -> mj.ReptileParams:
    return (
        _carrying()
        .init(jax.random.key(0), jnp.zeros((1, FEATURES), jnp.float64))
        ._replace(model=theta())
    )


def _carried(params: mj.ReptileParams) -> Any:
    """The second moment inside the optimiser's state."""
    return optax.tree.get(params.inner_state, "nu")


def test_a_carried_state_goes_from_task_to_task() -> None:
    optimizer = optax.sgd(1.0)
    step = jax.jit(mj.train_step(_carrying(), optimizer))
    start = jax.tree.map(lambda x: x.astype(jnp.float64), _start())
    state = mj.init_state(start, optimizer, jax.random.key(0))
    params, second = start.model, jax.tree.map(lambda x: jnp.full_like(x, 0.5), start.model)
    for index in range(2):
        state, _ = step(state, jax.tree.map(lambda x, i=index: x[i : i + 1], episodes(3)))
        params, second = _rmsprop_by_hand(params, second, task(index))
        oracles.assert_close(state.params.model, params)
        oracles.assert_close(_carried(state.params), second)


@pytest.mark.parametrize("epsilon", [0.25, 1.0], ids=["like_the_model", "by_itself"])
def test_a_carried_state_is_averaged_over_tasks(epsilon: float) -> None:
    optimizer = _outer(0.25, epsilon)
    start = jax.tree.map(lambda x: x.astype(jnp.float64), _start())
    state = mj.init_state(start, optimizer, jax.random.key(0))
    state, _ = jax.jit(mj.train_step(_carrying(), optimizer))(state, episodes(3))
    before = start.model, _carried(start)
    ends = [_rmsprop_by_hand(*before, task(index)) for index in range(3)]
    for moved, old, new, rate in zip(
        (state.params.model, _carried(state.params)),
        before,
        zip(*ends, strict=True),
        (0.25, epsilon),
        strict=True,
    ):
        expected = jax.tree.map(lambda x, *y, e=rate: x + e * (sum(y) / 3 - x), old, *new)
        oracles.assert_close(moved, expected)


def _outer(model: Any, state: float = 1.0) -> optax.GradientTransformation:
    """Outer steps of the model's parameters and of the carried state."""
    labels = mj.ReptileParams("model", "state")
    return optax.partition({"model": optax.sgd(model), "state": optax.sgd(state)}, labels)


def handing_on(learner: mj.Learner, optimizer: optax.GradientTransformation) -> Callable:
    """A meta-step whose tasks come one after the other, each from the state of the one before."""

    def step(
        state: mj.TrainState, episodes: mj.Episode
    ) -> tuple[mj.TrainState, dict[str, jax.Array]]:
        def task(inner_state: Any, data: tuple[mj.Episode, Array]) -> tuple[Any, Any]:
            params = mj.ReptileParams(state.params.model, inner_state)
            (loss, _), gap = jax.value_and_grad(learner.loss, has_aux=True)(params, *data)
            return optax.tree.sub(inner_state, gap.inner_state), (loss, gap.model)

        keys = mj.task_keys(jax.random.fold_in(state.key, state.step), len(episodes.query.inputs))
        last, (losses, gaps) = jax.lax.scan(task, state.params.inner_state, (episodes, keys))
        gradient = mj.ReptileParams(
            jax.tree.map(lambda x: x.mean(axis=0), gaps),
            optax.tree.sub(state.params.inner_state, last),
        )
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return mj.TrainState(params, opt_state, state.step + 1, state.key), {"loss": losses.mean()}

    return step


@pytest.mark.parametrize(("tasks", "make_step"), [(1, mj.train_step), (3, handing_on)])
def test_meta_steps_are_the_loop_of_the_authors_code(tasks: int, make_step: Callable) -> None:
    # Their slots of Adam are variables like any other, that no meta-step touches; beta1 is 0 and
    # the bias correction worn off.
    rate, decay, eps, size = 0.02, 0.9, 1e-3, 4
    meta_steps = 16  # Sixteenths are exact in the single precision of a schedule.
    inner = optax.rmsprop(rate, decay=decay, eps=eps, eps_in_sqrt=False, initial_scale=0.5)
    model = mj.Model(
        lambda key, inputs: jnp.zeros((FEATURES, OUTPUTS)), lambda params, inputs: inputs @ params
    )
    one = mj.reptile(
        model,
        inner=inner,
        num_steps=STEPS,
        batch_size=size,
        carry_state=True,
        loss_fn=mj.squared_error,
    )
    (start,) = oracles.normals(7, (FEATURES, OUTPUTS))
    xs, ys = oracles.normals(
        8, (meta_steps, tasks, SUPPORT, FEATURES), (meta_steps, tasks, SUPPORT, OUTPUTS)
    )
    examples = mj.Examples(xs, ys)
    optimizer = _outer(optax.linear_schedule(1.0, 0.0, meta_steps))
    run_key = jax.random.key(3)
    state = mj.init_state(mj.ReptileParams(start, inner.init(start)), optimizer, run_key)
    end, _ = jax.jit(lambda *run: jax.lax.scan(make_step(one, optimizer), *run))(
        state, mj.Episode(examples, examples)
    )

    @jax.jit
    @jax.vmap
    def rows(meta_step: Array) -> Array:
        keys = mj.task_keys(jax.random.fold_in(run_key, meta_step), tasks)
        orders = jax.vmap(lambda key: jax.random.fold_in(jax.random.fold_in(key, 0), 1))(keys)
        support = task().support
        return jax.vmap(lambda key: mini_batches(key, support, num_steps=STEPS, size=size))(orders)

    weights, slots = np.array(start), np.full((FEATURES, OUTPUTS), 0.5)
    for meta_step, batches in enumerate(np.asarray(rows(jnp.arange(meta_steps)))):
        adapted = []
        for index in range(tasks):
            phi = weights.copy()
            for batch in batches[index]:
                x, y = (
                    np.asarray(xs[meta_step, index])[batch],
                    np.asarray(ys[meta_step, index])[batch],
                )
                gradient = 2 / y.size * x.T @ (x @ phi - y)
                slots = decay * slots + (1 - decay) * gradient**2
                phi -= rate * gradient / (np.sqrt(slots) + eps)
            adapted.append(phi)
        weights += (1 - meta_step / meta_steps) * (np.mean(adapted, axis=0) - weights)
    oracles.assert_close(end.params.model, weights)
    oracles.assert_close(_carried(end.params), slots)


def test_an_adapted_task_starts_from_the_carried_state() -> None:
    start = jax.tree.map(lambda x: x.astype(jnp.float64), _start())
    adapted = _carrying().adapt(start, task().support)
    phi, _ = _rmsprop_by_hand(start.model, _carried(start), task())
    oracles.assert_close(adapted.params.model, phi)
    outputs = _carrying().predict(start, adapted, task().query.inputs)
    oracles.assert_close(outputs, oracles.perceptron(phi, task().query.inputs))


def test_a_state_that_counts_steps_cannot_be_carried() -> None:
    with pytest.raises(ValueError, match=r"holds int32 numbers \(a step count\); expected floats"):
        learner(inner=optax.adam(0.1), carry_state=True).init(
            jax.random.key(0), jnp.zeros((1, FEATURES))
        )


def _moved(params: Any, **options: Any) -> Any:
    """What `reptile` moves the parameters by."""
    loss = learner(**options).loss
    return jax.jit(jax.grad(lambda params: loss(params, task())[0]))(params)


def test_what_is_not_adapted_stays() -> None:
    still = optax.partition(
        {"moving": optax.sgd(RATE), "still": optax.set_to_zero()},
        {"Dense_0": "still", "Dense_1": "moving"},
    )
    gradient = _moved(theta(), adapt="Dense_1")
    oracles.assert_close(gradient, _moved(theta(), inner=still))
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient["Dense_0"]))


def test_a_carried_state_is_of_what_is_adapted() -> None:
    inner = optax.sgd(RATE, momentum=0.9)
    part = learner(inner=inner, carry_state=True, adapt="Dense_1")
    shapes = jax.eval_shape(part.init, jax.random.key(0), task().support.inputs)
    momentum = optax.tree.get(shapes.inner_state, "trace")
    assert jax.tree.leaves(momentum["Dense_0"]) == []
    start = oracles.normal_like(4, shapes)._replace(model=theta())
    gradient = _moved(start, inner=inner, carry_state=True, adapt="Dense_1")

    labels = {"Dense_0": "still", "Dense_1": "moving"}
    rules = {"moving": inner, "still": optax.set_to_zero()}
    both = {"inner": optax.partition(rules, labels), "carry_state": True}
    whole = jax.eval_shape(learner(**both).init, jax.random.key(0), task().support.inputs)
    leaves = jax.tree.leaves(start.inner_state)
    same = jax.tree.unflatten(jax.tree.structure(whole.inner_state), leaves)
    expected = _moved(mj.ReptileParams(theta(), same), **both)
    oracles.assert_close(gradient.model, expected.model)
    oracles.assert_close(
        jax.tree.leaves(gradient.inner_state), jax.tree.leaves(expected.inner_state)
    )
    with pytest.raises(ValueError, match=r"adapt='Dense' fits no parameter; there are Dense_0/"):
        learner(inner=inner, carry_state=True, adapt="Dense").init(
            jax.random.key(0), task().support.inputs
        )
