"""How the figures of a run are drawn: by Matplotlib's objects alone, so that no state is shared."""

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from metajax.checks.numbers import is_integer
from metajax.regular_files import read_regular
from metajax.training.feed import Sample
from metajax.types import Episode, Learner, Params

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_BYTES = 2**30
_SHOWN = 6
_RIGHT, _WRONG = "tab:green", "tab:red"


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines, in the order of their steps.

    A run that was killed and went on reported some steps twice: the last time counts. A line that
    was cut off is left out, and so is what is no finite number.
    """
    try:
        lines = read_regular(path, _MOST_BYTES).decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    by_step = {}
    for line in lines:
        with contextlib.suppress(ValueError, OverflowError, RecursionError):
            record = _numbers(json.loads(line))
            if is_integer(record.get("step"), 0):
                by_step[record["step"]] = record
    return [by_step[step] for step in sorted(by_step)]


def _numbers(record: Any) -> dict[str, Any]:
    """What of a record can be drawn and told."""
    fields = record.items() if isinstance(record, dict) else ()
    return {
        name: number
        for name, number in fields
        if (isinstance(number, float) or is_integer(number, -math.inf)) and math.isfinite(number)
    }


def draw_training(records: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """The training's meta-loss and score over the iterations, and what validation said."""
    figure = _figure(9, 3.2)
    left, right = figure.subplots(1, 2)
    left.plot(*_curve(records, "loss"), label="training tasks")
    left.set(xlabel="meta-training iteration", ylabel="meta-loss")
    if any("accuracy" in record for record in records):
        name, scale, label = "accuracy", 100, "query accuracy, %"
    else:
        name, scale, label = "query_loss", 1, "query loss"
    right.plot(*_curve(records, name, scale), label="training tasks")
    steps, scores = _curve(records, "validation", scale)
    if len(steps):
        right.plot(steps, scores, marker="o", markersize=3, label="validation")
        right.legend()
    right.set(xlabel="meta-training iteration", ylabel=label)
    return _saved(figure, path)


def draw_test(tested: Mapping[str, Any], path: Path) -> Path:
    """The score after each inner step with its interval, or the accuracies of the episodes."""
    figure = _figure(4.5, 3.2)
    axes = figure.subplots()
    mean, interval = tested["mean"], tested["interval"]
    episodes = f"{tested['episodes']} test episodes"
    scores = {"accuracy": (100, "accuracy, %"), "query_loss": (1, "query loss")}
    name = "accuracy" if "accuracy" in mean else "query_loss"
    scale, label = scores[name]
    if tested["inner_steps"]:
        centre = scale * np.array(mean[f"{name}_per_step"], float)
        half = scale * np.array(interval[f"{name}_per_step"], float)
        axes.plot(tested["inner_steps"], centre, marker="o")
        axes.fill_between(tested["inner_steps"], centre - half, centre + half, alpha=0.3)
        axes.set(xlabel=f"inner steps, {episodes}", ylabel=label)
    else:
        each = scale * np.array(tested["accuracies"], float)
        axes.hist(each[np.isfinite(each)], bins=20)
        axes.axvline(scale * float(np.array(mean[name], float)), color="black")
        axes.set(xlabel=f"{label}, of an episode", ylabel=episodes)
    return _saved(figure, path)


def draw_episode(
    tester: Learner, params: Params, sample: Sample, seed: int, path: Path, *, ink: bool
) -> Path:
    """A test episode: of images the queries under what they are taken for, or the fitted curve.

    Args:
      tester: the learner.
      params: its parameters.
      sample: a sampler.
      seed: of the episode.
      path: the figure.
      ink: whether 1 is ink in grey images, and 0 paper; else 1 is white.
    """
    sample_key, adapt_key = jax.random.split(jax.random.key(seed))
    episode: Episode = jax.tree.map(np.asarray, sample(sample_key))  # type: ignore[operator]
    task = tester.adapt(params, episode.support, adapt_key)
    outputs = np.asarray(tester.predict(params, task, episode.query.inputs))
    if np.issubdtype(episode.query.targets.dtype, np.integer):
        return _draw_images(episode, outputs.argmax(axis=-1), path, ink=ink)
    figure = _figure(5, 3.2)
    axes = figure.subplots()
    order = np.argsort(episode.query.inputs[:, 0])
    at = episode.query.inputs[order, 0]
    axes.plot(at, episode.query.targets[order, 0], color="black", label="task")
    axes.plot(at, outputs[order, 0], color="tab:blue", label="after adaptation")
    axes.plot(episode.support.inputs[:, 0], episode.support.targets[:, 0], "o", label="support")
    axes.legend()
    return _saved(figure, path)


def _draw_images(episode: Episode, predicted: np.ndarray, path: Path, *, ink: bool) -> Path:
    """A row a class: its first support item, then queries."""
    support, query = episode
    ways = int(support.targets.max()) + 1
    shown = min(_SHOWN, int(np.bincount(query.targets).max()))
    figure = _figure(1 + shown, ways + 0.4)
    grid = figure.subplots(ways, 1 + shown, squeeze=False)
    for way, row in enumerate(grid):
        _show(row[0], support.inputs[np.flatnonzero(support.targets == way)[0]], ink)
        row[0].set_ylabel(f"class {way}", rotation=0, ha="right", va="center")
        items = np.flatnonzero(query.targets == way)[:shown]
        for axes, item in zip(row[1:], items, strict=False):
            right = predicted[item] == way
            _show(axes, query.inputs[item], ink)
            text = f"{'' if right else 'taken for '}{predicted[item]}"
            axes.set_title(text, fontsize=8, color=_RIGHT if right else _WRONG, pad=2)
        for axes in row:
            axes.set(xticks=[], yticks=[])
    grid[0, 0].set_title("support", fontsize=8, pad=2)
    return _saved(figure, path)


def _show(axes: Any, image: np.ndarray, ink: bool) -> None:
    """An image in [0, 1]."""
    if image.shape[-1] == 1:
        axes.imshow(image[..., 0], cmap="gray_r" if ink else "gray", vmin=0, vmax=1)
    else:
        axes.imshow(image.clip(0, 1))


def _curve(
    records: Sequence[Mapping[str, Any]], name: str, scale: float = 1
) -> tuple[list[int], list[float]]:
    """Steps and values of a field, where there is one."""
    there = [each for each in records if name in each]
    return [each["step"] for each in there], [scale * each[name] for each in there]


def _figure(width: float, height: float) -> "Figure":
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:  # Matplotlib's own needs, such as Pillow, may be what is missing.
        raise ImportError(
            f"Matplotlib, which draws the figures, cannot be imported ({error}); expected the "
            'extra pictures: pip install "metajax[pictures]"'
        ) from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _saved(figure: "Figure", path: Path) -> Path:
    for axes in figure.axes:
        if axes.lines or axes.patches:
            axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)
    return path
