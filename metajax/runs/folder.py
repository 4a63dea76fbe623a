"""A run's folder and its `run.json`: written once, and proved to be the run's when it goes on."""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metajax.checkpoint.lock import NAME as LOCK
from metajax.checkpoint.lock import lock_folder
from metajax.checks.numbers import check_integers, check_optional_integers, check_seeds
from metajax.checks.settings import (
    check_mappings,
    check_names,
    check_optional_texts,
    check_paths,
    check_texts,
)
from metajax.data.labelled_images import in_short
from metajax.kinds import in_brief
from metajax.recipes.json_form import as_json, from_json
from metajax.recipes.records import Recipe
from metajax.regular_files import read_regular
from metajax.runs.own_classes import OwnClasses
from metajax.runs.run import Run
from metajax.version import VERSION

FILE = "run.json"
FORMAT = 1
_MOST_BYTES = 64 * 2**20
_MOST_NUMBERS = 2**26  # Before room is made for them.
_PARTS = ("train", "validation", "test")
# What tells two runs apart, of a recipe; what others published on it does not.
_OF_RECIPE = ("training", "testing")
_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Settings:
    """What makes a run what it is; see `Run`."""

    recipe: Recipe
    shape: tuple[int, ...]
    seed: int
    validate_every: int | None
    validation_episodes: int | None
    classes: OwnClasses | None

    def as_json(self) -> dict[str, Any]:
        """What `run.json` holds of them."""
        parts = {part: [*getattr(self.classes, part)] for part in _PARTS if self.classes}
        return {
            "recipe": as_json(self.recipe),
            "shape": [*self.shape],
            "seed": int(self.seed),
            "validate_every": _integer(self.validate_every),
            "validation_episodes": _integer(self.validation_episodes),
            "classes": parts or None,
        }


def load_run(folder: str | os.PathLike[str]) -> Run:
    """The run of a folder that `train_run` made.

    It reads `run.json` alone: neither the checkpoints nor what the run was trained on.

    Args:
      folder: the run's folder, which may have been moved or copied.

    Raises:
      FileNotFoundError: there is no such folder, or it is no run's.
      OSError: its `run.json` cannot be read, or is no regular file.
      TypeError: the folder is no path.
      ValueError: `run.json` is damaged, or of a newer metajax.
    """
    check_paths(folder=folder)
    where = Path(os.path.abspath(folder))
    path = where / FILE
    try:
        text = read_regular(path, _MOST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        what = "is no run's folder: it has no run.json" if where.is_dir() else "is no folder"
        raise FileNotFoundError(
            f"{str(where)!r} {what}; expected a folder that `metajax train` or "
            "metajax.runs.train_run made"
        ) from None
    try:
        record = json.loads(text)
        check_mappings(record=record)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(_damaged(path, error)) from error
    version = record.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise ValueError(
            f"{str(path)!r} is of format {version}, made by metajax {record.get('metajax')}, and "
            f"this metajax reads format {FORMAT}; expected a newer metajax: pip install -U metajax"
        )
    try:
        return _run_of(where, record)
    except (TypeError, ValueError, KeyError, RecursionError) as error:
        raise ValueError(_damaged(path, error)) from error


def begin_run(folder: Path, settings: Settings, *, data_dir: str | None) -> Run:
    """The run of a folder that was none's; where another process was faster, that one's.

    Args:
      folder: absolute; made if it does not exist.
      settings: of the run.
      data_dir: see `Run`.

    Raises:
      FileExistsError: it holds other files, or another process begins a run there just now.
      OSError: it cannot be written.
    """
    lock = lock_folder(folder)
    try:
        if (folder / FILE).exists():
            return load_run(folder)
        names = (name for name in os.listdir(folder) if not name.startswith("."))
        if others := sorted(name for name in names if name != LOCK):
            raise FileExistsError(
                f"{str(folder)!r} holds {in_short(others, 3)} and is no run's folder; expected a "
                "new or an empty one"
            )
        record = {
            "format": FORMAT,
            "metajax": VERSION,
            "data_dir": data_dir,
            "pictures": settings.classes and settings.classes.folder,
            "settings": settings.as_json(),
        }
        write_whole(folder / FILE, json.dumps(record, indent=1))
        return load_run(folder)
    finally:
        if lock is not None:
            lock.release()


def check_same(known: Run, settings: Settings) -> None:
    """Raises a FileExistsError that says how a run differs from the one that is asked for."""
    there, here = (_flat(_telling(each.as_json())) for each in (_settings_of(known), settings))
    different = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    if different:
        shown = [
            f"{name} is {in_brief(there.get(name))} there and {in_brief(here.get(name))} here"
            for name in different[:_SHOWN]
        ]
        if len(different) > _SHOWN:
            shown.append(f"and {len(different) - _SHOWN} more")
        raise FileExistsError(
            f"{str(known.folder)!r} holds another run ({known.recipe.name}, {known.step} of "
            f"{known.recipe.training.iterations} iterations): {'; '.join(shown)}; expected the "
            "same settings, to go on with it, or another folder"
        )


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that it is there whole or not at all.

    Raises:
      OSError: it cannot be written.
    """
    new = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with new.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            new.unlink()


def _run_of(folder: Path, record: Mapping[str, Any]) -> Run:
    """The run, every value of which is checked."""
    settings = record["settings"]
    check_mappings(settings=settings)
    recipe = from_json(settings["recipe"])
    shape = settings["shape"]
    if not isinstance(shape, list) or not 1 <= len(shape) <= 3:
        raise TypeError(f"shape is {in_brief(shape)}; expected a list of 1 to 3 integers")
    check_integers(1, **{f"shape[{i}]": size for i, size in enumerate(shape)})
    if math.prod(shape) > _MOST_NUMBERS:
        raise ValueError(f"shape is {shape}; expected an item of at most {_MOST_NUMBERS} numbers")
    check_seeds(seed=settings["seed"])
    check_optional_integers(1, validate_every=settings["validate_every"])
    check_optional_integers(2, validation_episodes=settings["validation_episodes"])
    check_texts(metajax=record["metajax"])
    check_optional_texts(data_dir=record["data_dir"], pictures=record["pictures"])
    classes, parts = None, settings["classes"]
    if parts is not None:
        check_mappings(classes=parts)
        names = {part: parts[part] for part in _PARTS}
        check_names(**names)
        check_texts(pictures=record["pictures"])
        classes = OwnClasses(record["pictures"], *(tuple(names[part]) for part in _PARTS))
    text = json.dumps(settings, sort_keys=True)
    return Run(
        folder,
        recipe,
        tuple(shape),
        settings["seed"],
        settings["validate_every"],
        settings["validation_episodes"],
        classes,
        record["data_dir"],
        record["metajax"],
        hashlib.sha256(text.encode()).hexdigest(),
    )


def _settings_of(run: Run) -> Settings:
    return Settings(
        run.recipe,
        run.shape,
        run.seed,
        run.validate_every,
        run.validation_episodes,
        run.classes,
    )


def _telling(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without what is only told of the recipe."""
    recipe = {name: settings["recipe"][name] for name in _OF_RECIPE}
    return {**settings, "recipe": recipe}


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """The values by their path, such as `training.outer.rate`."""
    if not isinstance(value, Mapping):
        return {path: value}
    inner = [_flat(each, f"{path}.{name}" if path else name) for name, each in value.items()]
    return {name: each for part in inner for name, each in part.items()}


def _integer(number: int | None) -> int | None:
    """Of Python, which JSON can hold."""
    return None if number is None else int(number)


def _damaged(path: Path, error: Exception) -> str:
    said = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
    said = re.sub(r"^([\w\[\]]+)=", r"\1 is ", said)  # Nobody gave it as an argument.
    return (
        f"{str(path)!r} is not what `metajax train` wrote: {said}; expected the file of a copy, or "
        "a run in a new folder"
    )
