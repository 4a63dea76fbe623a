"""The algorithms of `few_shot_characters.py`, each with what it is trained and tested with."""

import dataclasses
from typing import Literal

import optax

import metajax as mj

Batching = Literal["separate", "joint", "single"]


@dataclasses.dataclass(frozen=True)
class Setting:
    """Rates, numbers and sampling of one algorithm; inner rates belong to the mean cross-entropy.

    None stands for what the test has: as many ways or shots.
    """

    outer_rate: float
    meta_batch: int = 1
    inner_rate: float = 0.0
    steps: int = 0
    test_steps: int = 0
    filters: int = 64
    train_ways: int | None = None
    train_shots: int | None = None
    queries: int = 5
    batch_size: int | None = None
    test_batch_size: int | None = None
    # A random quarter turn a class and task, as in MAML's code, or the four turns as classes.
    rotations: Literal["tasks", "classes"] = "classes"
    query_batching: Batching = "separate"
    # Of matching networks; None is 1, the published plain cosine.
    temperature: float | None = None


# Half of the published filters: on the glyphs as accurate, in less time.
_MAML = Setting(
    outer_rate=3e-3,
    meta_batch=16,
    inner_rate=0.4,
    steps=1,
    test_steps=5,
    filters=32,
    rotations="tasks",
)
_PROTO_MAML = Setting(outer_rate=1e-3, train_ways=20, inner_rate=0.02, steps=3, test_steps=5)
SETTINGS = {
    "maml": _MAML,
    "fomaml": _MAML,
    # The head alone is cheap to adapt, and needs more steps.
    "anil": dataclasses.replace(_MAML, steps=5, test_steps=10),
    "boil": dataclasses.replace(_MAML, inner_rate=0.5),
    # Rates learned for one step are not made for five.
    "meta_sgd": dataclasses.replace(_MAML, test_steps=1),
    "reptile": Setting(
        outer_rate=1.0,
        meta_batch=5,
        inner_rate=1e-3,
        steps=5,
        test_steps=50,
        train_shots=10,
        batch_size=10,
        test_batch_size=5,
        rotations="tasks",
    ),
    "prototypical": Setting(outer_rate=1e-3, train_ways=30, query_batching="joint"),
    "matching": Setting(outer_rate=1e-3, train_ways=20),
    "matching_fce": Setting(outer_rate=1e-3, train_ways=20),
    "relation": Setting(outer_rate=1e-3, queries=15),
    "proto_maml": _PROTO_MAML,
    "fo_proto_maml": _PROTO_MAML,
}

# Their models end in a head with one output a way.
OF_FIXED_WAYS = ("maml", "fomaml", "anil", "boil", "meta_sgd", "reptile")


def make_learner(
    algorithm: str,
    setting: Setting,
    *,
    ways: int,
    test: bool,
    query_batching: Batching | None = None,
) -> mj.Learner:
    """The learner to train, or with `test` the one to score: more steps, the scores of each."""
    batching, filters = query_batching or setting.query_batching, setting.filters
    steps = setting.test_steps if test else setting.steps
    if algorithm in ("maml", "fomaml"):
        return mj.maml(
            mj.models.strided_conv_net(ways, filters=filters),
            inner=optax.sgd(setting.inner_rate),
            num_steps=steps,
            first_order=algorithm == "fomaml",
            query_batching=batching,
            record_steps=test,
        )
    if algorithm in ("anil", "boil"):
        factory = mj.anil if algorithm == "anil" else mj.boil
        return factory(
            mj.models.from_linen(mj.models.ConvNet(None, filters)),
            mj.models.mlp((ways,), stddev=0.2),
            inner=optax.sgd(setting.inner_rate),
            num_steps=steps,
            query_batching=batching,
            record_steps=test,
        )
    if algorithm == "meta_sgd":
        return mj.meta_sgd(
            mj.models.strided_conv_net(ways, filters=filters),
            num_steps=steps,
            rate=setting.inner_rate,
            query_batching=batching,
            record_steps=test,
        )
    if algorithm == "reptile":
        return mj.reptile(
            mj.models.strided_conv_net(ways, filters=filters),
            # The authors' Adam with beta1 = 0, its second moment carried from task to task.
            inner=optax.rmsprop(
                setting.inner_rate, decay=0.999, eps=1e-8, eps_in_sqrt=False, initial_scale=1e-3
            ),
            carry_state=True,
            num_steps=steps,
            batch_size=setting.test_batch_size if test else setting.batch_size,
            query_batching=batching,
            record_steps=test,
        )
    if algorithm == "relation":
        encoder = mj.models.relation_encoder(filters=filters)
        relation = mj.models.relation_module(filters=filters)
        return mj.relation_network(encoder, relation, ways=ways, query_batching=batching)
    encoder = mj.models.embedding_net(filters=filters)
    if algorithm == "prototypical":
        return mj.prototypical_network(encoder, ways=ways, query_batching=batching)
    if algorithm in ("matching", "matching_fce"):
        context = mj.models.full_context(filters) if algorithm == "matching_fce" else None
        return mj.matching_network(
            encoder,
            full_context=context,
            temperature=setting.temperature,
            ways=ways,
            query_batching=batching,
        )
    if algorithm not in ("proto_maml", "fo_proto_maml"):
        raise ValueError(f"algorithm={algorithm!r} has a setting and no learner; make it here")
    return mj.proto_maml(
        encoder,
        inner=optax.sgd(setting.inner_rate),
        num_steps=steps,
        first_order=algorithm == "fo_proto_maml",
        ways=ways,
        query_batching=batching,
        record_steps=test,
    )


def make_optimizer(
    algorithm: str, setting: Setting, iterations: int
) -> optax.GradientTransformation:
    """Adam under a cosine schedule; for Reptile a step that falls linearly to 0, as published."""
    if algorithm == "reptile":
        return optax.sgd(optax.linear_schedule(setting.outer_rate, 0.0, iterations))
    adam = optax.adam(optax.cosine_decay_schedule(setting.outer_rate, iterations))
    if algorithm == "relation":
        return optax.chain(optax.clip_by_global_norm(0.5), adam)
    return adam
