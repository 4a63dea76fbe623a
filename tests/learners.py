"""The table of learners that the contract tests drive: one row an algorithm."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import metajax as mj
from metajax.types import Array, Examples, Key, LossFn, Params

WAYS, SHOTS, QUERIES, SIDE = 3, 2, 4, 8


def everything(path: str) -> bool:
    del path
    return True


def nothing(path: str) -> bool:
    del path
    return False


class Row(NamedTuple):
    """A way to build a small learner on `[items, 8, 8, 1]` images of three ways; its claims.

    Attributes:
      name: the learner's.
      make: `(num_steps, rate) -> learner`, by gradient descent at `rate`, or at learned rates that
        start from it; a learner that takes no steps makes nothing of the two.
      adapts: of a learner that takes steps, which of its task's parameters they change, by their
        path ("head/kernel"); None of one that takes none.
      exact: `jax.grad` of the meta-loss is its derivative, not a first-order one.
      pseudo_loss: the meta-loss is not the query loss after the last step.
      draws: what comes out depends on the key, if one is given.
      needs_key: it draws support items, so that it cannot do without a key.
      weighs: an item of weight 2 is the item twice. Not so where items are read one after another,
        or share batch statistics, of which weights only leave items out.
      blind: to which of the learner's parameters its loss is blind, by their path: an offset that
        all embeddings share, say.
      repeats: its programs are those of another row, with other numbers.
      loss_fn: of the support and of the query set.
      num_steps: of the learner that most checks look at.
      rate: of its steps.
    """

    name: str
    make: Callable[[int, float], mj.Learner]
    adapts: Callable[[str], bool] | None = None
    exact: bool = True
    pseudo_loss: bool = False
    draws: bool = False
    needs_key: bool = False
    weighs: bool = True
    blind: Callable[[str], bool] = nothing
    repeats: bool = False
    loss_fn: LossFn = mj.cross_entropy
    num_steps: int = 2
    rate: float = 0.1

    def learner(self) -> mj.Learner:
        return self.make(self.num_steps, self.rate)


def model() -> mj.Model:
    return mj.models.mlp((16, WAYS), stddev=0.3)


def encoder() -> mj.Model:
    return mj.models.mlp((16, 6), stddev=0.3)


def noisy() -> mj.Objective:
    """Cross-entropy under noise on the support images, which is drawn with the key."""
    clean = mj.supervised(model())

    def loss(
        params: Params, examples: Examples, key: Key | None, context: Examples | None
    ) -> tuple[Array, mj.ObjectiveAux]:
        if key is not None and context is None:
            inputs = examples.inputs + 0.5 * jax.random.normal(key, examples.inputs.shape)
            examples = examples._replace(inputs=inputs)
        return clean.loss(params, examples, key, context)

    return mj.Objective(clean.init, loss, clean.predict, clean.keep)


def matching_with_everything() -> mj.Learner:
    return mj.matching_network(
        encoder(),
        support_encoder=encoder(),
        full_context=mj.models.full_context(6, read_steps=2),
        normalize="support",
        temperature=0.3,
        ways=WAYS,
    )


def relation(**options: Any) -> mj.Learner:
    maps = mj.models.from_linen(mj.models.ConvNet(None, 4, blocks=1, features="map"))
    module = mj.models.relation_module(filters=4, hidden=4)
    return mj.relation_network(maps, module, ways=WAYS, query_batching="support", **options)


def comparing(make: Callable[[], mj.Learner]) -> Callable[[int, float], mj.Learner]:
    """`make` for the row of a learner that takes no steps."""
    return lambda num_steps, rate: make()


def descent(
    factory: Callable[..., mj.Learner], model: Callable[[], object], **options: object
) -> Callable[[int, float], mj.Learner]:
    """`make` for the row of a factory that takes `inner` and `num_steps`."""

    def make(num_steps: int, rate: float) -> mj.Learner:
        return factory(model(), inner=optax.sgd(rate), num_steps=num_steps, **options)

    return make


def reptile_carrying(num_steps: int, rate: float) -> mj.Learner:
    inner = optax.sgd(rate, momentum=0.9)
    return mj.reptile(model(), inner=inner, num_steps=num_steps, carry_state=True)


def in_parts(
    factory: Callable[..., mj.Learner],
) -> Callable[[int, float], mj.Learner]:
    """`make` for the row of a factory that takes a body and a head."""

    def make(num_steps: int, rate: float) -> mj.Learner:
        body, head = encoder(), mj.models.mlp((WAYS,), stddev=0.5)
        return factory(body, head, inner=optax.sgd(rate), num_steps=num_steps)

    return make


def meta_sgd(num_steps: int, rate: float) -> mj.Learner:
    return mj.meta_sgd(model(), num_steps=num_steps, rate=rate, per_step=True)


REPTILE = {"adapts": everything, "exact": False, "pseudo_loss": True}
LEARNERS = (
    Row("maml", descent(mj.maml, model), everything),
    Row("maml_noisy", descent(mj.maml, noisy), everything, draws=True, repeats=True),
    Row("fomaml", descent(mj.fomaml, model), everything, exact=False, repeats=True),
    Row("anil", in_parts(mj.anil), lambda path: path.startswith("head/")),
    Row("boil", in_parts(mj.boil), lambda path: path.startswith("body/"), repeats=True),
    Row("meta_sgd", meta_sgd, everything),
    Row("reptile", descent(mj.reptile, model), **REPTILE),
    Row("reptile_carry", reptile_carrying, **REPTILE, repeats=True),
    Row(
        "reptile_batches",
        descent(mj.reptile, model, batch_size=4),
        **REPTILE,
        draws=True,
        needs_key=True,
        repeats=True,
    ),
    Row("proto_maml", descent(mj.proto_maml, encoder), everything),
    Row("fo_proto_maml", descent(mj.fo_proto_maml, encoder), everything, exact=False, repeats=True),
    Row(
        "prototypical",
        comparing(lambda: mj.prototypical_network(encoder())),
        blind=lambda path: path == "Dense_1/bias",
    ),
    Row("matching", comparing(lambda: mj.matching_network(encoder())), repeats=True),
    Row("matching_full_context", comparing(matching_with_everything), draws=True, weighs=False),
    Row(
        "linear_probe",
        comparing(lambda: mj.linear_probe(encoder(), learn_strength=True)),
        blind=lambda path: path == "encoder/Dense_1/bias",
        repeats=True,
    ),
    Row(
        "ridge_head",
        comparing(lambda: mj.ridge_head(encoder(), ways=WAYS)),
        blind=lambda path: path == "offset",
        repeats=True,
    ),
    Row(
        "mahalanobis_head",
        comparing(lambda: mj.mahalanobis_head(encoder(), ways=WAYS)),
        blind=lambda path: path == "Dense_1/bias",
        repeats=True,
    ),
    Row(
        "nearest_class_mean",
        comparing(lambda: mj.nearest_class_mean(encoder(), mean=0.1 * jnp.arange(6.0))),
        repeats=True,
    ),
    Row("relation", comparing(relation), loss_fn=mj.match_error, weighs=False),
)


def episode(key: jax.Array, *, ways: int = WAYS) -> mj.Episode:
    """Noisy patterns, one a class, so that there is something to learn."""
    pattern_key, noise_key = jax.random.split(key)
    patterns = jax.random.normal(pattern_key, (ways, 1, SIDE, SIDE, 1))
    noise = jax.random.normal(noise_key, (ways, SHOTS + QUERIES, SIDE, SIDE, 1))
    images = patterns + 0.5 * noise

    def examples(images: jax.Array) -> mj.Examples:
        targets = jnp.repeat(jnp.arange(ways), images.shape[1])
        return mj.Examples(images.reshape(-1, *images.shape[2:]), targets)

    return mj.Episode(examples(images[:, :SHOTS]), examples(images[:, SHOTS:]))
