"""The script that builds the emoji file, on small packages laid out as the published ones."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import metajax as mj

pytest.importorskip("PIL.Image", reason="Pillow is not installed")
from build_emoji import Package, build, match, read_package, renderer

GROUPS = {"Food & Drink": ["hot-dog"], "Activities": ["bullseye"], "Flags": ["white-flag"]}
CHARS = {"1f32d": "hot-dog", "1f3af": "bullseye", "1f3f3-fe0f": "white-flag"}
# Of emoji that are left out.
MORE = {"1f44b-1f3fb": "waving-hand-light", "1f17e": "o-button", "1f1e6-1f1e8": "flag-ac"}


def package(names: Any, aliases: Any = None, chars: Any = None) -> Package:
    icons = {
        "icons": {name: {"body": f"<path id='{name}'/>"} for name in names},
        "aliases": {name: {"parent": parent} for name, parent in (aliases or {}).items()},
        "width": 8,
        "height": 4,
    }
    licence = {"spdx": "MIT", "url": "https://example.org/licence"}
    info = {"license": licence, "author": {"name": "A. N. Artist", "url": "https://example.org"}}
    return Package(icons, info, chars or {}, GROUPS)


def packages() -> dict[str, Package]:
    every = [*CHARS.values(), *MORE.values()]
    chars = {**CHARS, **MORE}
    scroll = {**chars, "1f4dc": "scroll", "e104": "scroll"}  # One name of two emoji.
    return {
        "noto": package(every, {"direct-hit": "bullseye"}, chars),
        "second": package([*every, "frank"], None, {**chars, "1f32d": "frank"}),
        "third": package([*every, "scroll"], None, scroll),
        # Without 1f4dc; the selector is in no name here.
        "fourth": package(
            every, None, {name.removesuffix("-fe0f"): x for name, x in chars.items()}
        ),
        "by alias": package(["directhit", "scroll"]),
        "by another's name": package(["frank", "hotdog", "o-button"]),
        "by its alias": package(["pennant"], {"white-flag": "pennant"}),
        "none": package(["nothing"]),
    }


def test_icons_are_matched_by_code_points_and_then_by_names() -> None:
    coded = dict.fromkeys(("noto", "second", "third", "fourth"))
    expected = {
        "1f32d": {**dict.fromkeys(coded, "hot-dog"), "second": "frank"},
        "1f3af": dict.fromkeys(coded, "bullseye"),
        "1f3f3": dict.fromkeys(coded, "white-flag"),
    }
    expected["1f32d"]["by another's name"] = "frank"
    expected["1f3af"]["by alias"] = "directhit"
    expected["1f3f3"]["by its alias"] = "white-flag"
    assert match(packages()) == expected


def test_names_of_two_emoji_match_neither() -> None:
    given = packages()
    for name in ("noto", "second", "fourth"):
        given[name].chars["1f4dc"] = "scroll"
        given[name].icons["icons"]["scroll"] = {"body": ""}
    found = match(given)["1f4dc"]  # The third set calls another so, too.
    assert {*found} == {"noto", "second", "third", "fourth"}


def test_what_is_built_can_be_read(tmp_path: Path) -> None:
    drawn: list[str] = []

    def render(svg: str) -> np.ndarray:
        drawn.append(svg)
        return np.full((72, 72, 3), len(drawn), np.uint8)

    held = build(packages(), render)
    assert held["licences"][0] == (
        "MIT, A. N. Artist, https://example.org, https://example.org/licence"
    )
    np.savez_compressed(tmp_path / "emoji72.npz", **held)
    classes = mj.data.emoji(tmp_path, "all")
    assert classes.names == ("1f32d hot-dog", "1f3af bullseye", "1f3f3 white-flag")
    assert classes.groups == ("Food & Drink", "Activities", "Flags")
    assert classes.counts.tolist() == [5, 5, 5]
    assert classes.sources.tolist()[3:6] == ["fourth", "by another's name", "noto"]
    assert classes.images[:, 0, 0, 0].tolist() == [*range(1, 16)]
    assert "<path id='pennant'/>" in drawn[-1]
    assert 'viewBox="0 0 8 4"' in drawn[-1]


def test_flipped_aliases_are_drawn_flipped() -> None:
    given = package(["left"], {"right": "left", "down": "left"})
    given.icons["aliases"]["right"]["hFlip"] = True
    given.icons["aliases"]["down"]["vFlip"] = True
    assert "scale(-1 1)" not in given.drawing("left")
    assert '<g transform="translate(8 0) scale(-1 1)"><path' in given.drawing("right")
    with pytest.raises(ValueError, match="'down' is flipped or turned in a way"):
        given.drawing("down")


def _packed(path: Path, **parts: Any) -> str:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in parts.items():
            data = json.dumps(content).encode()
            member = tarfile.TarInfo(f"package/{name}.json")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_packages_are_read_as_npm_packs_them(tmp_path: Path) -> None:
    given = package(["a"], {"b": "a"}, {"1f600": "a"})
    file = tmp_path / "iconify-json-noto-1.2.9.tgz"
    parts = {"icons": given.icons, "info": given.info, "chars": given.chars}
    sha256 = _packed(file, **parts, metadata={"categories": GROUPS})
    assert read_package(file, sha256) == given
    with pytest.raises(ValueError, match=f"has the SHA-256 {sha256}; expected 0123: get it again"):
        read_package(file, "0123")
    with pytest.raises(FileNotFoundError, match=r"other.tgz' is not there; get it as --help says"):
        read_package(tmp_path / "other.tgz", sha256)


def test_drawings_are_laid_on_white() -> None:
    pytest.importorskip("resvg_py", reason="resvg-py is not installed")
    given = package(["half"])
    given.icons["icons"]["half"]["body"] = (
        '<rect width="4" height="4" fill="red" fill-opacity="0.5"/>'
    )
    image = renderer()(given.drawing("half"))
    assert image.shape == (72, 72, 3)
    assert image[36, 10].tolist() == [255, 127, 127]
    assert image[36, 60].tolist() == image[5, 10].tolist() == [255, 255, 255]
