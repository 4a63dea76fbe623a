"""A frozen network and good heads: emoji across designers, from pixels to meta-trained parts.

A pre-trained EfficientNet-Lite0 makes features of every picture once, centred on the mean of the
training groups' (nothing is taken from the test groups but an episode's own support set). On the
test groups, support and queries by different designers, it prints the accuracy of

- the nearest support image, by pixels;
- the frozen features with each head: class means, centred or not, ridge, Mahalanobis, a linear
  probe, a head that starts from prototypes and is adapted;
- heads, LoRA factors, scales and offsets, or the last block, meta-trained on the training groups.

Small networks from scratch, on the same test episodes, are cells of `published.py`. What a rung
leaves open (strengths, rates, steps) is chosen on the validation groups. Then, of some, how well
the answers are calibrated before and after a temperature is fitted on the validation groups, and
how well strangers are told: queries of classes that the support set lacks.

`--data glyphs` needs no files but the network's: pictures of characters, for a quick look.
"""

import argparse
import fnmatch
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from records import devices, plain_table, processor, wide_console, write

import metajax as mj

PARTS = ("train", "validation", "test")
QUERIES = {1: 3, 5: 1}  # An emoji was drawn by at most seven designers.
SCALE = 10.0  # Of squared distances between vectors of length 1, which are 4 at most.
Of = Literal["pixels", "features", "maps"]
Sampler = mj.data.ImageEpisodes | mj.data.HostEpisodes
KINDS: tuple[Literal["probability", "logit", "energy"], ...] = ("probability", "logit", "energy")


class Material(NamedTuple):
    """What the rungs are made of.

    Attributes:
      classes: `(of, part)` of the data.
      mean: `[features]` of the training groups.
      tail: the last parts of the network, from maps to features.
      costs: what it took.
    """

    classes: dict[tuple[Of, str], mj.data.ImageClasses]
    mean: jax.Array
    tail: mj.models.pretrained.Backbone
    costs: dict[str, Any]


class Choice(NamedTuple):
    """One way to fill in what a rung leaves open; the best on the validation groups is tested.

    Attributes:
      settings: what it is, in words.
      learner: with its settings.
      rate: of Adam, under a cosine; None is one that is not trained.
    """

    settings: str
    learner: mj.Learner
    rate: float | None = None


class Rung(NamedTuple):
    """A way from pictures to answers.

    Attributes:
      of: what its episodes hold.
      choices: `(material, ways) -> choices`.
    """

    of: Of
    choices: Callable[[Material, int], Iterator[Choice]]


def squared(points: jax.Array, centres: jax.Array) -> jax.Array:
    return SCALE * mj.metric.squared_distances(points, centres)


def class_means(encoder: mj.Model, ways: int) -> mj.Learner:
    """Of vectors of length 1, at a scale that a softmax learns from."""
    return mj.prototypical_network(encoder, distance=squared, ways=ways, query_batching="separate")


def nearest_pixels(material: Material, ways: int) -> Iterator[Choice]:
    flat = mj.Model(lambda key, x: {}, lambda params, x: x.reshape(x.shape[0], -1))

    def nearness(points: jax.Array, images: jax.Array) -> jax.Array:
        return -1e4 * mj.metric.squared_distances(points, images)  # All attention is the nearest's.

    yield Choice("", mj.matching_network(flat, similarity=nearness, ways=ways))


def means(centre: bool) -> Callable[[Material, int], Iterator[Choice]]:
    def choices(material: Material, ways: int) -> Iterator[Choice]:
        mean = material.mean if centre else None
        yield Choice("", mj.nearest_class_mean(mj.models.identity(), mean=mean, ways=ways))

    return choices


def centred(material: Material) -> mj.Model:
    return mj.models.centred(material.mean)


def ridge(material: Material, ways: int) -> Iterator[Choice]:
    for strength in (0.1, 1.0, 10.0, 100.0):
        head = mj.ridge_head(centred(material), strength=strength, ways=ways)
        yield Choice(f"strength {strength}", head)


def mahalanobis(material: Material, ways: int) -> Iterator[Choice]:
    yield Choice("as it is", mj.mahalanobis_head(mj.models.identity(), ways=ways))
    yield Choice("of length 1", mj.mahalanobis_head(centred(material), ways=ways))


def probe(material: Material, ways: int) -> Iterator[Choice]:
    for strength in (0.001, 0.01, 0.1, 1.0):
        head = mj.linear_probe(centred(material), strength=strength, ways=ways)
        yield Choice(f"strength {strength}", head)


def adapted_head(material: Material, ways: int) -> Iterator[Choice]:
    for rate in (0.1, 1.0):
        for steps in (5, 20):
            learner = mj.proto_maml(
                centred(material), inner=optax.sgd(rate), num_steps=steps, ways=ways
            )
            yield Choice(f"{steps} steps of {rate}", learner)


def trained(
    head: Callable[[mj.Model, int], mj.Learner],
    encoder: Callable[[Material], mj.Model],
    rates: Sequence[float],
) -> Callable[[Material, int], Iterator[Choice]]:
    def choices(material: Material, ways: int) -> Iterator[Choice]:
        for rate in rates:
            yield Choice(f"rate {rate}", head(encoder(material), ways), rate)

    return choices


def learned_ridge(encoder: mj.Model, ways: int) -> mj.Learner:
    return mj.ridge_head(encoder, strength=0.1, ways=ways)


def linear_map(material: Material) -> mj.Model:
    """A linear map that begins as nothing but the features."""
    width = material.mean.shape[0]
    square = mj.Model(
        lambda key, x: {"kernel": jnp.zeros((width, width))},
        lambda params, x: mj.metric.unit_vectors(x + jnp.matmul(x, params["kernel"])),
    )
    return mj.models.chain(centred(material), square)


def last_block(material: Material) -> mj.Model:
    return mj.models.chain(material.tail.model, centred(material))


def scales_and_offsets(material: Material) -> mj.Model:
    tail = material.tail
    learned = mj.models.frozen(tail.model, tail.params, learn=("*/scale", "*/bias"))
    return mj.models.chain(learned, centred(material))


def lora(material: Material) -> mj.Model:
    tail = material.tail
    model = mj.models.with_lora(tail.model, rank=8, where=pointwise)
    example = material.classes["maps", "train"].images[:1]
    params = model.init(jax.random.key(0), jnp.asarray(example))
    learned = mj.models.frozen(model, params, learn="factors")
    return mj.models.chain(learned, centred(material))


def pointwise(path: str, leaf: jax.ShapeDtypeStruct) -> bool:
    """The matrices: convolutions that see one place."""
    return path.endswith("kernel") and len(leaf.shape) == 2


def adapted_factors(material: Material, ways: int) -> Iterator[Choice]:
    """A task adapts the factors beside its head: not meta-learned, since LoRA begins at nothing."""
    for rate in (0.01, 0.1):
        learner = mj.fo_proto_maml(lora(material), inner=optax.sgd(rate), num_steps=5, ways=ways)
        yield Choice(f"5 steps of {rate}", learner)


RUNGS = {
    "nearest pixels": Rung("pixels", nearest_pixels),
    "frozen, class means": Rung("features", means(False)),
    "frozen, centred class means": Rung("features", means(True)),
    "frozen, ridge": Rung("features", ridge),
    "frozen, Mahalanobis": Rung("features", mahalanobis),
    "frozen, linear probe": Rung("features", probe),
    "frozen, head adapted from prototypes": Rung("features", adapted_head),
    "frozen, head and LoRA adapted": Rung("maps", adapted_factors),
    "ridge, meta-trained": Rung("features", trained(learned_ridge, centred, (0.01, 0.1))),
    "linear map, meta-trained": Rung("features", trained(class_means, linear_map, (1e-5, 1e-4))),
    "LoRA, meta-trained": Rung("maps", trained(class_means, lora, (1e-2, 3e-2))),
    "scales and offsets, meta-trained": Rung(
        "maps", trained(class_means, scales_and_offsets, (1e-2, 3e-2))
    ),
    "last block, meta-trained": Rung("maps", trained(class_means, last_block, (1e-3, 3e-3))),
    "last block and ridge, meta-trained": Rung(
        "maps", trained(learned_ridge, last_block, (1e-3, 3e-3))
    ),
}
JUDGED = ("frozen, centred class means", "frozen, ridge", "last block, meta-trained")


def pictures(args: argparse.Namespace, part: str, pixels: int) -> mj.data.ImageClasses:
    """RGB, with who made each."""
    if args.data == "emoji":
        return mj.data.emoji(Path(args.folder) / "emoji", part, pixels=pixels)
    drawn = mj.data.glyphs(part)[: args.classes]
    ink = np.repeat(255 - drawn, 3, axis=-1)
    drawers = np.broadcast_to(np.arange(ink.shape[1]), ink.shape[:2])
    return mj.data.image_classes(ink, sources=drawers)


def material(args: argparse.Namespace, maps: bool) -> Material:
    """Reads the pictures, and makes or finds their features, and the maps before the last block."""
    backbone = mj.models.pretrained.efficientnet_lite0(size=args.size)
    trunk, tail = backbone.cut("stage7")
    classes: dict[tuple[Of, str], mj.data.ImageClasses] = {}
    costs: dict[str, Any] = {"images": 0, "extraction_s": 0.0}
    for part in PARTS:
        whole = pictures(args, part, 72)
        classes["pixels", part] = pictures(args, part, 28)
        started = time.perf_counter()
        classes["features", part] = mj.data.features(backbone, whole, cache=args.cache)
        costs["extraction_s"] += time.perf_counter() - started
        costs["images"] += whole.images.shape[0]
        if maps:
            classes["maps", part] = mj.data.features(trunk, whole, cache=args.cache)
    for of in ("features", "maps") if maps else ("features",):
        costs[f"{of}_mb"] = sum(np.asarray(classes[of, part].images).nbytes for part in PARTS) / 1e6
    mean = jnp.asarray(classes["features", "train"].mean())
    return Material(classes, mean, tail, costs)


def sampler(held: Material, of: Of, part: str, ways: int, shots: int) -> Sampler:
    return mj.data.image_episodes(
        held.classes[of, part],
        ways=ways,
        shots=shots,
        queries=QUERIES[shots],
        across_sources=True,
    )


class Fitted(NamedTuple):
    """The parameters of a choice, and the seconds of its training, without compiling."""

    params: Any
    seconds: float


def fit(args: argparse.Namespace, held: Material, name: str) -> list[Fitted]:
    """Each choice of a rung, trained on 1-shot episodes of many ways if at all."""
    rung, out = RUNGS[name], []
    sample = sampler(held, rung.of, "train", args.train_ways, 1)
    inputs = sample(jax.random.key(0)).support.inputs
    for choice in rung.choices(held, args.train_ways):
        params = choice.learner.init(jax.random.key(args.seed), inputs)
        if choice.rate is None:
            out.append(Fitted(params, 0.0))
            continue
        optimizer = optax.adam(optax.cosine_decay_schedule(choice.rate, args.iterations))
        state = mj.init_state(params, optimizer, jax.random.key(args.seed + 1))
        result = mj.train(
            choice.learner,
            optimizer,
            state,
            sample,
            iterations=args.iterations,
            meta_batch=args.meta_batch,
            dispatch=min(50, args.iterations),
            progress=False,
        )
        out.append(Fitted(result.state.params, result.run_seconds))
    return out


def climb(
    args: argparse.Namespace,
    held: Material,
    name: str,
    fits: Sequence[Fitted],
    ways: int,
    shots: int,
) -> tuple[dict[str, Any], mj.Learner, Any]:
    """The record of a rung, its learner and parameters."""
    rung, best = RUNGS[name], None
    validation, test = (sampler(held, rung.of, part, ways, shots) for part in PARTS[1:])
    for choice, (params, seconds) in zip(rung.choices(held, ways), fits, strict=True):
        seen = mj.evaluate(choice.learner, params, validation, episodes=args.choosing)
        score = float(seen.mean("accuracy"))
        if best is None or score > best[0]:
            best = score, choice, params, seconds
    assert best is not None
    score, choice, params, seconds = best
    learner = choice.learner
    scores = mj.evaluate(learner, params, test, episodes=args.episodes)
    record = {
        "rung": name,
        "cell": f"{ways}-way {shots}-shot",
        "accuracy": 100 * float(scores.mean("accuracy")),
        "interval": 100 * float(scores.interval("accuracy")),
        "validation": 100 * score,
        "chosen": choice.settings,
        "learned": sum(x.size for x in jax.tree.leaves(params)),
        "training_s": seconds,
    }
    return record, learner, params


def judged(
    args: argparse.Namespace, held: Material, name: str, learner: mj.Learner, params: Any, ways: int
) -> dict[str, Any]:
    """How far the answers of a 1-shot rung can be believed, on the test groups."""
    of = RUNGS[name].of

    def answers(sample: Sampler, episodes: int) -> mj.calibration.Answers:
        return mj.calibration.collect(learner, params, sample, episodes=episodes)

    def open_set(part: str) -> Sampler:
        return mj.data.with_strangers(sampler(held, of, part, 2 * ways, 1), ways)

    validation, test = open_set("validation"), answers(open_set("test"), args.episodes)
    strange = answers(validation, args.choosing)
    calibrations = {
        kind: mj.calibration.calibrate(
            learner,
            params,
            sampler(held, of, "validation", ways, 1),
            strangers=validation,
            kind=kind,
            episodes=args.choosing,
        )
        for kind in KINDS
    }
    temperature = calibrations["probability"].temperature
    areas = {kind: mj.calibration.auroc(strange, kind, temperature) for kind in KINDS}
    kind = max(KINDS, key=areas.__getitem__)
    report = mj.calibration.rejection_report(test, calibrations[kind])
    known = answers(sampler(held, of, "test", ways, 1), args.episodes)
    error = mj.calibration.expected_calibration_error
    return {
        "rung": name,
        "ways": ways,
        "temperature": temperature,
        "error_before": 100 * error(known),
        "error_after": 100 * error(known, temperature),
        "kind": kind,
        **{f"auroc_{k}": 100 * mj.calibration.auroc(test, k, temperature) for k in KINDS},
        **{name: [100 * x for x in estimate] for name, estimate in report._asdict().items()},
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints the tables and writes the records as they come; returns them."""
    console = wide_console()
    console.print(f"{devices()}; processor: {processor()}")
    names = [n for n in RUNGS if any(fnmatch.fnmatch(n, pattern) for pattern in args.rungs)]
    held = material(args, maps=any(RUNGS[name].of == "maps" for name in names))
    records: dict[str, Any] = {
        "device": devices(),
        "processor": processor(),
        "settings": {k: v for k, v in vars(args).items() if k not in ("folder", "cache", "out")},
        "costs": held.costs,
        "ladder": [],
        "judged": [],
    }
    for name in names:
        fits = fit(args, held, name)
        for ways, shots in args.cells:
            record, learner, params = climb(args, held, name, fits, ways, shots)
            records["ladder"].append(record)
            console.print(record)
            if name in JUDGED and shots == 1:
                records["judged"].append(judged(args, held, name, learner, params, ways))
            write(records, args.out)
    for table in ("ladder", "judged"):
        if records[table]:
            console.print(plain_table(table, records[table], [*records[table][0]]))
    console.print(held.costs)
    return records


def cell(text: str) -> tuple[int, int]:
    ways, shots = text.removesuffix("s").split("w")
    return int(ways), int(shots)


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out.add_argument("--data", choices=("emoji", "glyphs"), default="emoji")
    out.add_argument("--folder", default=os.environ.get("METAJAX_DATA_DIR", "data"))
    out.add_argument("--classes", type=int, help="of glyphs, the first of each part")
    out.add_argument("--size", type=int, default=112, help="pixels that the network sees")
    out.add_argument("--cache", type=Path, help="folder of the features; the user's by default")
    out.add_argument("--rungs", nargs="+", default=["*"], help="names, * for anything")
    out.add_argument("--cells", nargs="+", type=cell, default=[(5, 1), (5, 5), (20, 1)])
    out.add_argument("--train-ways", type=int, default=20, help="of 1-shot training episodes")
    out.add_argument("--iterations", type=int, default=300)
    out.add_argument("--meta-batch", type=int, default=2)
    out.add_argument("--episodes", type=int, default=1_000)
    out.add_argument("--choosing", type=int, default=300, help="validation episodes")
    out.add_argument("--seed", type=int, default=0)
    out.add_argument("--out", type=Path, default=Path("runs/frozen_networks.json"))
    return out


def main(given: Sequence[str] | None = None) -> None:
    run(parser().parse_args(given))


if __name__ == "__main__":
    main()
