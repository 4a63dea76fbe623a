r"""Builds `emoji72.npz`, which `metajax.data.emoji` reads, from eight designers' published emoji.

`pip install resvg-py==0.5.0`, then put the packages below into a folder, as npm packs them:

    npm pack @iconify-json/noto@1.2.9 @iconify-json/fluent-emoji-flat@1.2.6 \
      @iconify-json/twemoji@1.2.5 @iconify-json/openmoji@1.2.29 @iconify-json/emojione@1.2.3 \
      @iconify-json/noto-v1@1.2.5 @iconify-json/fxemoji@1.2.2 @iconify-json/streamline-emojis@1.2.4
    python benchmarks/build_emoji.py . emoji72.npz

Each set has a licence of its own, which is printed, and kept in the file as the array `licences`.
One of them, CC-BY-SA-4.0, asks that what is made of it be shared alike.

A class is an emoji that the first four sets draw, by its code points, without variation selectors;
skin tones, and letters in squares, of which flags are made, are left out. The other four sets have
names alone: an icon of theirs is of a class if its name is one that the first four have, hyphens
aside, for this emoji and no other. Names and groups are those of Google's set. Drawings are laid on
white and rendered to 72 x 72 pixels.
"""

import argparse
import hashlib
import importlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

PIXELS = 72
# Version and SHA-256 of each package; the first four say which code points they draw.
PACKAGES = {
    "noto": ("1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
    "fluent-emoji-flat": (
        "1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    ),
    "twemoji": ("1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"),
    "openmoji": ("1.2.29", "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5"),
    "emojione": ("1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e"),
    "noto-v1": ("1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37"),
    "fxemoji": ("1.2.2", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef"),
    "streamline-emojis": (
        "1.2.4",
        "5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc",
    ),
}
CODED = 4
# Of the images that these packages become with resvg-py 0.5.0.
IMAGES = "0f9be3357c3be32c11d5bfd1238be9d5938b6199635a0181534bcbfbb0d2beab"
_VARIATION = "fe0f"
_SKIN_TONES = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}
_SQUARES = "1f1"  # Code points 1F1xx: letters in squares, of which flags are made.
_LARGEST = 2**27

Render = Callable[[str], np.ndarray]


class Package(NamedTuple):
    """What a package holds: drawings and their aliases, its licence, code points, and groups."""

    icons: dict[str, Any]
    info: dict[str, Any]
    chars: dict[str, str]
    groups: dict[str, list[str]]

    def names(self) -> Iterable[str]:
        """Of drawings, then of other names for them."""
        return [*self.icons["icons"], *self.icons.get("aliases", {})]

    def parents(self) -> dict[str, str]:
        """The drawing of every other name."""
        return {name: alias["parent"] for name, alias in self.icons.get("aliases", {}).items()}

    def licence(self) -> str:
        """Its licence and author, in a line."""
        licence, author = self.info["license"], self.info["author"]
        return f"{licence['spdx']}, {author['name']}, {author['url']}, {licence['url']}"

    def drawing(self, name: str) -> str:
        """The SVG of an icon."""
        icon = self.icons["icons"].get(name)
        if icon is None:
            alias = self.icons["aliases"][name]
            icon = {**self.icons["icons"][alias["parent"]], **alias}
        left, top = icon.get("left", 0), icon.get("top", 0)
        width, height = (icon.get(side, self.icons.get(side, 16)) for side in ("width", "height"))
        body = icon["body"]
        if icon.get("hFlip"):
            body = f'<g transform="translate({2 * left + width} 0) scale(-1 1)">{body}</g>'
        if icon.get("vFlip") or icon.get("rotate"):
            raise ValueError(f"{name!r} is flipped or turned in a way that is not drawn here")
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'width="{PIXELS}" height="{PIXELS}" viewBox="{left} {top} {width} {height}">'
            f"{body}</svg>"
        )


def read_package(file: Path, sha256: str) -> Package:
    """A package as npm packs it, found to be the one that is meant."""
    if not file.exists():
        raise FileNotFoundError(f"{str(file)!r} is not there; get it as --help says")
    content = file.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise ValueError(f"{str(file)!r} has the SHA-256 {found}; expected {sha256}: get it again")
    held = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for name in ("icons", "info", "chars", "metadata"):
            member = archive.getmember(f"package/{name}.json")
            stream = archive.extractfile(member)
            if stream is None or member.size > _LARGEST:
                raise ValueError(f"{str(file)!r} has no {name}.json of up to {_LARGEST} bytes")
            held[name] = json.loads(stream.read())
    return Package(held["icons"], held["info"], held["chars"], held["metadata"]["categories"])


def match(packages: Mapping[str, Package]) -> dict[str, dict[str, str]]:
    """Of each class, by its code points, the icon of every set that has one."""
    coded, named = [*packages][:CODED], [*packages][CODED:]
    chars = {name: _by_code_points(packages[name]) for name in coded}
    classes = set.intersection(*(set(of_set) for of_set in chars.values()))
    classes = {points for points in classes if not _left_out(points)}
    owners: dict[str, set[str]] = {}
    for name in coded:
        parents = packages[name].parents()
        called: dict[str, set[str]] = {}
        for each in packages[name].names():
            called.setdefault(parents.get(each, each), set()).add(each)
        for points, icon in chars[name].items():
            for each in {icon, *called[parents.get(icon, icon)]}:
                owners.setdefault(_plain(each), set()).add(points)
    icons = {points: {name: chars[name][points] for name in coded} for points in sorted(classes)}
    for name in named:
        for each in packages[name].names():
            owned = owners.get(_plain(each), set())
            if len(owned) == 1 and (points := next(iter(owned))) in icons:
                icons[points].setdefault(name, each)
    return icons


def build(packages: Mapping[str, Package], render: Render) -> dict[str, Any]:
    """The arrays of the file."""
    matched = match(packages)
    designs = [*packages]
    first = packages[designs[0]]
    group_of = {icon: group for group, icons in first.groups.items() for icon in icons}
    names = [icons[designs[0]] for icons in matched.values()]
    images, class_index, design_index = [], [], []
    for index, icons in enumerate(tqdm(matched.values(), unit="class")):
        for design, name in enumerate(designs):
            if name in icons:
                images.append(render(packages[name].drawing(icons[name])))
                class_index.append(index)
                design_index.append(design)
    return {
        "images": np.stack(images),
        "class_index": np.array(class_index, np.int16),
        "design_index": np.array(design_index, np.uint8),
        "code_points": np.array([*matched]),
        "names": np.array(names),
        "categories": np.array([group_of[name] for name in names]),
        "designs": np.array(designs),
        "licences": np.array([package.licence() for package in packages.values()]),
    }


def renderer() -> Render:
    """From SVG to `[72, 72, 3]` uint8 on white, by resvg."""
    resvg: Any = importlib.import_module("resvg_py")

    def render(svg: str) -> np.ndarray:
        png = resvg.svg_to_bytes(
            svg_string=svg, width=PIXELS, height=PIXELS, skip_system_fonts=True
        )
        with Image.open(io.BytesIO(png)) as picture:
            ink = picture.convert("RGBA")
        paper = Image.new("RGBA", ink.size, "white")
        pixels = np.asarray(Image.alpha_composite(paper, ink).convert("RGB"))
        if pixels.shape != (PIXELS, PIXELS, 3):
            raise ValueError(
                f"a drawing became {pixels.shape}; expected {PIXELS} x {PIXELS} pixels"
            )
        return pixels

    return render


def _by_code_points(package: Package) -> dict[str, str]:
    """The icon of each emoji, by its code points without variation selectors."""
    found: dict[str, str] = {}
    for points, icon in package.chars.items():
        plain = "-".join(point for point in points.split("-") if point != _VARIATION)
        found.setdefault(plain, icon)
    return found


def _left_out(points: str) -> bool:
    each = points.split("-")
    return bool(_SKIN_TONES & {*each}) or any(
        len(point) == 5 and point.startswith(_SQUARES) for point in each
    )


def _plain(name: str) -> str:
    return name.replace("-", "")


def run(args: argparse.Namespace) -> None:
    render = renderer()
    packages = {
        name: read_package(args.folder / f"iconify-json-{name}-{version}.tgz", sha256)
        for name, (version, sha256) in PACKAGES.items()
    }
    for name, package in packages.items():
        print(f"{name}: {package.licence()}")
    held = build(packages, render)
    np.savez_compressed(args.out, **held)
    print(f"{len(held['images'])} images of {len(held['names'])} emoji in {args.out}")
    if (found := hashlib.sha256(held["images"]).hexdigest()) != IMAGES:
        print(
            f"their SHA-256 is {found}, not {IMAGES}: another version of resvg-py rounds otherwise"
        )


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out.add_argument("folder", type=Path, help="where the packages are")
    out.add_argument("out", type=Path, nargs="?", default=Path("emoji72.npz"))
    return out


if __name__ == "__main__":
    run(parser().parse_args())
