"""`metajax fit`: a classifier from a folder of pictures."""

import os
import shlex
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from metajax.checks.numbers import check_optional_integers
from metajax.command_line import exit_codes
from metajax.command_line.classifier_files import network_and_head
from metajax.command_line.output import Output
from metajax.command_line.unread_pictures import warn_of_unread
from metajax.command_line.written_files import check_new_file
from metajax.data.labelled_images import in_short

if TYPE_CHECKING:
    from metajax.pictures import LabelledPictures

_KEPT = 0.95


@dataclass(frozen=True)
class Fit:
    """Make a classifier from a folder of pictures, and write it to one file.

    Attributes:
      network: What looks at the pictures: efficientnet_lite0, which was trained on photographs, or
        the folder of a run of `metajax train`.
      folder: The pictures, in a folder a class that is named as the class: flowers/rose/1.jpg,
        flowers/tulip/a.png. A few a class are enough; one is, too.
      output: The classifier's file, whose name ends in .mjx. One that is there is replaced.
      head: How classes are told apart by what the network sees. A run brings its own.
      kept: The share of pictures of these classes that are to be answered. The least sure others
        get the answer "none of these", and with them pictures of no such class: the more of these,
        the lower the share.
      answer_all: Answer every picture with a class, however unsure.
      side: Height and width in pixels that pictures are shown to the network in.
      aspect: How a picture becomes a square: crop takes its middle, pad adds white borders, stretch
        changes its shape.
      invert: Swap black and white, as for a run that was trained on light lines on black.
      skip_unreadable: Go on without pictures that cannot be read; each is named in a warning.
      cache: The folder where pictures that were looked at once are kept, for a quick next time.
    """

    network: str
    folder: str
    output: Annotated[
        str | None,
        arg(aliases=("-o",), metavar="FILE", help_behavior_hint="(default: FOLDER.mjx, here)"),
    ] = None
    head: Literal["ridge", "means", "mahalanobis", "probe"] = "ridge"
    kept: Annotated[float, arg(metavar="SHARE")] = _KEPT
    answer_all: bool = False
    side: Annotated[
        int | None, arg(metavar="PIXELS", help_behavior_hint="(default: the network's own)")
    ] = None
    aspect: Literal["crop", "pad", "stretch"] = "crop"
    invert: bool = False
    skip_unreadable: bool = False
    cache: Annotated[
        str | None, arg(metavar="FOLDER", help_behavior_hint="(default: your own cache)")
    ] = None


def run(args: Fit, out: Output) -> int:
    """Fits the classifier and writes it."""
    # These load scikit-learn, which takes longer than to tell how the verb is used.
    from metajax.pictures import FewShotClassifier
    from metajax.pictures.mjx_files import require_safetensors
    from metajax.pictures.reading import labelled_pictures

    started = time.perf_counter()
    path = args.output
    if path is None:
        path = f"{os.path.basename(os.path.abspath(args.folder))}.mjx"
    check_new_file(path, (".mjx",), "--output", ())
    require_safetensors()  # Before minutes of work that could not be kept.
    _check(args)
    pictures, unread = _readable(args, labelled_pictures(args.folder), out)
    classifier = FewShotClassifier(
        args.network,
        head=args.head,
        side=args.side,
        aspect=args.aspect,
        invert=args.invert,
        kept=None if args.answer_all else args.kept,
        cache=args.cache,
    )
    classifier.fit(pictures.paths, pictures.labels)
    classifier.save(path)
    network, head = network_and_head(classifier)
    held_out, calibration = classifier.held_out_, classifier.calibration_
    record = {
        "classifier": path,
        "bytes": os.path.getsize(path),
        "network": network,
        "head": head,
        "classes": dict(Counter(pictures.labels)),
        "unreadable": unread,
        "held_out": None if held_out is None else held_out._asdict(),
        "kept": calibration.kept,
        "threshold": calibration.threshold,
        "temperature": calibration.temperature,
        "seconds": round(time.perf_counter() - started, 2),
    }
    _tell(record, args, out)
    out.result(record)
    return exit_codes.SOME_UNREAD if unread else exit_codes.WELL


def _check(args: Fit) -> None:
    """Raises for what somebody who types a command may take for another thing."""
    from metajax.pictures.encoders import REGISTERED

    if os.path.isdir(args.network) and not os.path.isdir(args.folder):
        swapped = shlex.join(["metajax", "fit", args.folder, args.network])
        raise ValueError(
            f"{args.folder!r} is no folder of pictures; expected the network first, and then the "
            f"pictures: {swapped}"
        )
    if args.network not in REGISTERED and not os.path.exists(args.network):
        raise ValueError(
            f"there is no network {args.network!r}; expected {' or '.join(REGISTERED)}, or the "
            "folder of a run of `metajax train`"
        )
    if args.network not in REGISTERED and args.head != "ridge":
        raise ValueError(
            f"--head is {args.head!r}, and {args.network!r} is a run, which tells classes apart in "
            "its own way; leave --head out"
        )
    if not 0 < args.kept < 1:
        raise ValueError(
            f"--kept is {args.kept:g}; expected a share between 0 and 1, such as 0.95, or "
            "--answer-all to answer every picture"
        )
    if args.answer_all and args.kept != _KEPT:
        raise ValueError(
            f"--kept is {args.kept:g}, and --answer-all answers every picture; leave one out"
        )
    check_optional_integers(1, side=args.side)


def _readable(
    args: Fit, pictures: "LabelledPictures", out: Output
) -> tuple["LabelledPictures", dict[str, str]]:
    """The pictures that can be read, and why the others cannot.

    Raises:
      ValueError: there are others, and they are not to be skipped; or a class has none left.
    """
    from metajax.pictures import LabelledPictures
    from metajax.pictures.encoders import encoder_of
    from metajax.pictures.reading import read_pictures

    encoder = encoder_of(args.network, args.side, args.aspect, False)
    assert encoder is not None
    # What is decoded here is kept, and not decoded again by the classifier.
    read = read_pictures(pictures.paths, encoder.look, cache=args.cache, corrupt="skip")
    unread = {pictures.paths[row]: why for row, why in read.bad.items()}
    if not unread:
        return pictures, unread
    if not args.skip_unreadable:
        raise ValueError(
            f"{len(unread)} of {len(pictures.paths)} pictures cannot be read: {in_short(unread)}; "
            "replace or remove them, or go on without them by --skip-unreadable"
        )
    kept = LabelledPictures(
        [pictures.paths[row] for row in read.kept], [pictures.labels[row] for row in read.kept]
    )
    if lost := sorted({*pictures.labels} - {*kept.labels}):
        raise ValueError(
            f"no picture of {in_short(lost)} can be read: {in_short(unread)}; expected one or more "
            "of each class: replace them, or remove the folder"
        )
    warn_of_unread(unread, "was left out", out)
    return kept, unread


def _tell(record: Mapping[str, Any], args: Fit, out: Output) -> None:
    out.table([{"class": name, "pictures": count} for name, count in record["classes"].items()])
    out.say("")
    if (held_out := record["held_out"]) is None:
        out.say("One picture a class: how often answers are right cannot be said.")
    else:
        right = round(held_out["accuracy"] * held_out["items"])
        out.say(
            f"Set aside in turn, {right} of {held_out['items']} pictures got their class "
            f"({held_out['accuracy']:.0%})."
        )
    if record["threshold"] is not None:
        out.say(
            f"{args.kept:.0%} of these pictures are answered; less sure answers are "
            f'"none of these".'
        )
    elif args.answer_all:
        out.say("Every picture is answered with a class.")
    else:
        out.say(
            "Every picture is answered with a class: there are too few to say which are none of "
            "them."
        )
    path = record["classifier"]
    out.say(f"Wrote {path}, {_size(record['bytes'])}, in {record['seconds']:.1f} s.")
    out.say(f"Next: metajax predict {shlex.quote(path)} PICTURES --html report.html")


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"
