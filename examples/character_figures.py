"""The figures and the table of `few_shot_characters.py`."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from rich.table import Table

import metajax as mj

mpl.use("agg")
import matplotlib.pyplot as plt


def score_table(scores: mj.Evaluation, steps: Sequence[int]) -> Table:
    """Accuracy and loss, after each of these inner steps where there are some.

    The intervals are over episodes, those of a stack over its runs.
    """
    per_step = "accuracy_per_step" in scores.scores
    suffix = "_per_step" if per_step else ""
    names = f"accuracy{suffix}", f"query_loss{suffix}"
    pairs = [_mean_and_interval(scores, name) for name in names]
    means, halves = ([np.atleast_1d(part) for part in parts] for parts in zip(*pairs, strict=True))
    out = Table(*(["inner steps"] if per_step else []), "accuracy %", "query loss")
    for row, step in enumerate(steps if per_step else [0]):
        out.add_row(
            *([str(step)] if per_step else []),
            f"{100 * means[0][row]:.2f} ± {100 * halves[0][row]:.2f}",
            f"{means[1][row]:.3f} ± {halves[1][row]:.3f}",
        )
    return out


def draw_curves(
    metrics: Path, scores: mj.Evaluation, inner_steps: Sequence[int], path: Path
) -> None:
    """Training accuracy over iterations, all of a run; test accuracy over steps, or how it spreads.

    Of a stack the bands reach from the worst run to the best; else it is the interval at test.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    records = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    steps = [record["step"] for record in records]
    accuracies = 100 * np.array([record["accuracy"] for record in records], dtype=float)
    if scores.runs is None:
        left.plot(steps, accuracies)
    else:
        left.plot(steps, np.nanmean(accuracies, axis=1))  # A run that stopped is not there.
        low, high = np.nanmin(accuracies, axis=1), np.nanmax(accuracies, axis=1)
        left.fill_between(steps, low, high, alpha=0.3)
    left.set(xlabel="meta-training iteration", ylabel="query accuracy on training tasks, %")
    if "accuracy_per_step" in scores.scores:
        mean, half = _mean_and_interval(scores, "accuracy_per_step")
        low, high = mean - half, mean + half
        if scores.runs is not None:
            each = scores.mean("accuracy_per_step")
            low, high = each.min(axis=0), each.max(axis=0)
        right.plot(inner_steps, 100 * mean, marker="o")
        right.fill_between(inner_steps, 100 * low, 100 * high, alpha=0.3)
        right.set(xlabel="inner steps at test", ylabel="test accuracy, %", ylim=(0, 101))
    else:
        right.hist(100 * scores.scores["accuracy"].ravel(), bins=20)
        right.set(xlabel="accuracy of a test episode, %", ylabel="episodes")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _mean_and_interval(scores: mj.Evaluation, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Over the episodes of one run; over the runs of a stack."""
    if scores.runs is None:
        return scores.mean(name), scores.interval(name)
    return scores.over_runs(name)


def draw_episode(
    tester: mj.Learner,
    params: dict,
    sample: Callable[[jax.Array], mj.Episode],
    seed: int,
    path: Path,
) -> None:
    """A test episode: the first support item of each way, then queries under their predictions."""
    sample_key, adapt_key = jax.random.split(jax.random.key(seed + 1))
    support, query = sample(sample_key)

    @jax.jit
    def predict(params: dict, episode: mj.Episode) -> jax.Array:
        task = tester.adapt(params, episode.support, adapt_key)
        return jnp.argmax(tester.predict(params, task, episode.query.inputs), axis=-1)

    predicted = np.asarray(predict(params, mj.Episode(support, query)))
    ways = int(support.targets.max()) + 1
    shots, queries = len(support.targets) // ways, len(query.targets) // ways
    shown = min(6, queries)
    figure, grid = plt.subplots(
        ways,
        1 + shown,
        figsize=(1 + shown, ways + 0.4),
        layout="constrained",
        squeeze=False,
    )
    for way, row in enumerate(grid):
        row[0].imshow(255 - 255 * support.inputs[way * shots, :, :, 0], cmap="gray")
        row[0].set_ylabel(f"way {way}", rotation=0, ha="right", va="center")
        for column, axes in enumerate(row[1:]):
            index = way * queries + column
            right = predicted[index] == way
            axes.imshow(255 - 255 * query.inputs[index, :, :, 0], cmap="gray")
            axes.set_title(
                f"{'' if right else 'taken for '}{predicted[index]}",
                fontsize=8,
                color="tab:green" if right else "tab:red",
                pad=2,
            )
        for axes in row:
            axes.set(xticks=[], yticks=[])
    grid[0, 0].set_title("support", fontsize=8, pad=2)
    figure.savefig(path, dpi=130)
    plt.close(figure)
