"""The page of published numbers beside ours, made from the JSON files of `published.py`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from published_cells import strictly_split
from scipy import special

import metajax as mj
from metajax.recipes import Recipe

mpl.use("agg")
import matplotlib.pyplot as plt

_TITLES = {
    "omniglot": "Omniglot",
    "emoji": "Emoji",
    "sinusoids": "Sinusoids",
    "glyphs": "The characters that the library brings",
    "mini_imagenet": "mini-ImageNet",
    "tiered_imagenet": "tieredImageNet",
    "cifar_fs": "CIFAR-FS",
    "cub": "CUB-200-2011",
}
_RUN_HERE = ("omniglot", "emoji", "sinusoids", "glyphs")
_HEAD = """# Published numbers

What the papers report, and what their recipes (`metajax.recipes`) come to here. The page is made of
the JSON files in `benchmarks/results`, one a cell, with commit, device, seeds and settings:

```sh
python benchmarks/published.py --cells "maml-omniglot-*" --resume  # METAJAX_DATA_DIR has the data
python benchmarks/published.py --report
```

- **Ours** is scored by the published protocol; the interval is over test episodes, or where several
  seeds were trained over these (Student's, 95 %), with the mean of the intervals over episodes in
  brackets.
- **Strict** scores the same parameters on 15 queries a class, each judged by the support set alone.
  Learners that were trained to see all queries at once lose by that; it is what a user would see.
- **Vinyals** is a second training on the split of Vinyals et al., whose test alphabets are new:
  by the published protocol otherwise, and strictly. Where the published split is that one already
  there is none.
- **Iterations** are those that were run, of those of the recipe. Schedules that end are scaled with
  them. **Seconds** are of training, of all seeds together, and of **compiling** its program the
  last time: a training that is resumed finds it compiled. On a CPU other programs ran beside it.
- **Left** are those that nobody has run yet; the commands are at the end of the page.

The published tests differ from each other, and most are generous: relation networks were tested 200
times on the test classes, and the best is reported; MAML, Reptile and relation networks shuffle all
characters, whatever their alphabets; the queries of MAML and of relation networks see each other.
Each row says its split, and each recipe its protocol, its source and what is known to differ:
`metajax.recipes.find("maml", "omniglot", ways=20, shots=1)`.
"""


def write_page(results: Path, docs: Path) -> None:
    """Writes `published.md` and its figure."""
    draw(read(results), docs / "images" / "published.png")
    text = page(read(results), read_changes(results))
    (docs / "published.md").write_text(text, encoding="utf-8")


def read_changes(results: Path) -> dict[str, Any] | None:
    """What `one_change.py` wrote, if it did."""
    path = results / "one_change.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def read(results: Path) -> dict[str, dict[str, Any]]:
    """The records, by the names of their cells."""
    files = sorted(results.glob("*.json"))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    return {record["cell"]: record for record in records if "cell" in record}


def page(records: dict[str, dict[str, Any]], changes: dict[str, Any] | None = None) -> str:
    """The page, as Markdown.

    Args:
      records: of the cells.
      changes: what `one_change.py` found, or None.
    """
    parts = [_HEAD, "![Ours and the published numbers, cell by cell](images/published.png)\n"]
    for data, title in _TITLES.items():
        recipes = [one for one in mj.recipes.RECIPES if one.training.data == data]
        if not recipes:
            continue
        parts.append(f"## {title}\n")
        if data not in _RUN_HERE:
            parts.append("Not run here: the recipes are for a folder of the user's.\n")
        for cell in dict.fromkeys(_cell(recipe) for recipe in recipes):
            of_cell = [recipe for recipe in recipes if _cell(recipe) == cell]
            parts.append(_table(cell, of_cell, records, run_here=data in _RUN_HERE))
    parts += [*_changes(changes), _commands(records)]
    return "\n".join(parts)


def _cell(recipe: Recipe) -> str:
    drawing = recipe.testing.drawing
    if recipe.training.data == "sinusoids":
        return f"{drawing.shots} points, mean squared error after {recipe.testing.steps} steps"
    return f"{drawing.ways}-way {drawing.shots}-shot"


def _table(
    cell: str, recipes: Sequence[Recipe], records: dict[str, dict[str, Any]], *, run_here: bool
) -> str:
    if run_here:
        columns = ["", "ours", "published", "difference", "others", "strict", "Vinyals"]
        columns += ["iterations", "seconds", "compiling", "device", "split"]
    else:
        columns = ["", "published", "others", "settings", "split"]
    rows = [f"### {cell}\n", _row(columns), _row(["---"] * len(columns))]
    floor = records.get(recipes[0].name.replace(recipes[0].training.algorithm, "nearest_pixels", 1))
    if floor is not None:
        known = ["nearest pixels", f"{floor['mean']:.2f} ± {floor['interval']:.2f}", "nobody"]
        rows.append(_row([*known, *[""] * (len(columns) - len(known))]))
    for recipe in recipes:
        rows.append(_row(_cells_run(recipe, records) if run_here else _cells_not_run(recipe)))
    return "\n".join(rows) + "\n"


def _cells_run(recipe: Recipe, records: dict[str, dict[str, Any]]) -> list[str]:
    record = records.get(recipe.name)
    out = [_title(recipe)]
    if record is None:
        return [*out, "left", _published(recipe), "", _others(recipe), *[""] * 6, _split(recipe)]
    tests = record["tests"]
    ours = _score(tests["published"])
    if "per_step" in tests["published"]:
        before, first = np.mean(tests["published"]["per_step"], axis=0)[:2]
        middle = np.mean(tests["published"]["median_per_step"], axis=0)[-1]
        astray = sum(tests["published"]["astray"]) / sum(_tasks(record))
        ours += f" (median {middle:.3f}; before {before:.2f}, after 1 step {first:.3f}; "
        ours += f"{100 * astray:.2f} % of the tasks astray)"
    if "transductive" in tests:
        ours += f"; together {_score(tests['transductive'])}"
    again = records.get(strictly_split(recipe).name)
    vinyals = "the same" if recipe.training.drawing.split.protocol == "vinyals" else ""
    if again is not None:
        vinyals = _score(again["tests"]["published"])
        if "strict" in again["tests"]:
            vinyals += f"; strict {_score(again['tests']['strict'])}"
    difference = ""
    if recipe.published is not None:
        difference = f"{np.mean(tests['published']['mean']) - recipe.published.value:+.2f}"
    iterations = f"{record['iterations']:,}"
    if record["iterations"] < record["of"]:
        iterations += f" of {record['of']:,}"
    return [
        *out,
        ours,
        _published(recipe),
        difference,
        _others(recipe),
        _score(tests["strict"]) if "strict" in tests else "the same",
        vinyals,
        iterations,
        f"{record['seconds']:.0f}"
        + (f", {len(record['seeds'])} seeds" if len(record["seeds"]) > 1 else ""),
        record["device"],
        _split(recipe),
    ]


def _seeds(number: int) -> str:
    return f", {number} seeds" if number > 1 else ""


def _tasks(record: dict[str, Any]) -> list[int]:
    """Test tasks of each seed."""
    return [record["tests"]["published"]["testing"]["episodes"]] * len(record["seeds"])


def _cells_not_run(recipe: Recipe) -> list[str]:
    return [_title(recipe), _published(recipe), _others(recipe), recipe.source, _split(recipe)]


def _title(recipe: Recipe) -> str:
    return " ".join(part for part in (recipe.training.algorithm, recipe.variant) if part)


def _score(test: dict[str, Any]) -> str:
    """Mean and interval: over seeds where there are several, and in brackets over episodes."""
    means, over_episodes = np.array(test["mean"]), float(np.mean(test["interval"]))
    digits = 2 if means.mean() > 2 else 3
    if len(means) == 1:
        return f"{means[0]:.{digits}f} ± {over_episodes:.{digits}f}"
    quantile = special.stdtrit(len(means) - 1, 0.975)
    half = quantile * means.std(ddof=1) / np.sqrt(len(means))
    return f"{means.mean():.{digits}f} ± {half:.{digits}f} ({over_episodes:.{digits}f})"


def _published(recipe: Recipe) -> str:
    if recipe.published is None:
        return "nobody"
    out = f"{recipe.published}"
    if recipe.transductive is not None:
        out += f"; together {recipe.transductive}"
    return out


def _others(recipe: Recipe) -> str:
    return "; ".join(f"{number} ({number.source})" for number in recipe.reproductions)


def _split(recipe: Recipe) -> str:
    split = recipe.training.drawing.split
    return f"{split.protocol} {split.part}".strip().replace("_", " ")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _changes(changes: dict[str, Any] | None) -> list[str]:
    """How fast the published MAML learns, and what one setting does for it."""
    if changes is None:
        return []
    small = (
        f"{changes['filters']} filters, {changes['iterations']} iterations of "
        f"{changes['meta_batch']} tasks"
    )
    rows = [
        f"## What was changed in {changes['cell_of']}\n",
        "By the authors' settings it learns, slowly: what each setting does, one change at a time, "
        f"small ({small}; {changes['device']}). The accuracy is that of the last tenth of the "
        "training tasks, and of 200 test tasks of the published protocol. What helps is the recipe "
        "called `tuned`.\n",
        _row(["", "training, %", "test, %"]),
        _row(["---"] * 3),
    ]
    for record in changes["records"]:
        test = f"{record['test']:.1f} ± {record['interval']:.1f}"
        rows.append(_row([record["case"], f"{record['training'][-1]:.1f}", test]))
    rows.append(f"\n`{changes['command']}` at `{changes['commit'][:9]}`\n")
    return ["\n".join(rows)]


def _commands(records: dict[str, dict[str, Any]]) -> str:
    """Which command made which file."""
    cells: dict[tuple[str, str], list[str]] = {}
    for name, record in records.items():
        cells.setdefault((record["command"], record["commit"][:9]), []).append(name)
    lines = ["## Commands\n"]
    for (command, commit), names in cells.items():
        lines.append(f"- `{command}` at `{commit}`: {', '.join(names)}")
    names = [recipe.name for recipe in mj.recipes.RECIPES]
    left = [
        recipe.name
        for recipe in mj.recipes.RECIPES
        if recipe.training.data in _RUN_HERE and recipe.name not in records
    ]
    if left:
        lines.append("")
        lines.append(f"Left: {', '.join(left)}. They are made by\n")
        lines.append("```sh")
        of_data = [mj.recipes.RECIPES[names.index(name)].training.data for name in left]
        for data in dict.fromkeys(of_data):
            lines.append(f'python benchmarks/published.py --cells "*-{data}-*" --resume')
        lines.append("```")
    return "\n".join(lines) + "\n"


def draw(records: dict[str, dict[str, Any]], path: Path) -> None:
    """Ours and the published accuracy of each algorithm, a panel a cell of Omniglot."""
    recipes = [one for one in mj.recipes.RECIPES if one.training.data == "omniglot"]
    cells = list(dict.fromkeys(_cell(recipe) for recipe in recipes))
    figure, panels = plt.subplots(
        1, len(cells), figsize=(12, 3.6), sharey=True, layout="constrained"
    )
    for axes, cell in zip(panels, cells, strict=True):
        of_cell = [recipe for recipe in recipes if _cell(recipe) == cell]
        for row, recipe in enumerate(of_cell):
            if recipe.published is not None:
                axes.errorbar(
                    recipe.published.value,
                    row,
                    xerr=recipe.published.interval or 0,
                    fmt="s",
                    color="tab:gray",
                    markersize=4,
                    label="published" if row == 0 else None,
                )
            if (record := records.get(recipe.name)) is not None:
                test = record["tests"]["published"]
                axes.errorbar(
                    np.mean(test["mean"]),
                    row - 0.2,
                    xerr=np.mean(test["interval"]),
                    fmt="o",
                    color="tab:blue",
                    markersize=4,
                    label="ours" if row == 0 else None,
                )
        axes.set(title=cell, xlabel="accuracy, %", yticks=range(len(of_cell)))
        axes.set_yticklabels([_title(recipe) for recipe in of_cell])
        axes.invert_yaxis()
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
