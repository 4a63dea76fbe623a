"""What every benchmark does with its records: a wide console, tables, a file."""

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table


def wide_console() -> Console:
    """A console whose rows do not break."""
    console = Console()
    console.width = max(console.width, 150)  # Where there is no terminal it would be 80.
    return console


def devices() -> str:
    """What computes."""
    return f"device: {jax.devices()[0].device_kind}, {jax.local_device_count()} of them"


def processor() -> str:
    """The name of the CPU, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def plain_table(title: str, records: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Table:
    """The records' `columns`, a row each."""
    table = Table(*columns, title=title)
    for record in records:
        table.add_row(*(_cell(record[column]) for column in columns))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write(results: Any, path: Path) -> None:
    """Writes JSON, in a folder that is made if need be; a file is whole, or the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.new")
    new.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    new.replace(path)
