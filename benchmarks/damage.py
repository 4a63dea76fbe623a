"""Damaged checkpoints: restored bit for bit all the same, passed over with a warning, or refused.

A folder holds two checkpoints, and the newer is damaged: bits and bytes that are other ones, ends
that are missing, bytes that are too many, at random places of random files; and each of its files
is removed, made huge, or replaced by what is no file. Then the state is restored, a run goes on and
saves, and that checkpoint is restored. Anything but the newer state, or the older one and a
warning, ends the benchmark.
"""

import argparse
import collections
import os
import random
import resource
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from records import plain_table, wide_console, write

import metajax as mj

Change = Callable[[bytes, random.Random], bytes]


def _bit(data: bytes, generator: random.Random) -> bytes:
    place, bit = generator.randrange(len(data)), generator.randrange(8)
    return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


def _bytes(data: bytes, generator: random.Random) -> bytes:
    place, length = generator.randrange(len(data)), generator.randrange(1, 17)
    return (data[:place] + generator.randbytes(length) + data[place + length :])[: len(data)]


def _cut(data: bytes, generator: random.Random) -> bytes:
    return data[: generator.randrange(len(data))]


def _inserted(data: bytes, generator: random.Random) -> bytes:
    place = generator.randrange(len(data) + 1)
    return data[:place] + generator.randbytes(generator.randrange(1, 17)) + data[place:]


def _digit(data: bytes, generator: random.Random) -> bytes:
    """Numbers in JSON: shapes, sizes, digests; another byte where there are none."""
    places = [place for place, byte in enumerate(data) if chr(byte).isdigit()]
    place = generator.choice(places or range(len(data)))
    many = b"9" * generator.choice((1, 5, 18, 400))
    return data[:place] + many + data[place + 1 :]


CHANGES: dict[str, Change] = {
    "a bit": _bit,
    "bytes": _bytes,
    "cut off": _cut,
    "inserted": _inserted,
    "numbers": _digit,
}


def _grow(path: Path) -> None:
    os.truncate(path, 2**40)


REPLACEMENTS: dict[str, Callable[[Path], object]] = {
    "removed": Path.unlink,
    "a TiB": _grow,
    "a FIFO": lambda path: (path.unlink(), os.mkfifo(path)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link to nowhere": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "a device": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
}


def states() -> tuple[mj.TrainState, mj.TrainState, mj.TrainState]:
    """Three states of a run; one array is long enough for a file of its own."""
    noise = np.random.default_rng(0).normal(size=512)
    params = {"w": jnp.asarray(noise), "b": jnp.ones((3, 4), jnp.bfloat16)}
    state = mj.init_state(params, optax.adam(1e-3), jax.random.key(0))
    one, two, three = (state._replace(step=jnp.asarray(np.int32(step))) for step in (1, 2, 3))
    return one, two, three


def _bits(state: mj.TrainState) -> list[tuple]:
    leaves = jax.tree.leaves((state[:3], jax.random.key_data(state.key)))
    return [(x.dtype, x.shape, x.tobytes()) for x in map(np.asarray, leaves)]


def outcome(folder: Path) -> str:
    """What happens to a run that goes on in the folder; its checkpoints are then good.

    Raises:
      RuntimeError: it is something else than what is promised.
    """
    older, newer, next_one = states()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        restored = mj.restore_state(folder, older)
        told = [str(warning.message) for warning in caught]
        alike = _bits(restored) == _bits(older if told else newer)
        if not alike or (told and "step 2 is damaged" not in told[0]):
            raise RuntimeError(f"restored step {int(restored.step)}, told {told}")
        try:
            alone = mj.restore_state(folder, older, which=2)
        except OSError:
            alone = None
        if (alone is None) != bool(told) or (alone and _bits(alone) != _bits(newer)):
            raise RuntimeError(f"step 2 alone is {alone}, told {told}")
        with mj.Checkpoints(folder, options={}, keep=2, best=0) as checkpoints:
            state = checkpoints.restore(older)
            checkpoints.begin(state)
            checkpoints.save(next_one)
        there = sorted(path.name for path in folder.iterdir())
        if there != (["1", "2.damaged", "3"] if told else ["2", "3"]):
            raise RuntimeError(f"the run left {there}, told {told}")
        if _bits(mj.restore_state(folder, older)) != _bits(next_one):
            raise RuntimeError("the run's own checkpoint is damaged")
    return "passed over" if told else "bit for bit"


def run(args: argparse.Namespace) -> list[dict]:
    """Damages, counts, prints the table; returns its rows."""
    generator = random.Random(args.seed)
    console, started = wide_console(), time.monotonic()
    counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    with tempfile.TemporaryDirectory() as name:
        whole, folder = Path(name, "whole"), Path(name, "damaged")
        with mj.Checkpoints(whole, options={}, keep=2, best=0) as checkpoints:
            for state in states()[:2]:
                checkpoints.save(state)
        files = sorted(path.relative_to(whole) for path in whole.glob("2/**/*") if path.is_file())

        def tried(kind: str, file: Path, damage: Callable[[Path], object]) -> None:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(whole, folder)
            damage(folder / file)
            try:
                counts[kind][outcome(folder)] += 1
            except Exception as error:
                raise RuntimeError(f"{kind}, {file}: it is no outcome that is promised") from error

        def change(kind: str) -> Callable[[Path], object]:
            return lambda path: path.write_bytes(CHANGES[kind](path.read_bytes(), generator))

        tried("nothing", files[0], lambda path: None)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(args.damages):
            kind = list(CHANGES)[number % len(CHANGES)]
            tried(kind, generator.choice(files), change(kind))
        for kind, damage in REPLACEMENTS.items():
            for file in files:
                tried(kind, file, damage)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    names = ["bit for bit", "passed over"]
    rows = [
        {"damage": kind, "checkpoints": each.total(), **{name: each[name] for name in names}}
        for kind, each in counts.items()
    ]
    title = f"checkpoints of {len(files)} files, one of which is damaged"
    console.print(plain_table(title, rows, ["damage", "checkpoints", *names]))
    seconds = time.monotonic() - started
    console.print(f"all as promised; {seconds:.0f} s, and {grown:.0f} MiB more at the peak")
    if args.out is not None:
        write(rows, args.out)
    return rows


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    out.add_argument("--damages", type=int, default=550, help="at random places")
    out.add_argument("--seed", type=int, default=0, help="of the places")
    out.add_argument("--out", type=Path, help="a file of JSON")
    return out


if __name__ == "__main__":
    run(parser().parse_args())
