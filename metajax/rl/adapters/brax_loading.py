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
def _without_mujoco_warnings() -> Iterator[None]:
    """Leaves out what MuJoCo says of a model that it loads, which are brax's own files.

    It would go to standard error, and to a file MUJOCO_LOG.TXT in the current folder.
    """
    import mujoco

    handler = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(handler)


def load_environment(name: str, backend: str | None) -> Any:
    """An environment of brax by its name, with a backend or brax's own choice of it.

    Raises:
      ImportError: brax is missing.
      ValueError: there is none of that name.
    """
    try:
        # MuJoCo prints which of its own backends are missing.
        with running_brax(), contextlib.redirect_stdout(io.StringIO()):
            from brax import envs
    except ImportError as error:
        raise ImportError(
            f"from_brax({name!r}) needs brax, which cannot be imported ({error}); "
            'run: pip install "metajax[rl]"'
        ) from error
    options = {} if backend is None else {"backend": backend}
    with running_brax(), _without_mujoco_warnings():
        try:
            return envs.get_environment(name, **options)
        except KeyError as error:
            raise ValueError(
                f"brax has no environment {name!r}; expected one that "
                "brax.envs.get_environment knows, such as 'halfcheetah' or 'ant'"
            ) from error
