"""Loading an environment of brax, and what is said meanwhile: in one place."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from typing import Any

import jax


@contextlib.contextmanager
def running_brax() -> Iterator[None]:
    """Brax as it is imported, loads or traces, without what is said of its upkeep.

    Brax and JAXopt are no longer maintained, and brax reads fields of MuJoCo's that are deprecated.
    It also adds vectors to matrices, which users may have forbidden for code of their own.
    """
    with warnings.catch_warnings(), jax.numpy_rank_promotion("allow"):
        warnings.filterwarnings("ignore", "Brax System", UserWarning)
        warnings.filterwarnings("ignore", "JAXopt is no longer maintained", DeprecationWarning)
        warnings.filterwarnings("ignore", "Accessing `.*` directly from", DeprecationWarning)
        yield


@contextlib.contextmanager
def _without_mujoco_messages() -> Iterator[None]:
    """Leaves out what MuJoCo says of a model that it loads, which are brax's own files.

    It would go to standard error, and to a file MUJOCO_LOG.TXT in the current folder. To standard
    output it prints which of its own backends are missing.
    """
    import mujoco

    callbacks: Any = mujoco  # Written in C++, and without types.
    handler = callbacks.get_mju_user_warning()
    callbacks.set_mju_user_warning(lambda message: None)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        callbacks.set_mju_user_warning(handler)


def load_environment(name: str, backend: str | None) -> Any:
    """An environment of brax by its name, with a backend or brax's own choice of it.

    Raises:
      ImportError: brax is missing.
      ValueError: there is none of that name.
    """
    options = {} if backend is None else {"backend": backend}
    try:
        with running_brax(), _without_mujoco_messages():
            from brax import envs

            return envs.get_environment(name, **options)
    except ImportError as error:
        raise ImportError(
            f"from_brax({name!r}) needs brax, which cannot be imported ({error}); "
            'run: pip install "metajax[rl]"'
        ) from error
    except KeyError as error:
        raise ValueError(
            f"brax has no environment {name!r}; expected one that brax.envs.get_environment "
            "knows, such as 'halfcheetah' or 'ant'"
        ) from error
