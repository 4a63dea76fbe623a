"""MAML and FOMAML: hand-unrolled oracles, finite differences and identities."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

import metajax as mj

pytestmark = pytest.mark.usefixtures("float64")

Array = jax.Array
RATE = 0.5
STEPS = 3
SUPPORT, QUERY, FEATURES, OUTPUTS = 6, 9, 4, 3


class Case(NamedTuple):
    """A model with parameters and an episode, and the oracle's loss of one set of items."""

    model: mj.Model
    loss_fn: Callable
    params: Any
    episode: mj.Episode
    oracle_loss: Callable[[Any, mj.Examples], Array]

    def learner(self, **options: Any) -> mj.Learner:
        defaults = {"inner": optax.sgd(RATE), "num_steps": STEPS, "loss_fn": self.loss_fn}
        return mj.maml(self.model, **(defaults | options))

    def support_loss(self, phi: Any, step: int) -> Array:
        del step
        return self.oracle_loss(phi, self.episode.support)

    def query_loss(self, phi: Any) -> Array:
        return self.oracle_loss(phi, self.episode.query)


def perceptron_case(kind: str) -> Case:
    model = mj.models.mlp((5, OUTPUTS))
    inputs = oracles.normals(0, (SUPPORT, FEATURES), (QUERY, FEATURES))
    shapes = jax.eval_shape(model.init, jax.random.key(0), inputs[0])
    params = oracles.normal_like(1, shapes)
    if kind == "classification":
        targets = [jnp.arange(len(x)) % OUTPUTS for x in inputs]
        loss_fn, error = mj.cross_entropy, oracles.mean_cross_entropy
    else:
        targets = oracles.normals(2, (SUPPORT, OUTPUTS), (QUERY, OUTPUTS))
        loss_fn, error = mj.squared_error, oracles.mean_squared_error
    episode = mj.Episode(*map(mj.Examples, inputs, targets))

    def oracle_loss(params: Any, examples: mj.Examples) -> Array:
        return error(oracles.perceptron(params, examples.inputs), examples.targets)

    return Case(model, loss_fn, params, episode, oracle_loss)


def conv_case() -> Case:
    model = mj.models.from_linen(mj.models.ConvNet(outputs=OUTPUTS, filters=4, blocks=2))
    inputs = oracles.normals(0, (SUPPORT, 8, 8, 1), (QUERY, 8, 8, 1))
    shapes = jax.eval_shape(model.init, jax.random.key(0), inputs[0])
    params = oracles.normal_like(1, shapes, 0.5)
    episode = mj.Episode(*(mj.Examples(x, jnp.arange(len(x)) % OUTPUTS) for x in inputs))

    def oracle_loss(params: Any, examples: mj.Examples) -> Array:
        return oracles.mean_cross_entropy(model.apply(params, examples.inputs), examples.targets)

    return Case(model, mj.cross_entropy, params, episode, oracle_loss)


CASES = {
    "classification": lambda: perceptron_case("classification"),
    "regression": lambda: perceptron_case("regression"),
    "convolution": conv_case,
}
case_names = pytest.mark.parametrize("name", ["classification", "regression"])


def slope(learner: mj.Learner) -> Callable[[Any, mj.Episode], tuple[Array, Any]]:
    """`(params, episode) -> (meta-loss, meta-gradient)`."""

    @jax.jit
    def run(params: Any, episode: mj.Episode) -> tuple[Array, Any]:
        (value, _), gradient = jax.value_and_grad(learner.loss, has_aux=True)(params, episode)
        return value, gradient

    return run


@case_names
def test_meta_gradient_is_the_unrolled_loops(name: str) -> None:
    case = CASES[name]()
    value, exact = slope(case.learner())(case.params, case.episode)
    _, first_order = slope(case.learner(first_order=True))(case.params, case.episode)

    arguments = (case.support_loss, case.query_loss, case.params, oracles.sgd(RATE), STEPS)
    unrolled = jax.jit(
        jax.value_and_grad(lambda params: oracles.maml_loss(*arguments[:2], params, *arguments[3:]))
    )
    oracles.assert_close((value, exact), unrolled(case.params))
    at_phi = jax.jit(lambda params: oracles.fomaml_gradient(*arguments[:2], params, *arguments[3:]))
    oracles.assert_close(first_order, at_phi(case.params))
    gap = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), exact, first_order)
    assert min(jax.tree.leaves(gap)) > 1e-3  # The second-order term is no rounding error.


@case_names
def test_meta_gradient_is_the_finite_difference(name: str) -> None:
    case = CASES[name]()
    learner = case.learner()
    run = slope(learner)
    _, gradient = run(case.params, case.episode)
    for seed in range(3):
        direction = oracles.normal_like(seed, case.params)
        np.testing.assert_allclose(
            oracles.dot(gradient, direction),
            oracles.central_difference(
                lambda params: run(params, case.episode)[0], case.params, direction
            ),
            rtol=1e-6,
        )


@case_names
@pytest.mark.parametrize(
    "options", [{"inner": optax.sgd(0.0)}, {"num_steps": 0}], ids=["zero_rate", "no_steps"]
)
def test_without_movement_it_is_the_plain_gradient(name: str, options: dict[str, Any]) -> None:
    case = CASES[name]()
    plain = jax.jit(jax.value_and_grad(case.query_loss))(case.params)
    for first_order in (False, True):
        learner = case.learner(first_order=first_order, **options)
        oracles.assert_close(slope(learner)(case.params, case.episode), plain)


def test_first_order_is_exact_where_the_inner_loss_is_linear() -> None:
    def loss(
        phi: Array, examples: mj.Examples, key: Any, support: Any
    ) -> tuple[Array, mj.ObjectiveAux]:
        outputs = examples.inputs @ phi
        if support is None:
            return (outputs * examples.targets).mean(), mj.ObjectiveAux(outputs, {})
        return (jnp.tanh(outputs - examples.targets) ** 2).mean(), mj.ObjectiveAux(outputs, {})

    objective = mj.Objective(
        init=lambda key, inputs: jnp.zeros(inputs.shape[-1]),
        loss=loss,
        predict=lambda phi, inputs, support: inputs @ phi,
    )
    shapes = ((SUPPORT, FEATURES), (SUPPORT,), (QUERY, FEATURES), (QUERY,), (FEATURES,))
    *data, params = oracles.normals(0, *shapes)
    episode = mj.Episode(mj.Examples(*data[:2]), mj.Examples(*data[2:]))
    exact, first_order, at_rest = (
        slope(mj.maml(objective, inner=optax.sgd(RATE), num_steps=steps, first_order=first))(
            params, episode
        )
        for steps, first in ((STEPS, False), (STEPS, True), (0, False))
    )
    oracles.assert_close(first_order, exact)
    assert abs(at_rest[0] - exact[0]) > 1e-3  # The inner loop does move.


@case_names
def test_order_of_support_items_does_not_matter(name: str) -> None:
    case = CASES[name]()
    order = np.array([4, 0, 5, 2, 1, 3])
    shuffled = jax.tree.map(lambda x: x[order], case.episode.support)
    run = slope(case.learner())
    oracles.assert_close(
        run(case.params, case.episode._replace(support=shuffled)), run(case.params, case.episode)
    )


def test_names_of_the_classes_do_not_matter() -> None:
    case = CASES["classification"]()
    renamed = jnp.array([2, 0, 1])
    old_column = jnp.argsort(renamed)

    def rename(params: Any) -> Any:
        head = jax.tree.map(lambda x: x[..., old_column], params["Dense_1"])
        return {**params, "Dense_1": head}

    episode = mj.Episode(*(s._replace(targets=renamed[s.targets]) for s in case.episode))
    run = slope(case.learner())
    value, gradient = run(case.params, case.episode)
    oracles.assert_close(run(rename(case.params), episode), (value, rename(gradient)))
    assert abs(run(case.params, episode)[0] - value) > 1e-3


def test_fomaml_is_first_order_maml() -> None:
    case = CASES["classification"]()
    options = {"inner": optax.sgd(RATE), "num_steps": STEPS, "loss_fn": case.loss_fn}
    named, general = (
        slope(learner)(case.params, case.episode)
        for learner in (
            mj.fomaml(case.model, **options),
            mj.maml(case.model, first_order=True, **options),
        )
    )
    oracles.assert_close(named, general)


def noisy(model: mj.Model) -> mj.Objective:
    """Regression whose support inputs are perturbed with the key, when there is one."""
    plain = mj.supervised(model, mj.squared_error)

    def loss(
        params: Any, examples: mj.Examples, key: Array | None, support: mj.Examples | None
    ) -> tuple[Array, mj.ObjectiveAux]:
        if key is not None and support is None:
            noise = 0.1 * jax.random.normal(key, examples.inputs.shape)
            examples = examples._replace(inputs=examples.inputs + noise)
        return plain.loss(params, examples, key, support)

    return mj.Objective(plain.init, loss, plain.predict, plain.keep)


def test_adapt_and_predict_are_what_the_loss_does() -> None:
    case = CASES["regression"]()
    learner = mj.maml(noisy(case.model), inner=optax.sgd(RATE), num_steps=STEPS)
    loss, adapt = jax.jit(learner.loss), jax.jit(learner.adapt)
    seen = []
    for key in (None, jax.random.key(4), jax.random.key(5)):
        value, aux = loss(case.params, case.episode, key)
        task = adapt(case.params, case.episode.support, key)
        outputs = learner.predict(case.params, task, case.episode.query.inputs)
        oracles.assert_close(outputs, aux.outputs)
        oracles.assert_close(value, aux.metrics["query_loss"])
        oracles.assert_close(value, case.query_loss(task.params))
        seen.append(float(value))
    assert len({round(value, 6) for value in seen}) == 3
    arguments = (case.support_loss, case.query_loss, case.params, oracles.sgd(RATE), STEPS)
    quiet = jax.jit(lambda: oracles.maml_loss(*arguments))()
    np.testing.assert_allclose(seen[0], quiet, rtol=1e-12)


def test_every_inner_step_draws_anew() -> None:
    def loss(
        phi: Array, examples: mj.Examples, key: Array, support: mj.Examples | None
    ) -> tuple[Array, mj.ObjectiveAux]:
        # A linear loss whose slope is the draw: a step moves the parameters by it.
        return -(phi * jax.random.normal(key, phi.shape)).sum(), mj.ObjectiveAux(None, {"phi": phi})

    objective = mj.Objective(lambda key, inputs: jnp.zeros(2), loss, lambda phi, x, support: x)
    learner = mj.maml(objective, inner=optax.sgd(1.0), num_steps=STEPS, record_steps=True)
    episode = CASES["regression"]().episode
    _, aux = jax.jit(learner.loss)(jnp.zeros(2), episode, jax.random.key(0))
    draws = np.diff(aux.metrics["phi_per_step"], axis=0)
    gaps = np.abs(draws[:, None] - draws[None]).max(axis=-1)
    assert (gaps[~np.eye(STEPS, dtype=bool)] > 1e-3).all()


@case_names
def test_recorded_steps_are_runs_of_that_many_steps(name: str) -> None:
    case = CASES[name]()
    _, aux = jax.jit(case.learner(record_steps=True).loss)(case.params, case.episode)
    curve = aux.metrics["query_loss_per_step"]
    assert curve.shape == (STEPS + 1,)

    @jax.jit
    def by_hand(params: Any) -> Array:
        path = oracles.inner_path(case.support_loss, params, oracles.sgd(RATE), STEPS)
        return jnp.stack([case.query_loss(phi) for phi in path])

    oracles.assert_close(curve, by_hand(case.params))
    oracles.assert_close(curve[-1], aux.metrics["query_loss"])
    for steps in range(STEPS + 1):
        shorter_loss = jax.jit(case.learner(num_steps=steps).loss)
        value, shorter = shorter_loss(case.params, case.episode)
        oracles.assert_close(curve[steps], value)
        if name == "classification":
            recorded = aux.metrics["accuracy_per_step"][steps]
            oracles.assert_close(recorded, shorter.metrics["accuracy"])


def padded(examples: mj.Examples, rows: int, seed: int) -> mj.Examples:
    """`examples` with `rows` of garbage among them, labelled with a class that does not exist."""
    items = len(examples.inputs)
    (garbage,) = oracles.normals(seed, (rows, *examples.inputs.shape[1:]))
    label = 99 if jnp.issubdtype(examples.targets.dtype, jnp.integer) else 1e3
    wrong = jnp.full((rows, *examples.targets.shape[1:]), label, examples.targets.dtype)
    order = np.random.default_rng(seed).permutation(items + rows)
    whole = mj.Examples(
        jnp.concatenate([examples.inputs, 100 * garbage]),
        jnp.concatenate([examples.targets, wrong]),
        jnp.concatenate([jnp.ones(items), jnp.zeros(rows)]),
    )
    return jax.tree.map(lambda x: x[order], whole)


@pytest.mark.parametrize(
    ("name", "first_order"),
    [
        ("classification", False),
        ("classification", True),
        ("regression", False),
        ("convolution", False),
    ],
)
def test_padding_counts_for_nothing(name: str, first_order: bool) -> None:
    case = CASES[name]()
    episode = mj.Episode(padded(case.episode.support, 3, 0), padded(case.episode.query, 2, 2))
    run = slope(case.learner(num_steps=2, first_order=first_order))
    oracles.assert_close(run(case.params, episode), run(case.params, case.episode))


@pytest.mark.parametrize("query_batching", ["joint", "single"])
def test_padding_stays_out_of_shared_batches(query_batching: str) -> None:
    case = CASES["convolution"]()
    episode = mj.Episode(padded(case.episode.support, 3, 0), padded(case.episode.query, 2, 2))
    loss = jax.jit(case.learner(query_batching=query_batching).loss)
    (value, aux), (expected, unpadded) = (loss(case.params, e) for e in (episode, case.episode))
    oracles.assert_close(value, expected)
    oracles.assert_close(aux.metrics["accuracy"], unpadded.metrics["accuracy"])


def test_a_weight_of_two_counts_an_item_twice() -> None:
    case = CASES["classification"]()
    weights = [jnp.ones(len(s.inputs)).at[1].set(2.0) for s in case.episode]
    weighted = mj.Episode(
        *(s._replace(weights=w) for s, w in zip(case.episode, weights, strict=True))
    )
    twice = jax.tree.map(lambda x: jnp.concatenate([x, x[1:2]]), case.episode)
    run = slope(case.learner())
    oracles.assert_close(run(case.params, weighted), run(case.params, twice))


def test_query_batching_decides_who_shares_a_batch() -> None:
    case = CASES["convolution"]()
    apply = jax.jit(case.model.apply)
    support, query = case.episode
    step = jax.jit(jax.grad(lambda phi: case.support_loss(phi, 0)))
    phi = jax.tree.map(lambda p, g: p - RATE * g, case.params, step(case.params))
    whole = jnp.concatenate([support.inputs, query.inputs])
    expected = {
        "separate": apply(phi, query.inputs, None),
        "joint": apply(phi, whole, None)[SUPPORT:],
        "single": jnp.stack(
            [
                apply(phi, jnp.concatenate([support.inputs, item[None]]), None)[SUPPORT]
                for item in query.inputs
            ]
        ),
        "support": apply(phi, whole, jnp.arange(len(whole)) < SUPPORT)[SUPPORT:],
    }

    for batching, outputs in expected.items():
        learner = case.learner(query_batching=batching, num_steps=1)
        value, aux = jax.jit(learner.loss)(case.params, case.episode)
        oracles.assert_close(aux.outputs, outputs)
        oracles.assert_close(value, oracles.mean_cross_entropy(outputs, query.targets))
        task = mj.AdaptedTask(phi, support)
        predicted = jax.jit(learner.predict)(case.params, task, query.inputs)
        oracles.assert_close(predicted, expected["support"])
    for one, other in (("separate", "joint"), ("joint", "single"), ("separate", "single")):
        assert jnp.abs(expected[one] - expected[other]).max() > 1e-2
