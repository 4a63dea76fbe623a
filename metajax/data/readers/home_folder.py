"""Paths that begin with `~`, the user's home folder."""

import os
from pathlib import Path


def from_home(path: str | os.PathLike[str], argument: str) -> Path:
    """An absolute path, with the home folder in place of `~`.

    Raises:
      FileNotFoundError: the home folder is not known, as of a user without a name in a container;
        `argument` could name another place.
    """
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise FileNotFoundError(
            f"{argument} would be {os.fspath(path)!r}, but that home folder is not known; expected "
            f"{argument} without ~, or $HOME set"
        ) from error
