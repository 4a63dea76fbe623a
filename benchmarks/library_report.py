"""Tables and the figure of the comparison with other libraries."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.table import Table
from workloads import WORKLOADS, Workload

Records = Sequence[dict]


def table(workload: Workload, steps: int, rows: Records) -> Table:
    """Exact and first-order times of every contender, and how many times metajax's they are."""
    out = Table(
        *("", "exact ms", "ratio", "first-order ms", "ratio", "first call s", "error 64 / 32 bit"),
        title=f"{workload.title}, {workload.tasks} tasks of {workload.support} + "
        f"{workload.query}, {steps} inner step{'s' if steps > 1 else ''}",
        caption="\n".join(_notes(rows)),
        caption_justify="left",
    )
    found = {(row["contender"], row["first_order"]): row for row in rows}
    for name in dict.fromkeys(row["contender"] for row in rows):
        pair = [found.get((name, first_order), {}) for first_order in (False, True)]
        cells = []
        for row in pair:
            ours = found["metajax", row.get("first_order", False)].get("ms")
            cells.append(f"{row['ms']:.4g}" if "ms" in row else "-")
            cells.append(f"{row['ms'] / ours:.2f}" if "ms" in row and ours else "")
        seconds = [f"{row['first_call_s']:.2g}" for row in pair if "first_call_s" in row]
        errors = [_largest(pair, key) for key in ("error64", "error32")]
        out.add_row(name, *cells, " / ".join(seconds), " / ".join(filter(None, errors)))
    return out


def _notes(rows: Records) -> list[str]:
    return [
        f"{row['contender']}, {'first order' if row['first_order'] else 'exact'}: {row['note']}"
        for row in rows
        if "note" in row
    ]


def _largest(rows: Records, key: str) -> str:
    errors = [row[key] for row in rows if key in row]
    return f"{np.max(errors):.0e}" if errors else ""


def arithmetic_table(records: Records) -> Table:
    """Counted operations of the exact gradient, and metajax's rate beside a matrix product's."""
    out = Table(
        *("workload", "steps", "G operations", "G a second", "a product's", "share"),
        title="metajax, exact, against the best 2048 x 2048 matrix product",
    )
    for record in records:
        best = record["product_best_gflops"]
        out.add_row(
            WORKLOADS[record["workload"]].title,
            str(record["steps"]),
            f"{record['operations'] / 1e9:.4g}",
            f"{record['gflops']:.4g}",
            f"{best:.4g}",
            f"{record['gflops'] / best:.0%}",
        )
    return out


def figure(rows: Records, path: Path) -> None:
    """Milliseconds a meta-step on a logarithmic scale, one panel a workload."""
    from matplotlib.figure import Figure

    keys = list(dict.fromkeys(row["workload"] for row in rows))
    names = list(dict.fromkeys(row["contender"] for row in rows))
    drawing = Figure(figsize=(9, 0.6 + 2.6 * len(keys)), layout="constrained")
    panels = drawing.subplots(len(keys), squeeze=False)[:, 0]
    width = 0.85 / len(names)
    for panel, key in zip(panels, keys, strict=True):
        mine = [row for row in rows if row["workload"] == key]
        groups = list(dict.fromkeys((row["first_order"], row["steps"]) for row in mine))
        groups.sort()
        for index, name in enumerate(names):
            bars = {
                groups.index((row["first_order"], row["steps"])): row["ms"]
                for row in mine
                if row["contender"] == name and "ms" in row
            }
            places = [group + (index - (len(names) - 1) / 2) * width for group in bars]
            panel.bar(places, list(bars.values()), width, label=name, color=f"C{index}")
        labels = [
            f"{'first order' if first else 'exact'}, {steps} step{'s'[: steps > 1]}"
            for first, steps in groups
        ]
        panel.set_xticks(range(len(groups)), labels)
        panel.set_yscale("log")
        panel.set_ylim(bottom=min((row["ms"] for row in mine if "ms" in row), default=1) / 2)
        panel.set_ylabel("ms a meta-step")
        panel.set_title(WORKLOADS[key].title, loc="left", fontsize="medium")
        panel.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    drawing.savefig(path, dpi=150)
