"""Every slip gets an error that says what was got, what was expected and what to do."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from learners import LEARNERS, SIDE, WAYS, Row, episode, model

import metajax as mj

KEY = jax.random.key(0)
IMAGES = np.zeros((12, 6, 8, 8, 1), np.uint8)
SGD = optax.sgd(0.1)


def _factories() -> list[Callable[..., mj.Learner]]:
    return [mj.maml, mj.fomaml, mj.reptile]  # Those that take a model or an objective.


def _sampler(**changes: object) -> object:
    options = {"ways": 5, "shots": 1, "queries": 5, **changes}
    images = options.pop("images", IMAGES)
    return mj.data.image_episodes(images, **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ways": 20}, r"ways=20 but the data set has 12 classes; lower ways"),
        ({"ways": 49, "rotations": "classes"}, r"ways=49 but the data set has 48 classes"),
        ({"shots": 4}, r"takes 9 items of a class, but 12 of 12 classes have fewer: '0' \(6\)"),
        ({"images": IMAGES[0]}, r"images have shape \(6, 8, 8, 1\); expected \[classes, items"),
        ({"images": IMAGES[:0]}, r"images have shape \(0, 6, 8, 8, 1\).* none of them 0"),
        ({"rotations": "all"}, r"rotations='all'; expected \"none\", \"classes\", \"tasks\" or"),
        (
            {"images": np.zeros((12, 6, 8, 9, 1)), "rotations": "tasks"},
            r"rotations='tasks' of images of shape \(8, 9, 1\); expected square",
        ),
    ],
)
def test_sampler(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _sampler(**changes)


@pytest.mark.parametrize("factory", _factories())
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"inner": 0.4}, TypeError, r"inner is 0.4; expected an optax.GradientTransformation"),
        ({"query_batching": "all"}, ValueError, r"query_batching='all'; expected \"separate\""),
    ],
)
def test_factory(factory: Callable, changes: dict, error: type, message: str) -> None:
    options = {"inner": SGD, "num_steps": 1, **changes}
    with pytest.raises(error, match=message):
        factory(model(), **options)


@pytest.mark.parametrize("factory", _factories())
def test_factory_needs_a_model(factory: Callable) -> None:
    with pytest.raises(TypeError, match=r"expected a metajax.Model: wrap a Flax module"):
        factory(mj.models.MLP((3,)), inner=SGD, num_steps=1)


@pytest.mark.parametrize("factory", _factories())
def test_an_objective_has_its_own_options(factory: Callable) -> None:
    objective = mj.supervised(model(), mj.squared_error)
    with pytest.raises(ValueError, match=r"an Objective brings its own loss"):
        factory(objective, inner=SGD, num_steps=1, loss_fn=mj.squared_error)


def test_metrics_of_the_librarys_names() -> None:
    with pytest.raises(ValueError, match=r"metrics has the names \['query_loss'\].*rename"):
        mj.maml(model(), inner=SGD, num_steps=1, metrics={"query_loss": mj.accuracy})


def test_a_label_that_only_mini_batches_would_see() -> None:
    learner = mj.reptile(mj.models.mlp((WAYS - 1,)), inner=SGD, num_steps=1, batch_size=2)
    params = learner.init(KEY, jnp.zeros((1, SIDE, SIDE, 1)))
    with pytest.raises(ValueError, match=r"support has the label 2 but the model has 2 outputs"):
        learner.loss(params, episode(KEY), KEY)


def _labels(targets: list[int]) -> Callable[[mj.Episode], mj.Episode]:
    def change(good: mj.Episode) -> mj.Episode:
        return good._replace(support=good.support._replace(targets=jnp.array(targets)))

    return change


def _query(images: jax.Array) -> Callable[[mj.Episode], mj.Episode]:
    def change(good: mj.Episode) -> mj.Episode:
        return good._replace(query=good.query._replace(inputs=images))

    return change


BAD_EPISODES = [
    (
        _labels([0, 0, 1, 2, 9, 9]),
        r"support has the label 9 but .*; expected labels in \[0, [36]\): relabel",
    ),
    (
        _labels([0, 0, 1, 1, -1, 2]),
        r"support has the label -1 but .*; expected labels in \[0, [36]\): relabel",
    ),
    (_labels([0, 0, 1]), r"support has 6 inputs but targets of shape \(3,\)"),
    (
        _query(jnp.zeros((12, 4, 4, 1))),
        r"support items have shape \(8, 8, 1\) but query items \(4, 4, 1\)",
    ),
    (_query(jnp.zeros((0, 8, 8, 1))), r"query inputs have shape \(0, 8, 8, 1\); expected"),
    (
        lambda good: good._replace(support=good.support._replace(weights=jnp.ones(4))),
        r"support weights have shape \(4,\); expected \(6,\), one number an item",
    ),
    (
        lambda good: jax.tree.map(lambda x: x.astype(jnp.uint8) if x.ndim > 1 else x, good),
        r"(MLP|ConvNet) got uint8 inputs; expected floats",
    ),
    (
        lambda good: jax.tree.map(lambda x: x.astype(jnp.float32), good),
        r"(got|has) float32 targets.*; expected .*integer labels",
    ),
]


@pytest.mark.parametrize("row", LEARNERS, ids=lambda row: row.name)
@pytest.mark.parametrize(("change", "message"), BAD_EPISODES)
def test_episode(row: Row, change: Callable, message: str) -> None:
    learner = row.learner()
    params = learner.init(KEY, jnp.zeros((1, SIDE, SIDE, 1)))
    with pytest.raises(ValueError, match=message):
        learner.loss(params, change(episode(KEY)), KEY)


@pytest.mark.parametrize("row", LEARNERS, ids=lambda row: row.name)
def test_parameters_of_another_model(row: Row) -> None:
    learner = row.learner()
    params = learner.init(KEY, jnp.zeros((1, SIDE, SIDE, 1)))
    good = episode(KEY)
    leaves, structure = jax.tree.flatten(params)
    wide = jax.tree.unflatten(structure, [jnp.zeros((7, *leaves[0].shape)), *leaves[1:]])
    with pytest.raises(ValueError, match=r"the parameter .* has shape \(7, .*; the model expects"):
        learner.loss(wide, good)
    with pytest.raises(ValueError, match=r"the parameters lack .*, which the model has"):
        learner.adapt({}, good.support)


def test_parameters_of_another_model_are_named() -> None:
    learner = mj.maml(model(), inner=SGD, num_steps=1)
    wide = learner.init(KEY, jnp.zeros((1, 10, 10, 1)))
    with pytest.raises(
        ValueError, match=r"Dense_0/kernel has shape \(100, 16\); the model expects"
    ):
        learner.loss(wide, episode(KEY))
    params = learner.init(KEY, jnp.zeros((1, SIDE, SIDE, 1)))
    with pytest.raises(ValueError, match=r"the parameters hold extra, which the model has not"):
        learner.loss({**params, "extra": jnp.zeros(())}, episode(KEY))


def test_labels_outside_are_nan_inside_a_compiled_program() -> None:
    loss = jax.jit(mj.cross_entropy)(jnp.zeros((2, 3)), jnp.array([0, -1]))
    assert jnp.isnan(loss)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: mj.cross_entropy(jnp.zeros((2, 3)), jnp.zeros((2, 3), int)),
            r"outputs of shape \(2, 3\) and targets of shape \(2, 3\); expected \[items, ways\]",
        ),
        (
            lambda: mj.squared_error(jnp.zeros((2, 1)), jnp.zeros(2)),
            r"outputs of shape \(2, 1\) and targets of shape \(2,\); expected the same shape",
        ),
        (
            lambda: mj.squared_error(jnp.zeros(2), jnp.zeros(2, int)),
            r"squared_error got int32 targets; expected floats",
        ),
    ],
)
def test_losses(call: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


TOO_WIDE = (
    r"the model has 4 outputs but 16 episodes have the labels \[0, 1, 2\] alone; expected a model "
    "with one output a way"
)


def _wide_model() -> tuple[mj.Learner, dict]:
    learner = mj.maml(mj.models.mlp((WAYS + 1,)), inner=SGD, num_steps=1)
    return learner, learner.init(KEY, jnp.zeros((1, SIDE, SIDE, 1)))


def test_training_refuses_a_model_of_another_width() -> None:
    learner, params = _wide_model()
    optimizer = optax.adam(1e-3)
    with pytest.raises(ValueError, match=TOO_WIDE):
        mj.train(
            learner,
            optimizer,
            mj.init_state(params, optimizer, KEY),
            episode,
            iterations=1,
            meta_batch=1,
        )


def test_evaluation_refuses_a_model_of_another_width() -> None:
    learner, params = _wide_model()
    with pytest.raises(ValueError, match=TOO_WIDE):
        mj.evaluate(learner, params, episode, episodes=2)


def test_outer_optimizer() -> None:
    learner, params = _wide_model()
    with pytest.raises(TypeError, match=r"optimizer is 0.1; expected an optax"):
        mj.train_step(learner, 0.1)
    with pytest.raises(TypeError, match=r"optimizer is 0.1; expected an optax"):
        mj.init_state(params, 0.1, KEY)


def test_chunk_size_must_divide_the_tasks() -> None:
    learner, params = _wide_model()
    episodes = jax.vmap(lambda key: episode(key, ways=WAYS + 1))(jax.random.split(KEY, 3))
    with pytest.raises(ValueError, match=r"chunk_size=2 with 3 tasks; expected a divisor"):
        mj.meta_gradient(learner.loss, params, episodes, jax.random.split(KEY, 3), chunk_size=2)


def test_episodes_need_a_task_axis() -> None:
    learner, params = _wide_model()
    with pytest.raises(ValueError, match=r"expected one leading task axis"):
        mj.meta_gradient(learner.loss, params, episode(KEY), jax.random.split(KEY, 3))


def test_missing_metric_names_those_there_are() -> None:
    scores = mj.Evaluation({"accuracy": np.zeros(2)}, 2, 0)
    with pytest.raises(KeyError, match=r"no metric 'loss'; this learner reports accuracy"):
        scores.mean("loss")
