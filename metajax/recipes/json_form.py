"""A recipe as JSON, and back: plain values, which the records themselves check."""

import dataclasses
import json
import typing
from collections.abc import Mapping
from typing import Any

from metajax.checks.objects import check_instance
from metajax.checks.settings import check_mappings
from metajax.data.labelled_images import in_short
from metajax.kinds import in_brief
from metajax.recipes.records import Recipe


def as_json(recipe: Recipe) -> dict[str, Any]:
    """The recipe as what JSON can hold: `from_json` makes an equal one of it.

    >>> import metajax
    >>> metajax.recipes.as_json(metajax.recipes.find("maml", "glyphs"))["training"]["inner"]["rate"]
    0.4

    Raises:
      TypeError: it is no recipe.
    """
    check_instance(recipe, Recipe, "recipe", "a metajax.recipes.Recipe")
    return json.loads(json.dumps(dataclasses.asdict(recipe)))


def from_json(record: Mapping[str, Any]) -> Recipe:
    """The recipe of which `as_json` made this; every value is checked, and nothing is executed.

    A field that is missing has its default, so that recipes of older versions are read too.

    Args:
      record: the object that JSON gave.

    Raises:
      TypeError: it is no mapping, or a value is of another kind.
      ValueError: it has a field that recipes do not have, lacks one that they need, or a value is
        out of range.
    """
    check_mappings(record=record)
    return _record(Recipe, record, "record")


def _record(kind: type, given: Any, path: str) -> Any:
    """The record of a data class, and of those in it."""
    if not isinstance(given, Mapping):
        raise TypeError(f"{path} is {in_brief(given)}; expected the fields of {kind.__name__}")
    fields = dataclasses.fields(kind)
    if strangers := [name for name in given if name not in {field.name for field in fields}]:
        raise ValueError(
            f"{path} has {in_short(list(map(str, strangers)))}, which {kind.__name__} has not; "
            "expected a recipe of this version of metajax, or of an older one"
        )
    needed = {field.name for field in fields if field.default is dataclasses.MISSING}
    if missing := sorted(needed - given.keys()):
        raise ValueError(f"{path} lacks {in_short(missing)}; expected a whole {kind.__name__}")
    hints = typing.get_type_hints(kind)
    return kind(**{name: _value(hints[name], x, f"{path}.{name}") for name, x in given.items()})


def _value(hint: Any, given: Any, path: str) -> Any:
    parts = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        if not isinstance(given, list | tuple):
            raise TypeError(f"{path} is {in_brief(given)}; expected a list")
        return tuple(_value(parts[0], each, f"{path}[{i}]") for i, each in enumerate(given))
    kinds = [each for each in (hint, *parts) if dataclasses.is_dataclass(each)]
    if kinds and given is not None:
        return _record(typing.cast(type, kinds[0]), given, path)
    return given
