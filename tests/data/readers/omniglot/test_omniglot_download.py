"""The download of Omniglot's zips, from a server on this machine."""

import errno
import hashlib
import io
import re
import shutil
import socket
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from metajax.data.readers.omniglot import download
from metajax.data.readers.omniglot.archive import check_pictures
from metajax.data.readers.omniglot.download import download_omniglot, download_zips
from metajax.data.readers.omniglot.official_zips import OFFICIAL, OfficialZip, warn_of_other_bytes

pytest.importorskip("pooch", reason="pooch is not installed")

IDS = range(7, 9)
NAME = "images_background.zip"


def png_start(width: int = 105, height: int = 105) -> bytes:
    sizes = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + sizes


def zip_of(pictures: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in pictures.items():
            archive.writestr(f"images_background/{name}", content)
    return stream.getvalue()


def drawings(picture: bytes, ids: range = IDS) -> dict[str, bytes]:
    return {
        f"Arcadian/character{c:02d}/{c:04d}_{d:02d}.png": picture for c in ids for d in range(1, 21)
    }


NOISE = np.random.default_rng(0).bytes(5000)
CONTENT = zip_of(drawings(png_start() + NOISE))
WHOLE = drawings(png_start() + bytes(5000))
OTHER = zip_of(WHOLE)
REGISTRY = {NAME: OfficialZip(hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), IDS)}


class Server(ThreadingHTTPServer):
    """Serves `content` under every name but `missing`.

    Attributes:
      content: what is served.
      ranges: whether it understands ranges.
      cut: bytes after which it hangs up, or None.
      asked: the path and the Range header of every request.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.ranges, self.cut = CONTENT, True, None
        self.asked: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/mirror"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        content, asked = self.server.content, self.headers["Range"]
        self.server.asked.append((self.path, asked))
        if "missing" in self.path:
            self.send_error(404)
            return
        start = 0
        if asked and self.server.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= len(content):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.server.cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch(folder: Path, url: str, progress: bool = False) -> Path:
    return download_zips(folder, REGISTRY, url, progress=progress)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def cut_short(folder: Path, server: Server, after: int = 2 * 2**16) -> None:
    server.cut = after
    message = rf"{NAME} could not be downloaded .*; {after} of {len(CONTENT)} bytes are here; call"
    with pytest.raises(ConnectionError, match=message):
        fetch(folder, server.url)
    assert files(folder) == {f"{NAME}.part": CONTENT[:after]}
    server.cut = None


@pytest.mark.parametrize("slash", ["", "/"])
def test_whole(tmp_path, server, slash):
    folder = tmp_path / "мои данные" / "omniglot №1"
    assert fetch(folder, server.url + slash) == folder
    assert files(folder) == {NAME: CONTENT}
    assert server.asked == [(f"/mirror/{NAME}", None)]
    fetch(folder, "http://127.0.0.1:9/never-asked")


def test_relative_folder(tmp_path, server, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fetch(Path("~"), server.url)
    assert files(tmp_path / "~") == {NAME: CONTENT}


def test_continues_after_a_cut(tmp_path, server):
    cut_short(tmp_path, server)
    fetch(tmp_path, server.url)
    assert files(tmp_path) == {NAME: CONTENT}
    assert [asked for _, asked in server.asked] == [None, "bytes=131072-"]


def test_begins_anew_where_the_server_knows_no_ranges(tmp_path, server):
    server.ranges = False
    cut_short(tmp_path, server)
    fetch(tmp_path, server.url)
    assert files(tmp_path) == {NAME: CONTENT}
    assert server.asked[1][1] == "bytes=131072-"


def test_part_that_is_complete(tmp_path, server):
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT)
    fetch(tmp_path, server.url)
    assert files(tmp_path) == {NAME: CONTENT}


def test_progress_counts_what_was_there(tmp_path, server, capsys):
    cut_short(tmp_path, server)
    fetch(tmp_path, server.url, progress=True)
    bar = capsys.readouterr().err
    assert f"{NAME}: " in bar
    assert "63%" in bar
    assert "100%" in bar


@pytest.mark.parametrize("begun", [0, 1000, 10**6])
def test_other_content(tmp_path, server, begun):
    server.content = OTHER
    if begun:
        (tmp_path / f"{NAME}.part").write_bytes(bytes(begun))
    message = (
        rf"what came from {server.url}/{NAME} is not the official {NAME} \(.*expected "
        rf"{REGISTRY[NAME].sha256} but got .*; it was deleted, with the part .* call again"
    )
    with pytest.raises(ValueError, match=message.replace("expected ", "expected sha256:")):
        fetch(tmp_path, server.url)
    assert files(tmp_path) == {}
    server.content = CONTENT
    fetch(tmp_path, server.url)
    assert files(tmp_path) == {NAME: CONTENT}


def test_not_found(tmp_path, server):
    with pytest.raises(ConnectionError, match="404 Client Error: Not Found for url") as error:
        fetch(tmp_path, f"{server.url}/missing")
    by_hand = "https://github.com/brendenlake/omniglot/tree/master/python"
    assert f"get {NAME} from {by_hand} and put them, left zipped, into" in str(error.value)
    assert files(tmp_path) == {}


def test_no_network(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as closed:  # Bound, but nobody listens.
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(ConnectionError, match=f"from {url}/{NAME} .*refused.* 0 of") as error:
            fetch(tmp_path, url)
    assert f"into {str(tmp_path)!r}" in str(error.value)
    assert files(tmp_path) == {}


def test_disk_that_is_full_from_the_start(tmp_path, server, monkeypatch):
    usage = shutil._ntuple_diskusage(10**9, 10**9, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    message = rf"{NAME} could not be written to .*\(0\.0 MB are free\); make room for 0\.2 MB"
    with pytest.raises(OSError, match=message):
        fetch(tmp_path, server.url)
    assert files(tmp_path) == {}


def test_disk_that_fills_up(tmp_path, server, monkeypatch):
    class Bar(download.tqdm):
        def update(self, n=1):
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(download, "tqdm", Bar)
        with pytest.raises(OSError, match=r"could not be written to .*No space left on device"):
            fetch(tmp_path, server.url)
    assert list(files(tmp_path)) == [f"{NAME}.part"]
    fetch(tmp_path, server.url)
    assert files(tmp_path) == {NAME: CONTENT}


def test_folder_is_a_file(tmp_path):
    path = tmp_path / "omniglot"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="is a file, expected a folder to download into"):
        download_omniglot(path)


def test_pooch_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match=r'pip install "metajax\[download\]", or get images_back'):
        download_omniglot(tmp_path)


def test_all_missing_zips_are_named(tmp_path, server):
    both = f"get {' and '.join(OFFICIAL)} from https:"
    with pytest.raises(ConnectionError, match=both):
        download_omniglot(tmp_path, base_url=f"{server.url}/missing", progress=False)


def test_both_official_zips_are_asked_for(tmp_path, server):
    (tmp_path / "images_evaluation.zip").write_bytes(b"mine")
    with (
        pytest.warns(RuntimeWarning, match="images_evaluation.*not complete") as warned,
        pytest.raises(ValueError, match="is not the official images_background"),
    ):
        download_omniglot(tmp_path, base_url=server.url, progress=False)
    assert Path(warned[0].filename) == Path(__file__)
    assert files(tmp_path) == {"images_evaluation.zip": b"mine"}


# Files that are there already


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (OTHER, "the pictures are complete: 2 characters by 20 drawers, 105 x 105"),
        (CONTENT[:1000], r"the pictures are not complete: .*\(1000 bytes\) cannot be read"),
        (
            zip_of(drawings(png_start(), range(7, 8))),
            "the pictures are not complete: .* 20 drawings of 1 characters, expected 40 of 2",
        ),
        (
            zip_of({n.replace("Arcadian", "Greek"): p for n, p in WHOLE.items()}),
            "not complete: .* is in the folder 'Greek/character07', expected 'Arcadian/ch",
        ),
        (
            zip_of(drawings(png_start(30, 28))),
            r"not complete: .*0007_01\.png' in .* is no PNG picture of 105 x 105 pixels",
        ),
    ],
)
def test_other_bytes_are_said_and_kept(tmp_path, content, said):
    path = tmp_path / NAME
    path.write_bytes(content)
    found = hashlib.sha256(content).hexdigest()
    with pytest.warns(RuntimeWarning, match=said) as warned:
        fetch(tmp_path, "http://127.0.0.1:9/never-asked")
    message = str(warned[0].message)
    assert f"{str(path)!r} has the sha256 {found}, expected {REGISTRY[NAME].sha256}" in message
    assert "it was re-encoded or is damaged" in message
    assert files(tmp_path) == {NAME: content}


def test_damaged_entry_is_said(tmp_path):
    content = bytearray(zip_of(drawings(png_start() + bytes(99)), zipfile.ZIP_DEFLATED))
    content[len("images_background/Arcadian/character07/0007_01.png") + 30] = 0xFF
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(ValueError, match=r"0007_01\.png' in .* cannot be read \(Error -3"):
        check_pictures(tmp_path / NAME, IDS)


def test_official_bytes_are_silent(tmp_path):
    (tmp_path / NAME).write_bytes(CONTENT)
    warn_of_other_bytes(tmp_path / NAME, REGISTRY[NAME])


def test_official_list():
    assert list(OFFICIAL) == ["images_background.zip", "images_evaluation.zip"]
    assert all(re.fullmatch("[0-9a-f]{64}", official.sha256) for official in OFFICIAL.values())
    assert [len(official.ids) for official in OFFICIAL.values()] == [964, 659]
