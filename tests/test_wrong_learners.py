"""The contract refuses wrong algorithms: mistakes as contributors make them, and what finds each.

All of these learn. `WRONG` is the table: each learner, and the checks of the algorithm that refuse
it, which are all that do.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import CHECKS
from learners import SIDE, WAYS, Row, everything

import metajax as mj
from metajax.gradient_learners import gradient_learner
from metajax.items import without_padding
from metajax.metric import prototypes, squared_distances
from metajax.metric_learners import metric_learner
from metajax.types import Array, Examples, Key, Objective, Params

Make = Callable[[int, float], mj.Learner]


SLOW = pytest.mark.slow
NUMBERS = np.random.default_rng(0)
START = {
    "body": NUMBERS.normal(0.0, 0.2, (SIDE * SIDE, 8)),
    "head": NUMBERS.normal(0.0, 0.5, (8, WAYS)),
}


def init(key: Key, inputs: Array) -> dict[str, Array]:
    del key, inputs
    return jax.tree.map(jnp.float32, START)  # Nothing to compile.


def embed(params: Params, inputs: Array) -> Array:
    return jnp.tanh(inputs.reshape(len(inputs), -1) @ params["body"])


MODEL = mj.Model(init, lambda params, inputs: embed(params, inputs) @ params["head"])


def noisy_loss(
    params: Params, examples: Examples, key: Key | None, context: Examples | None
) -> tuple[Array, mj.ObjectiveAux]:
    if key is not None and context is None:
        inputs = examples.inputs + 0.5 * jax.random.normal(key, examples.inputs.shape)
        examples = examples._replace(inputs=inputs)
    return mj.supervised(MODEL).loss(params, examples, key, context)


NOISY = Objective(MODEL.init, noisy_loss, mj.supervised(MODEL).predict, lambda *_: None)


def maml(num_steps: int, rate: float, model: mj.Model | Objective = MODEL) -> mj.Learner:
    return mj.maml(model, inner=optax.sgd(rate), num_steps=num_steps)


# Learners that learn more than a model's parameters, or adapt less.


class RatedParams(NamedTuple):
    model: Params
    rates: Params


def meta_sgd(sign: float = -1.0, cut: bool = False) -> Make:
    objective = mj.supervised(MODEL)

    def make(num_steps: int, rate: float) -> mj.Learner:
        def start(key: Key, inputs: Array) -> RatedParams:
            params = objective.init(key, inputs)
            return RatedParams(params, jax.tree.map(lambda x: jnp.full_like(x, rate), params))

        def fit(
            params: RatedParams, support: Examples, key: Key | None, training: bool, observe: Any
        ) -> Any:
            rates = jax.lax.stop_gradient(params.rates) if cut else params.rates

            def update(gradient: Params, state: Any, params: Any = None) -> Any:
                return jax.tree.map(lambda rate, g: sign * rate * g, rates, gradient), state

            descent = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
            plain = mj.support_fit(objective, mj.InnerLoop(descent, num_steps))
            return plain(params.model, support, key, training, observe)

        return gradient_learner(objective, fit, init=start, record_steps=False)

    return make


def anil(cut: bool = False) -> Make:
    objective = mj.supervised(MODEL)

    def make(num_steps: int, rate: float) -> mj.Learner:
        def fit(
            params: Params, support: Examples, key: Key | None, training: bool, observe: Any
        ) -> Any:
            del key, training, observe
            features = embed(params, support.inputs)
            if cut:
                features = jax.lax.stop_gradient(features)
            head, seen = mj.inner_loop(
                lambda head, _: mj.cross_entropy(features @ head, *support[1:]),
                params["head"],
                optax.sgd(rate),
                num_steps=num_steps,
            )
            return {**params, "head": head}, seen

        return gradient_learner(objective, fit, record_steps=False)

    return make


def head_only(path: str) -> bool:
    return path == "head"


# Mistakes in the steps.


def squared_rate(num_steps: int, rate: float) -> mj.Learner:
    return maml(num_steps, rate**2)


def two_half_steps(num_steps: int, rate: float) -> mj.Learner:
    return maml(2 * num_steps, rate / 2)


# Mistakes with derivatives.


def first_order(num_steps: int, rate: float) -> mj.Learner:
    return mj.fomaml(MODEL, inner=optax.sgd(rate), num_steps=num_steps)


def prototypical(cut: bool = False) -> Make:
    def read(params: Params, embeddings: Array, support: Examples, present: Array) -> Array:
        centres = prototypes(embeddings, support.targets, present.shape[0], support.weights)
        return jax.lax.stop_gradient(centres) if cut else centres

    learner = metric_learner(
        init=lambda key, inputs: {"body": init(key, inputs)["body"]},
        encoder=mj.Model(init, embed),
        read=read,
        compare=lambda params, centres, queries, *rest: -squared_distances(queries, centres),
        ways=WAYS,
        query_batching="separate",
    )
    return lambda num_steps, rate: learner


# Mistakes with the key.


def dropped_key(num_steps: int, rate: float) -> mj.Learner:
    right = maml(num_steps, rate, NOISY)
    return right._replace(
        loss=lambda params, episode, key=None: right.loss(params, episode),
        adapt=lambda params, support, key=None: right.adapt(params, support),
    )


def one_key_for_all_steps(num_steps: int, rate: float) -> mj.Learner:
    def fit(
        params: Params, support: Examples, key: Key | None, training: bool, observe: Any
    ) -> Any:
        del training
        return mj.inner_loop(
            lambda phi, _: noisy_loss(phi, support, key, None)[0],
            params,
            optax.sgd(rate),
            num_steps=num_steps,
            observe=observe,
        )

    return gradient_learner(NOISY, fit, record_steps=False)


# Mistakes with the sets.


def unweighted_loss(num_steps: int, rate: float) -> mj.Learner:
    return mj.maml(
        MODEL,
        inner=optax.sgd(rate),
        num_steps=num_steps,
        loss_fn=lambda outputs, targets, weights: mj.cross_entropy(outputs, targets),
        metrics={"accuracy": mj.accuracy},
    )


def on_other_items(change: Callable[[mj.Episode], Examples]) -> Make:
    def make(num_steps: int, rate: float) -> mj.Learner:
        right = maml(num_steps, rate)

        def loss(params: Params, episode: mj.Episode, key: Key | None = None) -> Any:
            return right.loss(params, episode._replace(support=change(episode)), key)

        return right._replace(loss=loss)

    return make


def both_sets(episode: mj.Episode) -> Examples:
    return jax.tree.map(lambda *sets: jnp.concatenate(sets), *episode)


# Mistakes in the meta-loss.


def before_the_last_step(num_steps: int, rate: float) -> mj.Learner:
    right = mj.maml(MODEL, inner=optax.sgd(rate), num_steps=num_steps, record_steps=True)

    def loss(params: Params, episode: mj.Episode, key: Key | None = None) -> Any:
        _, aux = right.loss(params, episode, key)
        return aux.metrics["query_loss_per_step"][-2], aux

    return right._replace(loss=loss)


def mean_of_both_losses(num_steps: int, rate: float) -> mj.Learner:
    right = maml(num_steps, rate)

    def loss(params: Params, episode: mj.Episode, key: Key | None = None) -> Any:
        value, aux = right.loss(params, episode, key)
        support = without_padding(episode.support)
        task = right.adapt(params, support, key)
        outputs = right.predict(params, task, support.inputs)
        return (value + mj.cross_entropy(outputs, *support[1:])) / 2, aux

    return right._replace(loss=loss)


def reptile_backwards(num_steps: int, rate: float) -> mj.Learner:
    right = mj.reptile(MODEL, inner=optax.sgd(rate), num_steps=num_steps)

    def loss(params: Params, episode: mj.Episode, key: Key | None = None) -> Any:
        value, aux = right.loss(params, episode, key)
        return -value, aux

    return right._replace(loss=loss)


class Wrong(NamedTuple):
    """A learner as its author would register it, and the checks that refuse it."""

    row: Row
    refused_by: set[str]


def wrong(name: str, make: Make, *refused_by: str, **claims: Any) -> Wrong:
    return Wrong(Row(name, make, **{"adapts": everything, **claims}), set(refused_by))


RIGHT = (
    Row("maml", maml, everything),
    Row("maml_noisy", lambda *steps: maml(*steps, NOISY), everything, draws=True),
    Row("meta_sgd", meta_sgd(), everything),
    Row("anil", anil(), head_only),
    Row("prototypical", prototypical()),
)
WRONG = (
    wrong(
        "meta_sgd_climbs",
        meta_sgd(1.0),
        "first_step_is_steepest_descent",
        "support_loss_falls_with_the_steps",
    ),
    wrong(
        "meta_sgd_rates_cut",
        meta_sgd(cut=True),
        "gradient_is_the_derivative_as_claimed",
        "gradient_reaches_every_parameter",
    ),
    wrong(
        "anil_body_cut", anil(cut=True), "gradient_is_the_derivative_as_claimed", adapts=head_only
    ),
    wrong("anil_adapts_all", maml, "first_step_is_steepest_descent", adapts=head_only),
    wrong("squared_rate", squared_rate, "first_step_is_steepest_descent"),
    wrong("two_half_steps", two_half_steps, "first_step_is_steepest_descent"),
    wrong("first_order", first_order, "gradient_is_the_derivative_as_claimed"),
    wrong("exact_said_first_order", maml, "gradient_is_the_derivative_as_claimed", exact=False),
    wrong(
        "prototypes_cut",
        prototypical(cut=True),
        "gradient_is_the_derivative_as_claimed",
        adapts=None,
    ),
    wrong(
        "dropped_key",
        dropped_key,
        "every_step_draws_anew",
        "results_depend_on_the_key_as_claimed",
        draws=True,
    ),
    wrong("one_key_for_all_steps", one_key_for_all_steps, "every_step_draws_anew", draws=True),
    wrong(
        "unweighted_loss",
        unweighted_loss,
        "padding_changes_nothing",
        "weight_two_is_the_item_twice",
    ),
    wrong(
        "adapts_to_the_queries",
        on_other_items(lambda episode: episode.query),
        "adapt_and_predict_give_the_outputs_of_loss",
        "outputs_depend_on_the_support_targets_alone",
    ),
    wrong(
        "adapts_to_both_sets",
        on_other_items(both_sets),
        "adapt_and_predict_give_the_outputs_of_loss",
        "outputs_depend_on_the_support_targets_alone",
    ),
    wrong(
        "before_the_last_step", before_the_last_step, "meta_loss_is_the_query_loss_of_the_outputs"
    ),
    wrong("mean_of_both_losses", mean_of_both_losses, "meta_loss_is_the_query_loss_of_the_outputs"),
    wrong(
        "reptile_backwards",
        reptile_backwards,
        "step_against_the_gradient_lowers_the_query_loss",
        exact=False,
        pseudo_loss=True,
    ),
)


def refusals(row: Row) -> set[str]:
    """The checks of the algorithm that refuse a learner."""
    refused = set()
    for name, check in CHECKS.items():
        if check.about == "algorithm" and check.of(row):
            try:
                check(row)
            except AssertionError:
                refused.add(name)
    return refused


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=row.name, marks=[] if row.name in ("anil", "meta_sgd") else SLOW)
        for row in RIGHT
    ],
)
def test_a_right_learner_passes(row: Row) -> None:
    assert refusals(row) == set()


# Refused for the same reason as another of them.
ALIKE = {
    "anil_adapts_all",
    "first_order",
    "exact_said_first_order",
    "two_half_steps",
    "adapts_to_both_sets",
    "mean_of_both_losses",
    "one_key_for_all_steps",
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.row.name, marks=SLOW if case.row.name in ALIKE else [])
        for case in WRONG
    ],
)
def test_a_wrong_learner_is_refused(case: Wrong) -> None:
    assert refusals(case.row) == case.refused_by


def test_the_table_of_the_page_is_this_one() -> None:
    page = Path(__file__).parent.parent / "docs" / "inside" / "truth.md"
    rows = re.findall(r"^\| (\w+) \| [^|]+ \| ([\w, ]+) \|$", page.read_text(), re.M)
    table = {name: set(checks.split(", ")) for name, checks in rows if name != "learner"}
    assert table == {case.row.name: case.refused_by for case in WRONG}
