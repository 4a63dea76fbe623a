"""The page of published numbers beside ours, made from the JSON files of `published.py`."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from published_cells import AGAIN, strictly_split
from scipy import special

import metajax as mj
from metajax.recipes import Recipe, Testing

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
_COLUMNS = (
    *("", "ours", "published", "difference", "others", "strict", "Vinyals", "iterations"),
    *("seconds", "compiling", "device", "split", "test"),
)
_RUN_HERE = ("omniglot", "emoji", "sinusoids", "glyphs")
_HEAD = """# Published numbers

What the papers report, and what their recipes (`metajax.recipes`) come to here. The page is made of
the JSON files in `benchmarks/results`, one a cell, with commit, device, seeds and settings:

```sh
python benchmarks/published.py --cells "maml-omniglot-*" --resume  # METAJAX_DATA_DIR has the data
python benchmarks/published.py --report
```

- **Ours** is scored by the published protocol as far as it is known, in the column **test**:
  queries a class, which items share their batch statistics, inner steps, episodes. Two differ:
  Prototypical Networks were tested with running averages, here with the statistics of support and
  queries; how Matching Networks were tested is not known. The interval is over test episodes, or
  where several seeds were trained over these (Student's, 95 %), with the mean of the intervals over
  episodes in brackets.
- **Strict** scores the same parameters on 15 queries a class (emoji: as many as there are), each
  judged by the statistics of the support set alone. Learners that were trained to see all queries
  at once lose by that; it is what a user would see.
- **Vinyals** is a second training, on the 1,200 characters of training and validation of the split
  of Vinyals et al., tested on its test characters, whose alphabets are new: by the published
  protocol otherwise, and strictly. "The same" is where the published split is that one already.
- **Iterations** are those that were run, of those of the recipe. Schedules that end are scaled with
  them. **Seconds** are of training, of all seeds together, and of **compiling** its program the
  last time: a training that is resumed finds it compiled. Other programs ran beside: on the GPU the
  tests of the trainings before and the compiling of those to come, on CPUs whatever there was.
- Of sinusoids the mean leaves out the tasks that went **astray**, whose error rose above 100 in ten
  steps; the median is of all tasks.
- **Left** are those that nobody has run yet; the commands are at the end of the page.

The published tests differ from each other, and most are generous: relation networks were tested up
to 200 times on the test classes, and the best is reported; MAML, Reptile and relation networks
shuffle all characters, whatever their alphabets; the queries of MAML and of relation networks see
each other. Each row says its split, and each recipe its source and what is known to differ:
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
    columns = _COLUMNS if run_here else ("", "published", "others", "settings", "split")
    rows = [f"### {cell}\n", _row(columns), _row(["---"] * len(columns))]
    floor = records.get(recipes[0].name.replace(recipes[0].training.algorithm, "nearest_pixels", 1))
    if floor is not None:
        ours = f"{floor['mean']:.2f} ± {floor['interval']:.2f}"
        known = {"": "nearest pixels", "ours": ours, "published": "nobody"}
        rows.append(_row([known.get(column, "") for column in columns]))
    for recipe in recipes:
        rows.append(_row(_cells_run(recipe, records) if run_here else _cells_not_run(recipe)))
    return "\n".join(rows) + "\n"


def _cells_run(recipe: Recipe, records: dict[str, dict[str, Any]]) -> list[str]:
    record = records.get(recipe.name)
    told = {
        "": _title(recipe),
        "ours": "left",
        "published": _published(recipe),
        "others": _others(recipe),
        "split": _split(recipe),
        "test": _protocol(recipe.testing),
    }
    if record is None:
        return [told.get(column, "") for column in _COLUMNS]
    tests, parts, seeds = record["tests"], record["parts"], record["seeds"]
    told["ours"] = _score(tests["published"])
    if "per_step" in tests["published"]:
        told["ours"] += f" ({_by_steps(record)})"
    if "transductive" in tests:
        told["ours"] += f"; together {_score(tests['transductive'])}"
    if record["stopped_seeds"]:
        told["ours"] += f"; not finite: seeds {record['stopped_seeds']}"
    told["test"] = _protocol(tests["published"]["testing"])
    told["strict"] = _score(tests["strict"]) if "strict" in tests else "the same"
    vinyals = records.get(strictly_split(recipe).name)
    if vinyals is not None:
        told["Vinyals"] = _score(vinyals["tests"]["published"])
        told["Vinyals"] += f"; strict {_score(vinyals['tests']['strict'])}"
    elif recipe.training.drawing.split.protocol == "vinyals":
        told["Vinyals"] = "the same"
    if recipe.published is not None:
        difference = np.mean(tests["published"]["mean"]) - recipe.published.value
        told["difference"] = f"{difference:+.2f}"
    told["iterations"] = f"{record['iterations']:,}"
    if record["iterations"] < record["of"]:
        told["iterations"] += f" of {record['of']:,}"
    told["seconds"] = f"{sum(part['seconds'] for part in parts):.0f}"
    if len(seeds) > 1:
        told["seconds"] += f", {len(seeds)} seeds"
    compiled = [part["compile_seconds"] for part in parts if part.get("compile_seconds")]
    told["compiling"] = f"{compiled[-1]:.0f}" if compiled else ""
    told["device"] = ", ".join(dict.fromkeys(part["device"] for part in parts))
    return [told.get(column, "") for column in _COLUMNS]


def _by_steps(record: dict[str, Any]) -> str:
    """Of a regression."""
    test = record["tests"]["published"]
    before, first = np.mean(test["per_step"], axis=0)[:2]
    middle = np.mean(test["median_per_step"], axis=0)[-1]
    astray = sum(test["astray"]) / sum(_tasks(record))
    return (
        f"median {middle:.3f}; before {before:.2f}, after 1 step {first:.3f}; "
        f"{100 * astray:.2f} % of the tasks astray"
    )


def _protocol(testing: Testing | dict[str, Any]) -> str:
    """Such as `15 queries, joint, 3 steps, 1,000 episodes`."""
    if isinstance(testing, Testing):
        testing = dataclasses.asdict(testing)
    queries = testing["drawing"]["queries"]
    parts = [f"{queries} quer{'y' if queries == 1 else 'ies'}", testing["query_batching"]]
    if testing["steps"]:
        parts.append(f"{testing['steps']} steps")
    return ", ".join([*parts, f"{testing['episodes']:,} episodes"])


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
    return f"{out} ({recipe.published.note})" if recipe.published.note else out


def _others(recipe: Recipe) -> str:
    return "; ".join(
        f"{number} ({', '.join(part for part in (number.source, number.note) if part)})"
        for number in recipe.reproductions
    )


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
        f"small ({small}; {changes['device']}), one seed. The accuracy is that of the last tenth "
        f"of the training tasks, and of {changes['episodes']} test tasks of the published "
        "protocol, with the interval over these. The recipe called `tuned` "
        "has what is called *here*.\n",
        _row(["", "training, %", "test, %"]),
        _row(["---"] * 3),
    ]
    for record in changes["records"]:
        test = f"{record['test']:.1f} ± {record['interval']:.1f}"
        rows.append(_row([record["case"], f"{record['training'][-1]:.1f}", test]))
    rows.append(f"\n`{changes['command']}` at `{changes['commit']}`\n")
    return ["\n".join(rows)]


def _commands(records: dict[str, dict[str, Any]]) -> str:
    """Which command made which file."""
    cells: dict[tuple[str, str], dict[str, None]] = {}
    for name, record in records.items():
        for part in record.get("parts", [record]):
            cells.setdefault((part["command"], part["commit"]), {})[name] = None
    lines = ["## Commands\n", "A `+` marks code that was changed since the commit.\n"]
    for (command, commit), names in cells.items():
        lines.append(f"- `{command}` at `{commit}`: {', '.join(names)}")
    left = [
        recipe.name
        for recipe in mj.recipes.RECIPES
        if recipe.training.data in _RUN_HERE and recipe.name not in records
    ]
    left += [name for name in AGAIN if name not in records]
    if left:
        lines.append("")
        lines.append(f"Left: {', '.join(left)}. They are made by\n")
        lines.append("```sh")
        of_data = [one.training.data for one in mj.recipes.RECIPES if one.name in left]
        for data in dict.fromkeys(of_data):
            lines.append(f'python benchmarks/published.py --cells "*-{data}-*" --resume')
        if again := [name for name in AGAIN if name in left]:
            lines.append(f"python benchmarks/published.py --cells {' '.join(again)} --resume")
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
                    # Of fewer iterations than the recipe's: hollow.
                    markerfacecolor=None if record["iterations"] == record["of"] else "none",
                    label="ours" if row == 0 else None,
                )
        axes.set(title=cell, xlabel="accuracy, %", yticks=range(len(of_cell)))
        axes.set_yticklabels([_title(recipe) for recipe in of_cell])
        axes.invert_yaxis()
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
