"""Fields of a record, which a file has from anyone: each of its kind and in range, or refused."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from metajax.kinds import in_brief


class Fields:
    """The fields of an object of JSON, each asked for by name and kind."""

    def __init__(self, values: Any, where: str) -> None:
        """Takes them.

        Args:
          values: what JSON had in this place.
          where: the file, and the place in it, for messages.
        """
        self.where = where
        if not isinstance(values, Mapping):
            self._refuse("holds", values, "an object")
        self._values: Mapping[str, Any] = values

    def has(self, name: str) -> bool:
        """Whether there is one of this name that is not null."""
        return self._values.get(name) is not None

    def within(self, name: str) -> "Fields":
        """The fields of an object among them."""
        return Fields(self._values.get(name), f"{self.where}, {name}")

    def json(self, name: str) -> Any:
        """What it is, whose checks are another's."""
        return self._values.get(name)

    def text(self, name: str, among: tuple[str, ...] | None = None) -> str:
        """A text, one of some words where those are given."""
        return self._one(
            name,
            lambda x: isinstance(x, str) and (among is None or x in among),
            "a text" if among is None else f"one of {', '.join(among)}",
        )

    def flag(self, name: str) -> bool:
        """True or false."""
        return self._one(name, lambda x: isinstance(x, bool), "true or false")

    def integer(self, name: str, least: int, most: int) -> int:
        """An integer in a range."""
        return self._one(
            name, lambda x: _is_integer(x) and least <= x <= most, f"an integer {least} to {most}"
        )

    def number(self, name: str, within: Callable[[float], bool], expected: str) -> float:
        """A finite number in a range."""
        return float(self._one(name, lambda x: _is_number(x) and within(x), expected))

    def several(self, name: str, is_one: Callable[[Any], bool], expected: str) -> list[Any]:
        """A list of values of one kind."""
        return self._one(
            name, lambda x: isinstance(x, list) and all(map(is_one, x)), f"a list of {expected}"
        )

    def refuse(self, what: str, expected: str) -> NoReturn:
        """Raises: what was found beside what was expected.

        Raises:
          ValueError: always.
        """
        raise ValueError(
            f"{self.where} {what}; expected {expected}, as FewShotClassifier.save writes it"
        )

    def _one(self, name: str, fits: Callable[[Any], bool], expected: str) -> Any:
        value = self._values.get(name)
        if not fits(value):
            self._refuse(f"has {name}", value, expected)
        return value

    def _refuse(self, what: str, value: Any, expected: str) -> NoReturn:
        self.refuse(f"{what} {in_brief(value)}", expected)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    try:
        return (
            not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
        )
    except OverflowError:
        return False
