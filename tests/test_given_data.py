"""Data as people have them: tuples, lists, NumPy's numbers; and what cannot be meant."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj
from metajax.given_data import as_episode, as_examples, as_host_episode

KEY = jax.random.key(0)
X, Y = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32), [0, 1, 2, 0, 1, 2]


def linear() -> mj.Model:
    return mj.Model(
        lambda key, inputs: {"w": jnp.ones((inputs.shape[-1], 3))},
        lambda params, x: x @ params["w"],
    )


def learner(**options: Any) -> mj.Learner:
    return mj.maml(linear(), inner=optax.sgd(0.1), num_steps=1, **options)


WHOLE = mj.Episode(
    mj.Examples(jnp.asarray(X), jnp.array(Y)), mj.Examples(jnp.asarray(X), jnp.array(Y))
)


@pytest.mark.parametrize(
    "episode",
    [
        ((X, Y), (X, Y)),
        mj.Episode((X, Y), (X, Y)),  # type: ignore[arg-type]
        [[X, np.array(Y)], (X, Y, None)],
        ((X.tolist(), Y), (X, tuple(Y))),
        mj.Episode(mj.Examples(X, Y), mj.Examples(X, [np.int64(y) for y in Y])),  # type: ignore[arg-type]
    ],
)
def test_what_is_an_episode(episode: Any) -> None:
    taken, on_host = as_episode(episode), as_host_episode(episode, "episode 3")
    assert {type(leaf) for leaf in jax.tree.leaves(on_host)} == {np.ndarray}
    for each in (taken, on_host):
        assert jax.tree.structure(each) == jax.tree.structure(WHOLE)
        for ours, theirs in zip(*map(jax.tree.leaves, (each, WHOLE)), strict=True):
            np.testing.assert_array_equal(ours, theirs)
            assert ours.dtype == theirs.dtype
    params = linear().init(KEY, X)
    task = learner().adapt(params, episode[0])
    assert learner().loss(params, episode)[1].outputs.shape == (6, 3)
    assert learner().predict(params, task, X.tolist()).shape == (6, 3)


@pytest.mark.parametrize(
    ("episode", "error", "message"),
    [
        (WHOLE.support, TypeError, "the episode is a Examples; expected metajax.Episode"),
        ({"support": 1}, TypeError, "the episode is a dict; expected metajax.Episode"),
        ((X, Y), TypeError, "support is a ndarray; expected metajax.Examples"),
        (((X, Y), (X, Y), (X, Y)), TypeError, "the episode is a tuple"),
        (
            ((X, ["a"] * 6), (X, Y)),
            TypeError,
            "support targets at '0' is 'a'; expected arrays alone",
        ),
        (((X[0], 0), (X, Y)), ValueError, "is it one item without an axis of items, inputs"),
        (((X, Y[:2]), (X, Y)), ValueError, "6 inputs but targets of shape"),
        (
            (({"a": X, "b": X[:2]}, Y), (X, Y)),
            ValueError,
            r"support inputs have the shapes .*'b': \(2, 4\).* the same number of them everywhere",
        ),
        (((X, Y), ({"a": X}, Y)), ValueError, "expected the same item shape in both"),
        (((X, Y), (X[:, :2], Y)), ValueError, "expected the same item shape in both"),
    ],
)
def test_what_is_none(episode: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        as_episode(episode)
    with pytest.raises(error, match=message.replace("the episode", "episode 3")) as raised:
        as_host_episode(episode, "episode 3")
    assert str(raised.value).startswith("episode 3")


@pytest.mark.parametrize("kind", ["U1", object, "M8[D]"])
def test_arrays_of_no_numbers(kind: Any) -> None:
    with pytest.raises(TypeError, match=r"support targets is .*; expected arrays alone"):
        as_host_episode(((X, np.zeros(6, kind)), (X, Y)), "episode 3")


def test_an_episode_is_no_support_set() -> None:
    with pytest.raises(TypeError, match=r"support is a Episode; .*: episode\.support"):
        as_examples(WHOLE, "support")


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"w": jnp.ones((4, 3), jnp.int32)}, TypeError, "parameter w is of int32; expected floats"),
        ({"params": {"w": jnp.ones((4, 3))}}, ValueError, r"the whole variables of a module"),
        (
            {"params": {"w": jnp.ones((4, 3))}, "batch_stats": {"mean": jnp.ones(3)}},
            ValueError,
            r"\['batch_stats', 'params'\]; expected those of 'params' alone, and \['batch_stats'\]",
        ),
        ({"w": jax.nn.relu}, TypeError, "the parameters at 'w' is .*; expected arrays alone: a"),
    ],
)
def test_parameters_of_another_kind(params: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        learner().loss(params, WHOLE)


def test_an_integer_among_the_parameters_is_named_where_they_are_made() -> None:
    counting = mj.Model(
        lambda key, x: {"w": jnp.ones((4, 3)), "count": jnp.zeros((), jnp.int32)},
        lambda params, x: x @ params["w"],
    )
    counted = mj.maml(counting, inner=optax.sgd(0.1), num_steps=1)
    with pytest.raises(TypeError, match="the parameter count is of int32; expected floats"):
        counted.init(KEY, X)
    state = mj.init_state(linear().init(KEY, X), optax.sgd(0.1), KEY)
    state = state._replace(params={"w": jnp.ones((4, 3), jnp.int32)})
    with pytest.raises(TypeError, match="the parameter w is of int32"):
        mj.train_step(counted, optax.sgd(0.1))(state, jax.tree.map(lambda x: x[None], WHOLE))


def test_one_item_without_its_axis_is_named() -> None:
    params = linear().init(KEY, X)
    task = learner().adapt(params, WHOLE.support)
    with pytest.raises(
        ValueError, match=r"gave outputs of shape \(3,\) for inputs of shape \(4,\)"
    ):
        learner().predict(params, task, X[0])


def test_the_error_of_a_network_is_noted_with_what_it_was_given() -> None:
    params = linear().init(KEY, X)
    with pytest.raises(TypeError, match="dot_general") as raised:
        linear().apply(params, X[:, :2])
    note = "The model was applied to inputs of shape (6, 2); expected [items, ...]."
    assert sum(noted.startswith(note) for noted in raised.value.__notes__) == 1


def test_one_item_of_as_many_numbers_as_there_are_ways_is_named() -> None:
    """Its outputs look like those of items, until there are more of them."""
    params = jnp.ones((3, 3))
    square = mj.Model(lambda key: jnp.ones((3, 3)), lambda params, x: x @ params)
    made = mj.maml(square, inner=optax.sgd(0.1), num_steps=1)
    task = made.adapt(params, (X[:, :3], Y))
    with pytest.raises(ValueError, match=r"takes 3 items and not 4: is it one item without an axi"):
        made.predict(params, task, X[0, :3])
    with pytest.raises(ValueError, match=r"task and inputs of shape \(3, 2\) .*got \(2,\) and"):
        made.predict(params, task, X[:3, :2])


@pytest.mark.parametrize("ways", [3, 4])
def test_ways_in_a_program_of_ones_own(ways: int) -> None:
    """The model's width is found while tracing; a label that it lacks makes the loss NaN."""
    params = linear().init(KEY, X)
    loss = jax.jit(learner(ways=ways).loss)
    if ways == 4:
        with pytest.raises(ValueError, match=r"outputs of shape \(6, 3\) with ways=4; expected"):
            loss(params, WHOLE)
        return
    assert np.isfinite(loss(params, WHOLE)[0])
    for labels, outside in (([0, 1, 0, 1, 0, 1], False), ([0, 1, 2, 3, 4, 2], True)):
        other = WHOLE._replace(support=WHOLE.support._replace(targets=jnp.array(labels)))
        assert np.isnan(loss(params, other)[0]) == outside
    padded = WHOLE.support._replace(
        targets=jnp.array([0, 1, 0, 1, 0, 9]), weights=jnp.array([1.0] * 5 + [0.0])
    )
    assert np.isfinite(loss(params, WHOLE._replace(support=padded))[0])


def test_ways_are_of_labels() -> None:
    regression = mj.Episode(mj.Examples(X, X[:, :3]), mj.Examples(X, X[:, :3]))
    with pytest.raises(ValueError, match=r"with ways=3; expected \[items\] integer labels"):
        learner(ways=3, loss_fn=mj.squared_error).loss(linear().init(KEY, X), regression)


def test_a_mini_batch_need_not_hold_all_ways() -> None:
    made = mj.reptile(linear(), inner=optax.sgd(0.1), num_steps=2, batch_size=1, ways=3)
    value, aux = jax.jit(made.loss)(linear().init(KEY, X), WHOLE, KEY)
    assert np.isfinite([value, aux.metrics["query_loss"]]).all()


def weighted(weights: Any) -> mj.Episode:
    return WHOLE._replace(query=(X, Y, weights))  # type: ignore[arg-type]


@pytest.mark.parametrize("weights", [[True, False] * 3, (2, 0) * 3, np.array([1, 0] * 3, "u1")])
def test_weights_become_floats(weights: Any) -> None:
    for episode in (as_episode(weighted(weights)), as_host_episode(weighted(weights), "it")):
        assert episode.query.weights.dtype == np.float32  # type: ignore[union-attr]
        assert np.asarray(episode.query.weights).tolist() == [float(x) for x in weights]
    params = linear().init(KEY, X)
    halves = weighted([1.0, 0.0] * 3)
    np.testing.assert_array_equal(
        learner().loss(params, weighted(weights))[0], learner().loss(params, halves)[0]
    )


WRONG_WEIGHTS = (
    ([1.0] * 5 + [-1.0], r"query weights hold -1.0; expected finite numbers of 0 or more"),
    ([1.0] * 5 + [np.nan], r"query weights hold nan; expected finite"),
    (np.array([1.0] * 5 + [np.inf]), r"query weights hold inf; expected finite"),
    ([0] * 6, r"query weights are all 0, so that nothing is left to average"),
    (np.ones((6, 1)), r"query weights have shape \(6, 1\); expected \(6,\), one number an item"),
)


@pytest.mark.parametrize(("weights", "message"), WRONG_WEIGHTS)
def test_weights_that_are_known_are_checked(weights: Any, message: str) -> None:
    """Wherever an episode is given."""
    params, episode = linear().init(KEY, X), weighted(weights)
    state = mj.init_state(params, optax.sgd(0.1), KEY)
    for call in (
        lambda: learner().loss(params, episode),
        lambda: mj.prototypical_network(linear()).loss(params, episode),
        lambda: mj.data.pad_episodes([WHOLE, episode]),
        lambda: mj.data.FixedEpisode(episode),
        lambda: mj.evaluate(learner(), params, [episode] * 2, episodes=2),
        lambda: mj.train(learner(), optax.sgd(0.1), state, [episode], iterations=1, meta_batch=1),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match=message.replace("query", "support")):
        learner().adapt(params, episode.query)


@pytest.mark.parametrize(("weights", "message"), WRONG_WEIGHTS[:3])
def test_weights_of_a_meta_batch_are_checked(weights: Any, message: str) -> None:
    """Of weights that are all 0 may be a task that does not count."""
    params = linear().init(KEY, X)
    batch = jax.tree.map(lambda x: jnp.stack([x, x]), as_episode(WHOLE))
    both = np.stack([np.ones(6), weights])
    batch = batch._replace(query=batch.query._replace(weights=both))
    with pytest.raises(ValueError, match=message):
        mj.meta_gradient(learner().loss, params, batch, jax.random.split(KEY, 2))
    with pytest.raises(ValueError, match=message):
        as_host_episode(batch, "the first meta-batch", batched=True)
    empty = batch._replace(query=batch.query._replace(weights=np.zeros((2, 6))))
    assert as_host_episode(empty, "the first meta-batch", batched=True).query.weights is not None


def test_one_episode_of_lists() -> None:
    params, sample = linear().init(KEY, X), mj.data.FixedEpisode(((X.tolist(), Y), (X, tuple(Y))))
    expected = learner().loss(params, WHOLE, KEY)[1].metrics["query_loss"]
    got = mj.evaluate(learner(), params, sample, episodes=2).scores["query_loss"]
    np.testing.assert_allclose(got, [expected] * 2, rtol=1e-6)
    assert jax.tree.leaves(jax.tree.map(lambda x: x.shape, sample)) == [6, 4, 6, 6, 4, 6]
    with pytest.raises(TypeError, match="the episode is a int; expected"):
        mj.data.FixedEpisode(3)
