"""Episodes from a memory-mapped file that does not fit in memory: throughput and memory.

Makes a file of random 84 x 84 colour images, then works on it in a process of its own under a limit
of memory, which counts the system's page cache too: every image is read from the disk. Compared are
ways to read the same episodes, and training on them with training on images that lie on the device.
"""

import argparse
import functools
import importlib.util
import itertools
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from memory_limit import own_memory, run_limited
from records import devices, plain_table, wide_console, write

import metajax as mj

ITEMS, SHAPE = 500, (84, 84, 3)
TASKS = 4
WAYS, SHOTS, QUERIES = 5, 5, 15
EPISODES = functools.partial(mj.data.image_episodes, ways=WAYS, shots=SHOTS, queries=QUERIES)


def make_file(path: Path, gigabytes: float) -> None:
    """Writes classes of `ITEMS` random images, so many GB of them."""
    classes = max(int(gigabytes * 1e9 / (ITEMS * np.prod(SHAPE))), WAYS)
    pixels = np.random.default_rng(0).integers(0, 256, (ITEMS, *SHAPE), np.uint8)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (classes, *pixels.shape)}
        )
        for label in range(classes):
            pixels[:, 0, 0, 0] = label % 256
            file.write(pixels.data)


def forget(path: Path) -> None:
    """Takes a file out of the page cache."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def reading(path: Path, sample: Any, seconds: float) -> list[dict]:
    """Episodes a second of each way to read them, the file not in the page cache at first."""
    data = sample.data
    batches = [jax.random.split(jax.random.key(i), TASKS) for i in range(1000)]

    draw = jax.jit(jax.vmap(sample.draw))
    finish = jax.jit(jax.vmap(sample.finish))

    def by_index() -> Iterator[Any]:
        for keys in batches:
            drawn = jax.tree.map(np.asarray, draw(keys))
            yield [data.images[data.starts[p.classes] + p.items] for p in drawn]

    ways = {
        "indexing the map, unfinished": by_index,
        "fetch, unfinished": lambda: map(sample.fetch, batches),
        "fetch and finish, in turns": lambda: (finish(k, sample.fetch(k)) for k in batches),
        "stream_episodes": lambda: mj.data.stream_episodes(sample, batches),
    }
    if importlib.util.find_spec("grain") is not None:
        ways["Grain, 8 threads"] = lambda: map(finish, batches, _by_grain(sample, batches))
    records = []
    for name, way in ways.items():
        forget(path)
        episodes = iter(way())
        jax.block_until_ready(next(episodes))
        started = time.perf_counter()
        count = 0
        for batch in episodes:
            jax.block_until_ready(batch)
            count += 1
            if time.perf_counter() - started > seconds:
                break
        rate = TASKS * count / (time.perf_counter() - started)
        images = sum(x.classes.shape[-1] for x in sample.draw(jax.random.key(0)))
        records.append(
            {
                "way": name,
                "episodes a second": rate,
                "MB a second": rate * images * np.prod(SHAPE) / 1e6,
                "own memory, MB": own_memory(),
            }
        )
    return records


def _by_grain(sample: Any, batches: list[Any]) -> Iterator[Any]:
    grain: Any = importlib.import_module("grain")
    source = grain.MapDataset.range(len(batches)).map(lambda i: sample.fetch(batches[i]))
    options = grain.ReadOptions(num_threads=8, prefetch_buffer_size=8)
    return iter(source.to_iter_dataset(options))


def training(sample: Any, iterations: int) -> list[dict]:
    """Milliseconds a step of training from the file, and from images on the device."""
    learner = mj.prototypical_network(mj.models.embedding_net(filters=32))
    optimizer = optax.adam(1e-3)
    params = learner.init(jax.random.key(0), jnp.zeros((1, *SHAPE)))
    few = np.random.default_rng(1).integers(0, 256, (10, 25, *SHAPE), np.uint8)
    samplers = {"the file": sample, "the device": EPISODES(few)}
    times: dict[str, list[float]] = {name: [] for name in samplers}
    for name in (*samplers, *reversed(samplers)):
        state = mj.init_state(params, optimizer, jax.random.key(1))
        result = mj.train(
            *(learner, optimizer, state, samplers[name]),
            iterations=iterations,
            meta_batch=TASKS,
            dispatch=2,
            progress=False,
        )
        # The first dispatch waits for its images.
        times[name] += np.diff([record["seconds"] for record in result.history]).tolist()
    return [
        {"images on": name, "step, ms": 1e3 / 2 * statistics.median(spent)}
        for name, spent in times.items()
    ]


def work(args: argparse.Namespace, path: Path) -> None:
    """Measures and prints, in the limited process."""
    console = wide_console()
    images = np.load(path, mmap_mode="r")
    sample = EPISODES(images, place="host")
    most = [0.0]
    watch = threading.Thread(target=_watch, args=(most,), daemon=True)
    watch.start()
    console.print(f"{devices()}; {images.nbytes / 1e9:.2f} GB, {images.shape}")
    console.print(f"{WAYS}-way {SHOTS}-shot, {QUERIES} queries, {TASKS} tasks a batch")
    records = {"reading": reading(path, sample, args.seconds)}
    console.print(plain_table("reading", records["reading"], list(records["reading"][0])))
    records["training"] = training(sample, args.iterations)
    console.print(plain_table("training", records["training"], list(records["training"][0])))
    console.print(f"own memory at most: {most[0]:.0f} MB")
    write(records, args.out)


def _watch(most: list[float]) -> None:
    for _ in itertools.count():
        most[0] = max(most[0], own_memory())
        time.sleep(0.05)


def run(args: argparse.Namespace) -> None:
    """Makes the file and measures in a process of its own."""
    if args.file is not None:
        work(args, args.file)
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "images.npy"
        make_file(path, args.gigabytes)
        options = ("seconds", "iterations", "out")
        passed = [f"--{name}={getattr(args, name)}" for name in options]
        said = run_limited([__file__, f"--file={path}", *passed], int(args.limit_gigabytes * 1e9))
        print(said)


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    out.add_argument("--gigabytes", type=float, default=10.0, help="size of the file")
    out.add_argument("--limit-gigabytes", type=float, default=2.0)
    out.add_argument("--folder", type=Path, help="where the file is made; default: the temporary")
    out.add_argument("--seconds", type=float, default=20.0, help="of reading, each way")
    out.add_argument("--iterations", type=int, default=12, help="of training")
    out.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    out.add_argument("--out", type=Path, default=Path("runs") / "streaming.json")
    return out


if __name__ == "__main__":
    run(parser().parse_args())
