"""Warnings name the user's line, whatever lies between it and them."""

import contextlib
import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest

from metajax.user_warnings import warn_user

LIBRARY = """
def deep(levels):
    return warn_user("careful") if levels == 0 else deep(levels - 1)

def call(function):
    return function()

def traced(x):
    deep(1)
    return x

def at_exit(stack):
    stack.callback(deep, 1)
"""


@pytest.fixture
def library() -> dict:
    """Functions that stand in a module of the library."""
    names = {"__name__": "metajax.somewhere.deep", "warn_user": warn_user}
    exec(compile(LIBRARY, "deep.py", "exec"), names)
    return names


def _line_of(act: Callable[[], object]) -> int:
    with pytest.warns(RuntimeWarning, match="careful") as warned:
        act()
    assert warned[0].filename == __file__
    return warned[0].lineno


@pytest.mark.parametrize("levels", [0, 1, 5])
def test_the_caller_of_the_library(library: dict, levels: int) -> None:
    line = inspect.currentframe().f_lineno + 1  # type: ignore[union-attr]
    assert _line_of(lambda: library["deep"](levels)) == line


def test_the_users_function_that_the_library_calls(library: dict) -> None:
    def users() -> None:
        library["deep"](2)

    assert _line_of(lambda: library["call"](users)) == users.__code__.co_firstlineno + 1


def test_what_jax_traces(library: dict) -> None:
    def users(x: jax.Array) -> jax.Array:
        library["deep"](1)
        return x

    line = _line_of(lambda: jax.jit(users)(jnp.zeros(())))
    assert line == users.__code__.co_firstlineno + 1


def test_a_function_of_the_library_that_jax_calls(library: dict) -> None:
    users = jax.jit(library["traced"])
    line = inspect.currentframe().f_lineno + 1  # type: ignore[union-attr]
    assert _line_of(lambda: users(jnp.zeros(()))) == line


def test_what_happens_at_the_end_of_a_with(library: dict) -> None:
    def users() -> None:
        with contextlib.ExitStack() as stack:
            library["at_exit"](stack)

    assert _line_of(users) > users.__code__.co_firstlineno


def test_a_module_of_a_similar_name_is_the_users(library: dict) -> None:
    names = {"__name__": "metajax_extras", "deep": library["deep"]}
    exec(compile("def users():\n    deep(1)", "extras.py", "exec"), names)
    with pytest.warns(RuntimeWarning) as warned:
        names["users"]()
    assert (warned[0].filename, warned[0].lineno) == ("extras.py", 2)
