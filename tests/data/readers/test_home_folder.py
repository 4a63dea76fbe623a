"""Home folders that are known, and those that are not."""

import os
import pwd
from pathlib import Path

import pytest

from metajax.data.readers.cache import cache_folder
from metajax.data.readers.home_folder import from_home


def test_the_home_folder_stands_for_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert from_home("~/a", "cache") == tmp_path / "a"
    assert from_home(Path("a~"), "cache") == Path.cwd() / "a~"


def test_home_folders_that_are_not_known(monkeypatch):
    said = r"cache would be '~nobody-of-this-name/a', but .* not known; expected cache without ~"
    with pytest.raises(FileNotFoundError, match=said):
        cache_folder("~nobody-of-this-name/a", "title", [])
    # A user of a container, who has a number and no name.
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 12_345_678)
    with pytest.raises(KeyError):
        pwd.getpwuid(12_345_678)
    with pytest.raises(FileNotFoundError, match=r"cache would be '~/.cache/metajax', but"):
        cache_folder(None, "title", [])
