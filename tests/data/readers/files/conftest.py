"""What the tests of folders and lists share."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def user_cache(tmp_path_factory, monkeypatch) -> Path:
    """The folder of caches of a user who has none, a new one for each test."""
    root = tmp_path_factory.mktemp("user")
    monkeypatch.setenv("XDG_CACHE_HOME", str(root))
    return root / "metajax"
