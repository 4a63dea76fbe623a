"""Preparing a data set of TensorFlow Datasets where there is no network."""

import errno
import re
import socket
import threading
import time

import pytest

from metajax.data.readers.tfds.reading import tfds_classes

tfds = pytest.importorskip("tensorflow_datasets", reason="tensorflow_datasets is not installed")
requests = pytest.importorskip("requests", reason="requests is not installed")


class Downloads:
    """A builder that has a file to download; `prepares` counts how often it is asked to."""

    def __init__(self, cause: BaseException) -> None:
        info = type("Info", (), {"checksum": None})()
        urls = [f"https://{host}.invalid/images.gz" for host in "abcd"]
        self.url_infos = dict.fromkeys(urls, info)
        self.cause, self.prepares = cause, 0

    def download_and_prepare(self, **_):
        self.prepares += 1
        raise self.cause


def refused(*_):
    raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")


@pytest.fixture
def downloads(monkeypatch):
    made = Downloads(requests.ConnectionError("Max retries exceeded"))
    monkeypatch.setattr(tfds, "builder", lambda *_, **__: made)
    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    return made


def test_no_network_is_said_at_once(downloads, tmp_path):
    start = time.monotonic()
    with pytest.raises(ConnectionError) as error:
        tfds_classes("mnist", data_dir=tmp_path, download=True)
    assert time.monotonic() - start < 3
    assert downloads.prepares == 0
    for part in (
        r"preparing 'mnist' needs a download, but a\.invalid and b\.invalid and c\.invalid cannot",
        r"be reached \(ConnectionError: .*Connection refused",
        rf"; prepare it on a machine with a network and copy the folder '{tmp_path}/mnist' from th",
        "or pass manual_dir= with the files downloaded by hand",
    ):
        assert re.search(part, str(error.value))


def test_servers_that_do_not_answer_are_not_waited_for(downloads, tmp_path, monkeypatch):
    monkeypatch.setattr("metajax.data.readers.tfds.preparing._PATIENCE", 0.1)
    late = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: late.wait(20) and refused())
    with pytest.raises(ConnectionError, match=r"cannot be reached \(no answer in 0\.1 s\)"):
        tfds_classes("mnist", data_dir=tmp_path, download=True)
    late.set()


@pytest.mark.parametrize("there", ["manual_dir", "downloads/manual", "downloads", "an answer"])
def test_downloads_that_fail(downloads, tmp_path, monkeypatch, there):
    manual_dir = tmp_path if there == "manual_dir" else None
    if there == "downloads/manual":
        (tmp_path / "downloads" / "manual" / "mine").mkdir(parents=True)
    if there == "downloads":
        (tmp_path / "downloads" / "mnist").mkdir(parents=True)
        name = tfds.core.download.resource.get_dl_fname("https://b.invalid/images.gz")
        (tmp_path / "downloads" / "mnist" / f"{name}.INFO").write_text("{}")
    if there == "an answer":
        monkeypatch.setattr("requests.head", lambda url, timeout: None)
    message = (
        r"preparing 'mnist' in '.*' failed \(ConnectionError: Max retries exceeded\); prepare it "
        r"on a machine with a network .*, or pass manual_dir="
    )
    with pytest.raises(OSError, match=message):
        tfds_classes("mnist", data_dir=tmp_path, download=True, manual_dir=manual_dir)
    assert downloads.prepares == 1
