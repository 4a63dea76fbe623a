"""The figures of `locomotion.py`."""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

import metajax as mj

mpl.use("agg")
import matplotlib.pyplot as plt

SECONDS = 0.05  # of an action
STILLS = 6
# The half-cheetah in brax's order of links, torso, back thigh, shin and foot, front thigh, shin and
# foot: lines through points, each in the frame of its link, in metres along x and z.
TORSO = ((0, -0.5, 0.0), (0, 0.5, 0.0), (0, 0.715, 0.197))
BACK_LEG = ((1, 0.0, 0.0), (2, 0.0, 0.0), (3, 0.0, 0.0), (3, 0.06, -0.194))
FRONT_LEG = ((4, 0.0, 0.0), (5, 0.0, 0.0), (6, 0.0, 0.0), (6, 0.09, -0.14))


def draw_curves(metrics: Path, scores: mj.Evaluation, path: Path) -> None:
    """Returns over training, before and after the inner steps; returns by updates in the test."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    records = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    steps = [record["step"] for record in records]
    for name, label, colour in (
        ("return_before", "before adaptation", "tab:gray"),
        ("return", "after", "tab:green"),
    ):
        left.plot(steps, [record[name] for record in records], color=colour, label=label)
    left.set(xlabel="meta-training iteration", ylabel="return in training tasks")
    left.legend()
    mean, half = scores.mean("return_per_step"), scores.interval("return_per_step")
    right.errorbar(range(len(mean)), mean, half, color="tab:green", marker="o", capsize=3)
    right.set(xlabel="updates", ylabel="return in fresh tasks", xticks=range(len(mean)))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw_film(task: str, films: dict[float, tuple[Any, Any]], path: Path) -> None:
    """By task, where the torso is over time, and stills of the body, before and after updates.

    Args:
      task: "direction" or "velocity".
      films: by task, brax's links `[horizon, links]` before and after.
      path: of the figure.
    """
    figure, grid = plt.subplots(
        len(films),
        2,
        figsize=(11, 2.6 * len(films)),
        width_ratios=(1, 2.6),
        layout="constrained",
        squeeze=False,
    )
    for (value, pair), (way, stills) in zip(films.items(), grid, strict=True):
        for row, (links, label, colour) in enumerate(
            zip(pair, ("before", "after updates"), ("tab:gray", "tab:green"), strict=True)
        ):
            places = np.asarray(links.pos)
            way.plot(SECONDS * np.arange(len(places)), places[:, 0, 0], color=colour, label=label)
            draw_stills(stills, links, floor=-2.1 * row, colour=colour)
        way.set(title=f"{task} {value:g}", xlabel="s", ylabel="torso, m")
        way.grid(alpha=0.3)
        way.legend()
        stills.set(aspect="equal", yticks=[], xticks=[])
        stills.spines[:].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw_stills(axes: Axes, links: Any, *, floor: float, colour: str) -> None:
    """The body at equal distances in time, side by side, with the time and where it is."""
    moments = np.linspace(0, len(links.pos) - 1, STILLS).round().astype(int)
    for column, moment in enumerate(moments):
        places, turns = np.asarray(links.pos[moment]), np.asarray(links.rot[moment])
        shift = 2.4 * column - places[0, 0]
        for points in (TORSO, BACK_LEG, FRONT_LEG):
            x, z = np.array([in_world(places, turns, *point) for point in points]).T
            axes.plot(x + shift, z + floor, color=colour, lw=5, solid_capstyle="round", alpha=0.8)
        said = f"{SECONDS * moment:.1f} s, {places[0, 0]:+.1f} m"
        axes.text(2.4 * column, floor - 0.15, said, ha="center", va="top", fontsize=8)
    axes.plot([-1.2, 2.4 * STILLS - 1.2], [floor, floor], color="black", lw=0.8)


def in_world(
    places: np.ndarray, turns: np.ndarray, link: int, x: float, z: float
) -> tuple[float, float]:
    """A point of a link, whose quaternion turns it around y alone, on the plane of x and z."""
    angle = 2 * np.arctan2(turns[link, 2], turns[link, 0])
    return (
        places[link, 0] + np.cos(angle) * x + np.sin(angle) * z,
        places[link, 2] - np.sin(angle) * x + np.cos(angle) * z,
    )
