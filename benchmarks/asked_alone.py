"""What a learner loses when its queries are asked one at a time, on glyphs never seen before.

MAML and prototypical networks, whose networks normalise by the batch, trained in the published,
transductive way and by the support's statistics. Prints the accuracy on 5-way 1-shot episodes, with
95 % intervals, of queries that share a batch, of queries answered as `predict` answers them, and of
queries that are normalised each by itself.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax
from records import devices, plain_table, wide_console, write

import metajax as mj


class Subject(NamedTuple):
    """A learner by its query batching.

    Attributes:
      make: from the batching to the learner.
      published: the batching of its paper.
      lonely: `(params, task, image) -> scores`, of an image in a batch of its own.
    """

    make: Callable[[Any], mj.Learner]
    published: str
    lonely: Callable[[Any, Any, jax.Array], jax.Array]


def subjects(filters: int) -> dict[str, Subject]:
    net = mj.models.strided_conv_net(5, filters=filters)
    encoder = mj.models.embedding_net(filters=filters)

    def distances(params: Any, task: mj.MetricTask, image: jax.Array) -> jax.Array:
        embedded = encoder.apply(params, image[None])
        return -mj.metric.squared_distances(embedded, task.reading)[0]

    return {
        "maml": Subject(
            lambda batching: mj.maml(
                net, inner=optax.sgd(0.4), num_steps=1, query_batching=batching
            ),
            "separate",
            lambda params, task, image: net.apply(task.params, image[None])[0],
        ),
        "prototypical_network": Subject(
            lambda batching: mj.prototypical_network(encoder, ways=5, query_batching=batching),
            "joint",
            distances,
        ),
    }


def each_by_itself(subject: Subject, learner: mj.Learner) -> mj.Learner:
    """The learner, scored on queries that are normalised each by itself."""

    def loss(
        params: Any, episode: mj.Episode, key: Any = None, training: bool | None = None
    ) -> tuple[jax.Array, mj.Aux]:
        del key, training
        support, query = episode
        task = learner.adapt(params, support)
        scores = jax.vmap(lambda image: subject.lonely(params, task, image))(query.inputs)
        value = mj.cross_entropy(scores, query.targets)
        return value, mj.Aux(scores, {"accuracy": mj.accuracy(scores, query.targets)})

    return learner._replace(loss=loss)


def run(args: argparse.Namespace) -> list[dict]:
    """Trains, scores, prints the table and writes the records; returns them."""
    console = wide_console()
    console.print(devices())
    sample, test_sample = (
        mj.data.image_episodes(
            mj.data.glyphs(part), ways=5, shots=1, queries=queries, rotations="tasks"
        )
        for part, queries in (("train", 5), ("test", 15))
    )
    example = jax.jit(sample)(jax.random.key(0))
    records = []
    for name, subject in subjects(args.filters).items():
        for batching in (subject.published, "support"):
            learner = subject.make(batching)
            optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, args.iterations))
            params = jax.jit(learner.init)(jax.random.key(args.seed), example.support.inputs)
            result = mj.train(
                learner,
                optimizer,
                mj.init_state(params, optimizer, jax.random.key(args.seed + 1)),
                sample,
                iterations=args.iterations,
                meta_batch=16,
                dispatch=min(args.iterations, 100),
                progress=False,
            )
            record: dict = {"learner": name, "trained": batching, "stopped": result.stopped}
            for asked, tested in (
                ("one batch", subject.make(subject.published)),
                ("predict", subject.make("support")),
                ("each by itself", each_by_itself(subject, learner)),
            ):
                found = mj.evaluate(
                    tested,
                    result.state.params,
                    test_sample,
                    episodes=args.episodes,
                    seed=args.seed,
                    chunk_size=min(args.episodes, 25),
                )
                record[asked] = 100 * float(found.mean("accuracy"))
                record[f"{asked} ±"] = 100 * float(found.interval("accuracy"))
            records.append(record | {"train_s": result.run_seconds})
    console.print(plain_table("accuracy, %", records, list(records[0])))
    write({"scores": records}, args.out)
    return records


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--iterations", type=int, default=700)
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--filters", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/asked_alone.json"))
    return parser


if __name__ == "__main__":
    run(parser().parse_args())
