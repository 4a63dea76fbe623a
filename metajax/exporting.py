"""Names for the library's tuples in the programs that `jax.export` serialises."""

import contextlib
from types import ModuleType

from jax import export


def register(*modules: ModuleType) -> None:
    """Lets `jax.export` serialise programs whose arguments or results are public named tuples.

    In such a program a tuple `Name` is called `metajax.Name`. One that is registered, or whose name
    is taken, is left as it is: the module was loaded before.

    Args:
      *modules: whose public names are looked through; they know no tuples but the library's.
    """
    for module in modules:
        for name, kind in vars(module).items():
            if not name.startswith("_") and _is_named_tuple(kind):
                with contextlib.suppress(ValueError):
                    export.register_namedtuple_serialization(
                        kind, serialized_name=f"metajax.{kind.__name__}"
                    )


def _is_named_tuple(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")
