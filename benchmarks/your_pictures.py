"""`FewShotClassifier` as it is by default: how right, how sure, and how long it takes.

    python benchmarks/your_pictures.py

On emoji of the test groups, a frozen EfficientNet-Lite0 and the head "ridge": tasks of some ways
and shots, each fitted and calibrated by its own support pictures alone, as `fit` does it. Of each,
the accuracy of new pictures, what held-out pictures had promised, how far probabilities are off,
and the shares of known pictures and of strangers, of five more classes, that are answered.

The seconds come first, compiling included: a folder of 100 pictures, in new processes: fitted,
fitted again from the cache; and in one process, one more picture. Data comes from METAJAX_DATA_DIR.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from records import devices, plain_table, processor, wide_console, write

import metajax as mj
from metajax.calibration.rejection import score_of
from metajax.pictures import FewShotClassifier, labelled_pictures
from metajax.pictures.fitting import calibrate_items, fit_items
from metajax.pictures.heads import head_of

QUERIES, STRANGERS = 2, 5  # Of a class; classes.


def images_of(args: argparse.Namespace) -> mj.data.ImageClasses:
    """The test classes, in colour."""
    if args.data == "emoji":
        return mj.data.emoji(Path(args.folder) / "emoji", "test")
    ink = 255 - mj.data.glyphs("test", drawers=8)[: args.classes]
    return mj.data.image_classes(np.repeat(ink, 3, axis=-1))


def drawn(
    data: mj.data.ImageClasses, ways: int, shots: int, draw: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the support pictures, the queries and strangers, of the first two by class."""
    enough = np.flatnonzero(data.counts >= shots + QUERIES)
    classes = draw.choice(enough, ways + STRANGERS, replace=False)
    rows = np.stack(
        [data.starts[c] + draw.permutation(data.counts[c])[: shots + QUERIES] for c in classes]
    )
    return rows[:ways, :shots], rows[:ways, shots:], rows[ways:, :QUERIES]


def of_one_task(
    features: np.ndarray, support: np.ndarray, query: np.ndarray, strange: np.ndarray
) -> dict[str, np.ndarray]:
    """What is answered by a classifier that is fitted to one task."""
    ways = len(support)
    labels = np.repeat(np.arange(ways), support.shape[1])
    head = head_of("ridge", features.shape[1], ways, of_network=True)
    items = features[support.reshape(-1)]
    task = fit_items(head, items, labels, ways)
    calibration, held_out = calibrate_items(head, items, labels, ways, 0.95)
    threshold = -np.inf if calibration.threshold is None else calibration.threshold
    known, others = (
        task.scores(features[rows.reshape(-1)]) / calibration.temperature
        for rows in (query, strange)
    )
    answers = calibration._replace(temperature=1.0).answer(known)
    right = known.argmax(axis=1) == np.repeat(np.arange(ways), QUERIES)
    return {
        "right": right,
        "sure": np.asarray(answers.probabilities).max(axis=1),
        "answered": score_of(known, calibration.kind) >= threshold,
        "strangers": score_of(others, calibration.kind) >= threshold,
        "promised": np.array(np.nan if held_out is None else held_out.accuracy),
    }


def quality(
    args: argparse.Namespace, data: mj.data.ImageClasses, ways: int, shots: int
) -> dict[str, Any]:
    """A row of the first table."""
    draw = np.random.default_rng(args.seed)
    features = np.asarray(data.images)
    tasks = [of_one_task(features, *drawn(data, ways, shots, draw)) for _ in range(args.tasks)]
    each = {name: np.stack([task[name] for task in tasks]) for name in tasks[0]}
    accuracies = each["right"].mean(axis=1)
    # All queries of all tasks are one list, of which each bin counts by its share.
    places = np.minimum((each["sure"] * 15).astype(int), 14).reshape(-1)
    gaps = np.bincount(places, (each["sure"] - each["right"]).reshape(-1), 15)
    return {
        "ways": ways,
        "shots": shots,
        "accuracy": 100 * accuracies.mean(),
        "interval": 196 * accuracies.std(ddof=1) / np.sqrt(len(tasks)),
        "promised": None if shots == 1 else 100 * each["promised"].mean(),
        "calibration_error": 100 * np.abs(gaps).sum() / places.size,
        "answered": 100 * each["answered"].mean(),
        "strangers_answered": 100 * each["strangers"].mean(),
    }


def write_folder(data: mj.data.ImageClasses, root: Path, classes: int, shots: int) -> list[str]:
    """`classes` folders of `shots` files, and the paths of one more picture of each."""
    more = []
    for name in data.names[:classes]:
        (root / "known" / name).mkdir(parents=True)
        (root / "new").mkdir(exist_ok=True)
        for number, image in enumerate(data[name][: shots + 1]):
            path = root / ("known" if number < shots else "new") / name / f"{number}.png"
            if number == shots:
                path = root / "new" / f"{name}.png"
                more.append(str(path))
            Image.fromarray(image).resize((320, 320)).save(path)
    return more


def seconds(args: argparse.Namespace, data: mj.data.ImageClasses) -> dict[str, Any]:
    """The second table: what one waits for."""
    enough = data.select([n for n, c in zip(data.names, data.counts, strict=True) if c > 5])
    classes = args.pictures // 5
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        more = write_folder(enough, root, classes, 5)
        side = [] if args.side is None else ["--side", str(args.side)]
        command = [sys.executable, "-m", "metajax", "fit", "efficientnet_lite0", f"{root}/known"]
        command += [*side, "-o", f"{root}/it.mjx", "--cache", f"{root}/cache", "--quiet"]
        taken = {"pictures": classes * 5}
        for name in ("fit", "fit_again"):
            began = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            taken[name] = time.perf_counter() - began
        taken["file_megabytes"] = (root / "it.mjx").stat().st_size / 1e6
        asked = [sys.executable, "-m", "metajax", "predict", f"{root}/it.mjx", f"{root}/new"]
        began = time.perf_counter()
        subprocess.run([*asked, "--quiet"], check=True, stdout=subprocess.DEVNULL)
        taken["predict"] = time.perf_counter() - began
        paths, labels = labelled_pictures(root / "known")
        fitted = FewShotClassifier(side=args.side, cache=root / "cache").fit(paths, labels)
        fitted.predict(more[:1])  # Compiles.
        one = []
        for path in more:
            began = time.perf_counter()
            fitted.answer([path])
            one.append(time.perf_counter() - began)
        taken["one_more"] = float(np.median(one))
        taken["one_more_slowest"] = max(one)
    return taken


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints the tables and writes the records; returns them."""
    console = wide_console()
    console.print(f"{devices()}; processor: {processor()}")
    images = images_of(args)
    found = {"device": devices(), "processor": processor(), "seconds": seconds(args, images)}
    console.print(plain_table("seconds", [found["seconds"]], [*found["seconds"]]))
    size = {} if args.side is None else {"size": args.side}
    backbone = mj.models.pretrained.efficientnet_lite0(**size)
    data = mj.data.features(backbone, images, cache=args.cache)
    found["quality"] = [quality(args, data, *cell) for cell in args.cells]
    console.print(plain_table("quality", found["quality"], [*found["quality"][0]]))
    settings = {k: v for k, v in vars(args).items() if k not in ("folder", "cache", "out")}
    write({"settings": settings, **found}, args.out)
    return found


def cell(text: str) -> tuple[int, int]:
    ways, shots = text.removesuffix("s").split("w")
    return int(ways), int(shots)


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out.add_argument("--data", choices=("emoji", "glyphs"), default="emoji")
    out.add_argument("--folder", default=os.environ.get("METAJAX_DATA_DIR", "data"))
    out.add_argument("--classes", type=int, help="of glyphs, the first")
    out.add_argument("--cache", type=Path, help="folder of the features; the user's by default")
    out.add_argument("--side", type=int, help="pixels that the network sees; its own by default")
    cells = [(2, 1), (5, 1), (20, 1), (2, 5), (5, 3), (5, 5), (20, 5)]
    out.add_argument("--cells", nargs="+", type=cell, default=cells, help="such as 5w1s")
    out.add_argument("--tasks", type=int, default=600)
    out.add_argument("--pictures", type=int, default=100, help="of the folder, five a class")
    out.add_argument("--seed", type=int, default=0)
    out.add_argument("--out", type=Path, default=Path("runs/your_pictures.json"))
    return out


def main(given: Sequence[str] | None = None) -> None:
    run(parser().parse_args(given))


if __name__ == "__main__":
    main()
