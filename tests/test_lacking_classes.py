"""Episodes that lack classes: one rule, whether labels are known or not."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj
from metajax.sample_checks import as_sample, check_sample_of

KEY = jax.random.key(0)
WAYS = 3
X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
SGD = optax.sgd(0.1)


def linear(width: int) -> mj.Model:
    def init(key: jax.Array, inputs: jax.Array) -> jax.Array:
        return jax.random.normal(key, (inputs.shape[-1], width))

    return mj.Model(init, lambda params, inputs: jnp.tanh(inputs @ params))


def relation(**options: Any) -> mj.Learner:
    return mj.relation_network(linear(2), linear(1), **options)


HEADS: dict[str, Callable[..., mj.Learner]] = {
    "maml": lambda **options: mj.maml(linear(WAYS), inner=SGD, num_steps=2, **options),
    "reptile": lambda **options: mj.reptile(linear(WAYS), inner=SGD, num_steps=2, **options),
}
COMPARING: dict[str, Callable[..., mj.Learner]] = {
    "prototypical": lambda **options: mj.prototypical_network(linear(2), **options),
    "prototypical_optax": lambda **options: mj.prototypical_network(
        linear(2), loss_fn=optax.softmax_cross_entropy_with_integer_labels, **options
    ),
    "matching": lambda **options: mj.matching_network(linear(2), **options),
    "relation": relation,
    "relation_entropy": lambda **options: relation(loss_fn=mj.cross_entropy, **options),
    "proto_maml": lambda **options: mj.proto_maml(linear(2), inner=SGD, num_steps=2, **options),
}


def names(learners: dict, *fast: str) -> list[Any]:
    return [pytest.param(x, marks=[] if x in fast else pytest.mark.slow) for x in learners]


FEW = ("maml", "prototypical")
each_head = pytest.mark.parametrize("name", names(HEADS, *FEW))
each_comparing = pytest.mark.parametrize("name", names(COMPARING, *FEW))
with_and_without = pytest.mark.parametrize("ways", [None, WAYS])


def episode(support: list[int], query: list[int], weights: list[int] | None = None) -> mj.Episode:
    own = None if weights is None else jnp.array(weights, jnp.float32)
    return mj.Episode(
        mj.Examples(jnp.asarray(X), jnp.array(support)),
        mj.Examples(jnp.asarray(X[::-1].copy()), jnp.array(query), own),
    )


class Subject:
    """A learner, its parameters, and its loss and gradient where labels are unknown."""

    def __init__(self, learner: mj.Learner) -> None:
        self.learner = learner
        self.params = learner.init(KEY, X)
        self._compiled = jax.jit(jax.value_and_grad(learner.loss, has_aux=True))

    def __call__(self, given: mj.Episode) -> tuple[Any, Any]:
        (loss, aux), gradient = self._compiled(self.params, given)
        return {"loss": loss, **aux.metrics}, gradient

    def known(self, given: mj.Episode) -> None:
        """Raises where what is known of labels is refused."""
        jax.eval_shape(lambda params: self.learner.loss(params, given), self.params)


@functools.cache
def subject_of(name: str, ways: int | None) -> Subject:
    return Subject((HEADS | COMPARING)[name](ways=ways))


@each_head
@with_and_without
def test_a_head_is_trained_on_what_lacks_classes(name: str, ways: int | None) -> None:
    subject = subject_of(name, ways)
    # In the support set, in the query set, in both.
    for support, query in (([0, 1] * 3, [0, 1, 2] * 2), ([0, 1, 2] * 2, [2] * 6), ([1] * 6,) * 2):
        given = episode(support, query)
        metrics, gradient = subject(given)
        chex.assert_tree_all_finite((metrics, gradient))
        subject.known(given)


@each_head
@with_and_without
@pytest.mark.parametrize("label", [-1, WAYS])
def test_a_head_refuses_labels_outside(name: str, ways: int | None, label: int) -> None:
    subject = subject_of(name, ways)
    for support, query in (([0, 1, 2, 0, 1, label], [0, 1, 2] * 2), ([0, 1, 2] * 2, [label] * 6)):
        given = episode(support, query)
        with pytest.raises(ValueError, match=f"has the label {label} but the model has 3 outputs"):
            subject.known(given)
        assert jnp.isnan(subject(given)[0]["query_loss"])


@each_comparing
@with_and_without
def test_classes_anywhere_are_compared_with(name: str, ways: int | None) -> None:
    """The first, one in the middle, the last: none of them is needed."""
    subject = subject_of(name, ways)
    results = []
    for classes in ([0, 1], [1, 2], [0, 2]):
        low, high = classes
        # Padding has label 0.
        query = [low, high, low, high, low, 0]
        given = episode([low, high, high, low, high, low], query, [1] * 5 + [0])
        subject.known(given)
        results.append(subject(given))
    chex.assert_tree_all_finite(results)
    for other in results[1:]:
        chex.assert_trees_all_close(other, results[0], rtol=1e-5, atol=1e-6)


def test_a_task_that_lacks_a_class_is_asked() -> None:
    learner, params = (subject := subject_of("prototypical", None)).learner, subject.params
    task = learner.adapt(params, (X[:3], [0, 2, 2]))
    finite = np.isfinite(np.asarray(learner.predict(params, task, X[:2])))
    np.testing.assert_array_equal(finite, [[True, False, True]] * 2)


@each_comparing
@with_and_without
def test_a_query_without_support_items_is_refused(name: str, ways: int | None) -> None:
    subject = subject_of(name, ways)
    given = episode([0, 1] * 3, [0, 1, 0, 1, 0, 2])
    with pytest.raises(ValueError, match=r"query has the labels \[2\] but no support item has"):
        subject.known(given)
    metrics, gradient = subject(given)
    assert not np.isfinite([metrics["loss"], metrics["query_loss"]]).any()
    if ways is not None:
        assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert np.isfinite(subject(episode([0, 1] * 3, [0, 1, 0, 1, 0, 2], [1] * 5 + [0]))[0]["loss"])


@each_comparing
@pytest.mark.parametrize("label", [-1, WAYS])
def test_ways_refuse_support_labels_outside(name: str, label: int) -> None:
    subject = subject_of(name, WAYS)
    metrics, gradient = subject(episode([0, 1, 2, 0, 1, label], [0, 1, 2] * 2))
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves((metrics["loss"], gradient)))


def check(learner: mj.Learner, *labels: list[int], weights: Any = None) -> int:
    """How many episodes were drawn."""
    drawn = []

    def episodes() -> Iterator[mj.Episode]:
        while True:
            chosen = labels[min(len(drawn), len(labels) - 1)]
            support, query = episode(chosen, chosen, weights)
            drawn.append(chosen)
            yield mj.Episode(support._replace(weights=query.weights), query)

    check_sample_of(learner, learner.init(KEY, X), as_sample(episodes()))
    return len(drawn)


WIDE = mj.maml(linear(5), inner=SGD, num_steps=1)
THREE = [0, 1, 2] * 2


def test_a_model_that_is_too_wide_is_found() -> None:
    message = r"the model has 5 outputs but 16 episodes have the labels \[0, 1, 2\] alone; expected"
    with pytest.raises(ValueError, match=message):
        check(WIDE, THREE)
    with pytest.raises(ValueError, match=message):
        check(WIDE, [0, 2] * 3, [0, 1] * 3)
    with pytest.raises(ValueError, match=r"has 3 outputs but 16 episodes have the labels \[0\]"):
        check(HEADS["reptile"](batch_size=2), [0] * 6)


def test_no_more_is_drawn_than_needed() -> None:
    assert check(HEADS["maml"](), THREE) == 1
    assert check(HEADS["maml"](), [0, 1] * 3, [1, 0] * 3, THREE, THREE) == 3
    assert check(WIDE, THREE, weights=[1] * 6) == 1  # Padded: their ways vary.
    assert check(mj.prototypical_network(linear(2), ways=5), THREE) == 1
    assert check(COMPARING["proto_maml"](ways=5), THREE) == 1
    assert check(COMPARING["proto_maml"](), THREE) == 1


def test_classes_that_all_episodes_share() -> None:
    assert check(WIDE, [0, 3] * 3, [3, 2] * 3) == 16


@pytest.mark.slow
def test_a_rare_class_trains_and_is_evaluated() -> None:
    """The episode that is looked at lacks it; the same under `train`, `evaluate` and by hand."""

    def sample(key: jax.Array) -> mj.Episode:
        support, query = jax.random.bernoulli(key, 0.2, (2, 6)).astype(jnp.int32)
        return episode([0] * 6, [0] * 6)._replace(
            support=mj.Examples(jnp.asarray(X), support), query=mj.Examples(jnp.asarray(X), query)
        )

    learner = mj.maml(linear(2), inner=SGD, num_steps=1)
    seen = [np.unique(sample(jax.random.key(index)).support.targets).size for index in range(16)]
    assert set(seen) == {1, 2}
    state = mj.init_state(learner.init(KEY, X), SGD, KEY)
    result = mj.train(
        learner, SGD, state, sample, iterations=4, meta_batch=2, dispatch=2, progress=False
    )
    assert int(result.state.step) == 4
    scores = mj.evaluate(learner, result.state.params, sample, episodes=4)
    assert np.isfinite(scores.mean("query_loss"))


@each_comparing
def test_labels_of_an_iterator_are_checked(name: str) -> None:
    learner = COMPARING[name]()
    support, query = jax.tree.map(np.asarray, episode([0, 0, 1, 1, 0, 1], [0, 1, 2] * 2))
    params = learner.init(KEY, jnp.asarray(X[:1]))
    with pytest.raises(ValueError, match=r"query has the labels \[2\] but no support item has"):
        mj.evaluate(learner, params, [(support, query)] * 2)
