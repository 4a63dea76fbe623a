"""What learners that compare refuse, beside what `test_bad_input` tries on every learner."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
import pytest

import metajax as mj

KEY = jax.random.key(0)
SGD = optax.sgd(0.1)
WAYS = 3

Factory = Callable[..., mj.Learner]


def identity() -> mj.Model:
    return mj.Model(lambda key, inputs: {}, lambda params, inputs: inputs)


def pair_module(width: int) -> mj.Model:
    """A linear relation module of `width` outputs."""

    def init(key: jax.Array, pairs: jax.Array) -> jax.Array:
        return jnp.ones((pairs.shape[-1], width))

    return mj.Model(init, lambda params, pairs: pairs @ params)


def relation_network(encoder: mj.Model, **options: object) -> mj.Learner:
    return mj.relation_network(encoder, pair_module(1), **options)


def proto_maml(encoder: mj.Model, **options: object) -> mj.Learner:
    return mj.proto_maml(encoder, inner=SGD, num_steps=1, **options)


def fo_proto_maml(encoder: mj.Model, **options: object) -> mj.Learner:
    return mj.fo_proto_maml(encoder, inner=SGD, num_steps=1, **options)


FACTORIES = (
    mj.linear_probe,
    mj.prototypical_network,
    mj.matching_network,
    mj.mahalanobis_head,
    mj.nearest_class_mean,
    mj.ridge_head,
    relation_network,
    proto_maml,
    fo_proto_maml,
)
each = pytest.mark.parametrize("factory", FACTORIES, ids=lambda factory: factory.__name__)


def episode(support: tuple[int, ...] = (0, 1, 2), query: tuple[int, ...] = (0, 1, 2)) -> mj.Episode:
    """Vectors with these labels."""
    sets = (
        mj.Examples(jnp.ones((len(labels), 4)), jnp.array(labels)) for labels in (support, query)
    )
    return mj.Episode(*sets)


def start(learner: mj.Learner) -> object:
    return learner.init(KEY, episode().support.inputs)


@each
def test_good_episode_is_accepted(factory: Factory) -> None:
    learner = factory(identity())
    # One program, in which the labels are known.
    loss = jax.jit(lambda params: learner.loss(params, episode())[0])
    assert jnp.isfinite(loss(start(learner)))


@each
def test_query_class_without_support_item(factory: Factory) -> None:
    learner = factory(identity())
    message = (
        r"query has the labels \[2\] but no support item has; expected at least one support item "
        "of every class"
    )
    with pytest.raises(ValueError, match=message):
        learner.loss(start(learner), episode((0, 1, 1), (0, 2, 1)))


@each
def test_query_class_whose_support_items_are_all_padding(factory: Factory) -> None:
    learner = factory(identity())
    support, query = episode()
    support = support._replace(weights=jnp.array([1.0, 1.0, 0.0]))
    with pytest.raises(ValueError, match=r"query has the labels \[2\] but no support item has"):
        learner.loss(start(learner), mj.Episode(support, query))


@each
@pytest.mark.parametrize(("ways", "room"), [(None, "there are 3 support"), (2, "the learner has")])
@pytest.mark.parametrize("label", [3, -1])
def test_labels_outside(factory: Factory, ways: int | None, room: str, label: int) -> None:
    learner = factory(identity(), ways=ways)
    bad = episode((0, label, 1), (0, 1, 1))
    message = rf"support has the label {label} but {room}.*; expected labels in \[0, {ways or 3}\)"
    with pytest.raises(ValueError, match=message):
        learner.loss(start(learner), bad)
    with pytest.raises(ValueError, match=message):
        learner.adapt(start(learner), bad.support)


@pytest.mark.parametrize(
    ("factory", "name"),
    [
        (mj.linear_probe, "linear_probe"),
        (mj.prototypical_network, "prototypical_network"),
        (mj.matching_network, "matching_network"),
        (mj.mahalanobis_head, "mahalanobis_head"),
        (mj.nearest_class_mean, "nearest_class_mean"),
        (mj.ridge_head, "ridge_head"),
        (proto_maml, "proto_maml"),
        (fo_proto_maml, "proto_maml"),
    ],
)
def test_encoder_that_returns_feature_maps(factory: Factory, name: str) -> None:
    encoder = mj.models.from_linen(mj.models.ConvNet(None, 4, blocks=1, features="map"))
    learner = factory(encoder)
    items = mj.Examples(jnp.zeros((WAYS, 8, 8, 1)), jnp.arange(WAYS))
    params = learner.init(KEY, items.inputs)
    message = (
        rf"{name} got embeddings of shape \(3, 4, 4, 4\); expected \[items, features\]: let the "
        "encoder flatten its maps or take their mean"
    )
    with pytest.raises(ValueError, match=message):
        learner.loss(params, mj.Episode(items, items))


@each
def test_encoder_that_is_no_model(factory: Factory) -> None:
    with pytest.raises(
        TypeError, match=r"encoder is MLP[^;]*; expected a metajax.Model: wrap a Flax"
    ):
        factory(mj.models.MLP((3,)))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (
            lambda: mj.matching_network(identity(), support_encoder=mj.models.MLP((3,))),
            "support_encoder",
        ),
        (lambda: mj.relation_network(identity(), mj.models.RelationModule()), "relation"),
    ],
)
def test_second_module_that_is_no_model(make: Callable, name: str) -> None:
    with pytest.raises(TypeError, match=rf"{name} is [^;]*; expected a metajax.Model"):
        make()


@each
def test_unknown_query_batching(factory: Factory) -> None:
    message = r"query_batching='all'; expected \"separate\", \"joint\", \"single\" or \"support\""
    with pytest.raises(ValueError, match=message):
        factory(identity(), query_batching="all")


def test_joint_batch_of_two_encoders() -> None:
    message = (
        r"query_batching=\"joint\" embeds both sets at once, but support and query have encoders "
        r"of their own; expected \"separate\", \"single\" or \"support\""
    )
    with pytest.raises(ValueError, match=message):
        mj.matching_network(identity(), support_encoder=identity(), query_batching="joint")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"features": 0}, ValueError, r"features=0; expected an integer of 1 or more"),
        ({"features": 2.5}, TypeError, r"features=2.5; expected an integer of 1 or more"),
        (
            {"features": 4, "read_steps": -1},
            ValueError,
            r"read_steps=-1; expected an integer of 0 or more",
        ),
        ({"features": 4, "read_steps": 1.5}, TypeError, r"read_steps=1.5; expected an integer"),
    ],
)
def test_full_context_numbers(
    options: dict[str, int], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        mj.models.full_context(**options)


@pytest.mark.parametrize("temperature", [0, 0.0, -1.0, float("nan")])
def test_temperature(temperature: float) -> None:
    with pytest.raises(ValueError, match=rf"temperature={temperature}; expected a number above 0"):
        mj.matching_network(identity(), temperature=temperature)


@each
@pytest.mark.parametrize("which", ["support", "query"])
def test_targets_that_are_no_labels(factory: Factory, which: str) -> None:
    learner = factory(identity())
    whole = episode()
    examples = getattr(whole, which)
    bad = whole._replace(**{which: examples._replace(targets=jnp.zeros((3, 3)))})
    message = rf"{which} has float32 targets of shape \(3, 3\); expected \[items\] integer labels"
    with pytest.raises(ValueError, match=message):
        learner.loss(start(learner), bad)


@pytest.mark.parametrize("separate", [False, True], ids=["one_encoder", "two_encoders"])
def test_full_context_of_another_width(separate: bool) -> None:
    support_encoder = identity() if separate else None
    learner = mj.matching_network(
        identity(), support_encoder=support_encoder, full_context=mj.models.full_context(6)
    )
    message = (
        r"the embeddings have 4 features but full_context was made for 6; expected "
        r"full_context\(features=4\)"
    )
    with pytest.raises(ValueError, match=message):
        learner.loss(start(learner), episode())


def test_full_context_of_another_width_than_the_queries() -> None:
    context = mj.models.full_context(3)
    params = context.init(KEY)
    message = r"the embeddings have 4 features but full_context was made for 3"
    with pytest.raises(ValueError, match=message):
        context.query(params, jnp.ones((2, 4)), jnp.ones((2, 3)), None)


def test_relation_module_of_another_width() -> None:
    learner = mj.relation_network(identity(), pair_module(2))
    message = (
        r"the relation module gave outputs of shape \(9, 2\) for 9 pairs; expected \[pairs, 1\]"
    )
    with pytest.raises(ValueError, match=message):
        learner.loss(start(learner), episode())


@pytest.mark.parametrize("factory", [mj.proto_maml, mj.fo_proto_maml])
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"inner": 0.4}, TypeError, r"inner is 0.4; expected an optax.GradientTransformation"),
    ],
    ids=str,
)
def test_inner_loop_of_proto_maml(
    factory: Factory, changes: dict, error: type[Exception], message: str
) -> None:
    options = {"inner": SGD, "num_steps": 1, **changes}
    with pytest.raises(error, match=message):
        factory(identity(), **options)


def test_scores_of_another_shape() -> None:
    encoder = mj.models.mlp((3,))
    learner = mj.metric_learner(
        init=encoder.init,
        encoder=encoder,
        read=lambda params, embeddings, support, present: embeddings,
        compare=lambda params, reading, queries, present: queries[:, :1],
        ways=3,
        query_batching="separate",
    )
    with pytest.raises(ValueError, match=r"scores of shape \(3, 1\) for 3 queries and 3 ways"):
        learner.loss(start(learner), episode())
