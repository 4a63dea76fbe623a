"""The download of Omniglot's zips, from a server on this machine."""

import gc
import hashlib
import re
import socket
import sys
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from metajax.data.readers.omniglot.archive import OFFICIAL
from metajax.data.readers.omniglot.download import download_omniglot

pytest.importorskip("pooch", reason="pooch is not installed")

NAMES = list(OFFICIAL)
CONTENT = {name: np.random.default_rng(i).bytes(200_000) for i, name in enumerate(NAMES)}


class Handler(BaseHTTPRequestHandler):
    """Serves `content` under its names; hangs up in the middle of what has "cut" in its path."""

    content = CONTENT

    def do_GET(self):
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        if "missing" in self.path:
            self.send_error(404)
            return
        content = self.content[self.path.rpartition("/")[2]]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: 1000 if "cut" in self.path else None])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """The address of the server, and the paths it was asked for."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name, content in CONTENT.items():
        known = OFFICIAL[name]._replace(sha256=hashlib.sha256(content).hexdigest())
        monkeypatch.setitem(OFFICIAL, name, known)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", server.asked  # type: ignore[attr-defined]
        server.shutdown()
        thread.join()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("slash", ["", "/"])
def test_whole(tmp_path, server, slash, capsys):
    url, asked = server
    folder = tmp_path / "мои данные" / "omniglot №1"
    assert download_omniglot(folder, base_url=f"{url}/mirror{slash}") == folder
    assert files(folder) == CONTENT
    assert asked == [f"/mirror/{name}" for name in NAMES]
    assert "100%" in capsys.readouterr().err
    download_omniglot(folder, base_url="http://127.0.0.1:9/never-asked", progress=False)


def test_files_that_are_there_are_kept(tmp_path, server, monkeypatch, capsys):
    url, asked = server
    monkeypatch.chdir(tmp_path)
    Path("~").mkdir()
    Path("~", NAMES[0]).write_bytes(b"mine")
    download_omniglot("~", base_url=url, progress=False)
    assert files(tmp_path / "~") == CONTENT | {NAMES[0]: b"mine"}
    assert asked == [f"/{NAMES[1]}"]
    assert "%" not in capsys.readouterr().err


def test_other_content(tmp_path, server, monkeypatch):
    monkeypatch.setattr(Handler, "content", CONTENT | {NAMES[1]: b"<html>"})
    message = (
        rf"the official {NAMES[1]} did not come from {server[0]}/{NAMES[1]} \(.*"
        rf"{OFFICIAL[NAMES[1]].sha256}.*\); call again, or get {NAMES[0]} and {NAMES[1]} from"
    )
    with pytest.raises(ValueError, match=message):
        download_omniglot(tmp_path, base_url=server[0], progress=False)
    assert files(tmp_path) == {NAMES[0]: CONTENT[NAMES[0]]}


@pytest.mark.parametrize(
    ("folder", "said"),
    [("/missing", "404 Client Error: Not Found"), ("/cut", "IncompleteRe"), ("", "refused")],
)
def test_downloads_that_fail(tmp_path, server, folder, said):
    by_hand = "https://github.com/brendenlake/omniglot/tree/master/python"
    with socket.socket() as closed:  # Bound, but nobody listens.
        closed.bind(("127.0.0.1", 0))
        url = f"{server[0]}{folder}" if folder else f"http://127.0.0.1:{closed.getsockname()[1]}"
        message = rf"{NAMES[0]} did not come from {url}/{NAMES[0]} .*{said}.*; call again, or get "
        with pytest.raises(ConnectionError, match=f"{message}{' and '.join(NAMES)} from {by_hand}"):
            download_omniglot(tmp_path, base_url=url, progress=False)
    assert files(tmp_path) == {}
    with warnings.catch_warnings():  # Of the connection, which pooch leaves open.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def test_folder_is_a_file(tmp_path):
    (tmp_path / "omniglot").write_bytes(b"")
    with pytest.raises(FileExistsError, match="omniglot"):
        download_omniglot(tmp_path / "omniglot")


def test_pooch_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match=r'pip install "metajax\[download\]", or get images_back'):
        download_omniglot(tmp_path)


def test_official_list():
    assert NAMES == ["images_background.zip", "images_evaluation.zip"]
    for official in OFFICIAL.values():
        assert re.fullmatch("[0-9a-f]{64}", official.sha256)
    assert [len(official.ids) for official in OFFICIAL.values()] == [964, 659]
