"""What a row of the fuzz is, and which public names have to have one."""

import importlib
import importlib.util
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from fuzz.kinds import Kind

# The modules in which public names are found, beside the package itself.
MODULES = ("metajax", *(f"metajax.{n}" for n in ("data", "metric", "models", "models.kernels")))
MODULES += ("metajax.calibration", "metajax.models.pretrained", "metajax.parallel")
MODULES += ("metajax.pictures",)
MODULES += ("metajax.recipes", "metajax.rl", "metajax.runs")


class Call(NamedTuple):
    """A public function with arguments that are right.

    Attributes:
      name: as users write it, "metajax.data.glyphs" or "metajax.Checkpoints.save".
      call: it, as a function of keyword arguments, used as far as it takes to see them.
      right: arguments that work.
      kinds: of each argument what it is to be, by its name. What is not here is excused by name.
      slow: whether a right call compiles much.
      late: whether a wrong one does too, since some slips are seen late.
      needs: packages without which it can do nothing.
    """

    name: str
    call: Callable[..., Any]
    right: Callable[[], Mapping[str, Any]]
    kinds: Mapping[str, Kind]
    slow: bool = False
    late: bool = False
    needs: tuple[str, ...] = ()

    def lacks(self) -> list[str]:
        """What it needs and is not installed."""
        return [package for package in self.needs if not importlib.util.find_spec(package)]


class Case(NamedTuple):
    """A call with one argument that is wrong."""

    call: Call
    argument: str
    label: str
    value: Any

    @property
    def name(self) -> str:
        return f"{self.call.name}({self.argument}: {self.label})"


def cases_of(call: Call) -> Iterator[Case]:
    for argument, kind in call.kinds.items():
        for label, value in kind.bad().items():
            yield Case(call, argument, label, value)


def public_arguments() -> dict[str, set[str]]:
    """The parameters of all public functions, classes and their public methods, by name.

    Named tuples and protocols hold what they are given: whoever takes them looks at them.
    """
    found: dict[str, set[str]] = {}
    for module in MODULES:
        room = importlib.import_module(module)
        for name in room.__all__:
            public = getattr(room, name)
            if isinstance(public, types.ModuleType) or not callable(public):
                continue
            if not inspect.isclass(public):
                found[f"{module}.{name}"] = set(inspect.signature(public).parameters)
                continue
            if not (issubclass(public, tuple) or getattr(public, "_is_protocol", False)):
                found[f"{module}.{name}"] = set(inspect.signature(public).parameters)
            for method, function in inspect.getmembers(public, inspect.isfunction):
                own = (function.__module__ or "").startswith("metajax")
                if own and not method.startswith("_"):
                    parameters = set(inspect.signature(function).parameters) - {"self"}
                    found[f"{module}.{name}.{method}"] = parameters
    return {name: parameters for name, parameters in found.items() if parameters}
