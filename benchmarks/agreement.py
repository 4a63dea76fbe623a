"""One training run on one device, in chunks, on four devices and in two processes: the same result.

For every learner and every way to run it, in float64: the largest difference from one device of the
first meta-loss, the first meta-gradient and the parameters after all steps, each relative to the
largest entry. The devices are four forced CPU devices; the two processes have two each and talk
through gloo.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from records import plain_table, wide_console, write
from two_processes import add_worker_arguments, run_two

import metajax as mj
from metajax.keys import episode_keys

TASKS, WAYS, SIDE, RATE = 8, 3, 8, 0.05
OPTIMIZER = optax.sgd(RATE, momentum=0.9)
APART = ("2 processes of 2 devices", "2 processes, steps by hand")


class Trace(NamedTuple):
    """What a way of running a learner is compared by.

    Attributes:
      loss: the first meta-loss.
      gradient: the first meta-gradient.
      params: the parameters after all steps.
    """

    loss: np.ndarray
    gradient: Any
    params: Any


def _perceptron(outputs: int) -> mj.Model:
    return mj.models.mlp((128, outputs), stddev=0.1)


def _relation() -> mj.Learner:
    maps = mj.models.from_linen(mj.models.ConvNet(None, 4, blocks=1, features="map"))
    return mj.relation_network(maps, mj.models.relation_module(filters=4, hidden=4), ways=WAYS)


LEARNERS: Mapping[str, Callable[[], mj.Learner]] = {
    "maml": lambda: mj.maml(_perceptron(WAYS), inner=optax.sgd(0.1), num_steps=3),
    "maml, convolutions": lambda: mj.maml(
        mj.models.from_linen(mj.models.ConvNet(WAYS, 4, blocks=2)),
        inner=optax.sgd(0.1),
        num_steps=2,
    ),
    "fomaml": lambda: mj.fomaml(_perceptron(WAYS), inner=optax.sgd(0.1), num_steps=3),
    "anil": lambda: mj.anil(_perceptron(16), _perceptron(WAYS), inner=optax.sgd(0.1), num_steps=3),
    "boil": lambda: mj.boil(_perceptron(16), _perceptron(WAYS), inner=optax.sgd(0.1), num_steps=3),
    "meta_sgd": lambda: mj.meta_sgd(_perceptron(WAYS), num_steps=3, per_step=True),
    "reptile": lambda: mj.reptile(
        _perceptron(WAYS), inner=optax.sgd(0.1), num_steps=3, batch_size=3
    ),
    "prototypical": lambda: mj.prototypical_network(_perceptron(8)),
    "matching, FCE": lambda: mj.matching_network(
        _perceptron(8), full_context=mj.models.full_context(8, read_steps=2), ways=WAYS
    ),
    "linear_probe": lambda: mj.linear_probe(_perceptron(8), learn_strength=True),
    "ridge_head": lambda: mj.ridge_head(_perceptron(8)),
    "mahalanobis_head": lambda: mj.mahalanobis_head(_perceptron(8), ways=WAYS),
    "nearest_class_mean": lambda: mj.nearest_class_mean(_perceptron(8), mean=jnp.ones(8)),
    "relation": _relation,
    "proto_maml": lambda: mj.proto_maml(_perceptron(8), inner=optax.sgd(0.1), num_steps=2),
}


def start(learner: mj.Learner) -> tuple[mj.TrainState, Callable[[jax.Array], mj.Episode]]:
    """A state in float64, and a sampler of noisy patterns, one a class."""
    generator = np.random.default_rng(0)
    patterns = generator.normal(size=(12, 1, SIDE, SIDE, 1))
    images = patterns + 0.5 * generator.normal(size=(12, 8, SIDE, SIDE, 1))
    params = learner.init(jax.random.key(0), jnp.asarray(images[0]))
    params = jax.tree.map(lambda x: x.astype(jnp.float64), params)
    state = mj.init_state(params, OPTIMIZER, jax.random.key(1))
    return state, mj.data.image_episodes(images, ways=WAYS, shots=2, queries=4)


def by_train(learner: mj.Learner, steps: int, **options: Any) -> Trace:
    """The library's own loop."""
    state, sample = start(learner)
    states = [state]
    result = mj.train(
        learner,
        OPTIMIZER,
        state,
        sample,
        iterations=steps,
        meta_batch=TASKS,
        dispatch=1,
        progress=False,
        on_dispatch=lambda state, _: states.append(state),
        **options,
    )
    return _trace(result.history[0]["loss"], states)


def by_steps(
    learner: mj.Learner,
    steps: int,
    step: Callable[[mj.TrainState, mj.Episode], Any],
    mesh: Mesh | None = None,
) -> Trace:
    """A loop by hand over a step, on a mesh each process with its own tasks."""
    state, sample = start(learner)
    draw = jax.jit(lambda number: jax.vmap(sample)(episode_keys(state.key, number, TASKS)))
    states, losses = [state if mesh is None else mj.parallel.place_state(state, mesh)], []
    for number in range(steps):
        episodes = draw(number)
        if mesh is not None:
            mine = mj.parallel.process_tasks(TASKS, mesh)
            own = jax.tree.map(lambda x, mine=mine: x[mine.start : mine.stop], episodes)
            episodes = mj.parallel.place_episodes(own, mesh)
        after, metrics = step(states[-1], episodes)
        states.append(after)
        losses.append(float(metrics["loss"]))
    return _trace(losses[0], states)


def _trace(loss: float, states: list[mj.TrainState]) -> Trace:
    first, second, last = (mj.parallel.to_host(state.params) for state in (*states[:2], states[-1]))
    gradient = jax.tree.map(lambda before, after: (before - after) / RATE, first, second)
    return Trace(np.array(loss), gradient, last)


def ways_to_run(learner: mj.Learner, steps: int) -> dict[str, Callable[[], Trace]]:
    """What one process with four devices can do."""
    four = jax.devices()[:4]
    mesh, cut = mj.parallel.task_mesh(four), mj.parallel.task_mesh(four, model=2)
    alone = jax.jit(mj.train_step(learner, OPTIMIZER))
    shared = mj.train_step(learner, OPTIMIZER, axis_name="tasks")
    return {
        "one device": lambda: by_train(learner, steps),
        "chunks of 2": lambda: by_train(learner, steps, chunk_size=2),
        "pmap, 4 devices": lambda: by_steps(
            learner, steps, mj.parallel.pmap_step(shared, devices=four)
        ),
        "mesh of 4": lambda: by_train(learner, steps, mesh=mesh),
        "mesh of 4, steps by hand": lambda: by_steps(
            learner, steps, mj.parallel.mesh_step(shared, mesh), mesh
        ),
        "mesh of 2 x 2, parameters cut": lambda: by_train(learner, steps, mesh=cut),
        "jit, episodes on 4 devices": lambda: by_steps(learner, steps, alone, mesh),
    }


def difference(one: Any, other: Any) -> float:
    """The largest difference, relative to the largest entry of `other`."""
    leaves = [jax.tree.leaves(tree) for tree in (one, other)]
    apart = max(float(np.max(np.abs(a - b))) for a, b in zip(*leaves, strict=True))
    return apart / max(float(np.max(np.abs(b))) for b in leaves[1])


def in_two_processes(names: list[str], steps: int) -> dict[tuple[str, str], list[np.ndarray]]:
    """The leaves of the trace of every learner and way, by two processes of two devices each."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "traces.npz"
        run_two(__file__, ["--steps", str(steps), "--out", str(out), "--learners", *names])
        with np.load(out) as saved:
            return {
                (name, way): [saved[f"{name}/{way}/{i}"] for i in range(saved[f"{name}/{way}"])]
                for name in names
                for way in APART
            }


def work(args: argparse.Namespace) -> None:
    """What each of the two processes does."""
    mj.parallel.start_processes(args.coordinator, 2, args.process)
    arrays: dict[str, Any] = {}
    mesh = mj.parallel.task_mesh()
    for name in args.learners:
        learner = LEARNERS[name]()
        step = mj.parallel.mesh_step(mj.train_step(learner, OPTIMIZER, axis_name="tasks"), mesh)
        traces = (
            by_train(learner, args.steps, mesh=mesh),
            by_steps(learner, args.steps, step, mesh),
        )
        for way, trace in zip(APART, traces, strict=True):
            leaves = jax.tree.leaves(trace)
            arrays[f"{name}/{way}"] = len(leaves)
            arrays |= {f"{name}/{way}/{i}": leaf for i, leaf in enumerate(leaves)}
    if args.process == 0:
        np.savez(args.out, **arrays)


def run(args: argparse.Namespace) -> list[dict]:
    """Runs every learner every way, prints the table; returns its rows."""
    console = wide_console()
    apart = in_two_processes(args.learners, args.steps) if args.processes else {}
    rows: list[dict] = []
    for name in args.learners:
        reference, *others = ways_to_run(LEARNERS[name](), args.steps).items()
        expected = reference[1]()
        traces = {way: run() for way, run in others}
        treedef = jax.tree.structure(expected)
        for way in APART if apart else ():
            traces[way] = jax.tree.unflatten(treedef, apart[name, way])
        for way, trace in traces.items():
            parts = {
                part: difference(getattr(trace, part), getattr(expected, part))
                for part in Trace._fields
            }
            rows.append({"learner": name, "way": way, **parts})
        console.print(f"{name}: {reference[0]} against {len(traces)} others", style="dim")
    title = f"difference from one device, float64, {TASKS} tasks, {args.steps} steps"
    console.print(plain_table(title, rows, ["learner", "way", *Trace._fields]))
    worst = max(row[part] for row in rows for part in Trace._fields)
    console.print(f"largest difference: {worst:.1e}")
    write(rows, args.out)
    return rows


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    out.add_argument("--learners", nargs="+", choices=list(LEARNERS), default=list(LEARNERS))
    out.add_argument("--steps", type=int, default=20, help="meta-steps of the run")
    out.add_argument(
        "--processes",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run in two processes too",
    )
    out.add_argument("--out", type=Path, default=Path("runs/agreement.json"))
    add_worker_arguments(out)
    return out


def main() -> None:
    args = parser().parse_args()
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_num_cpu_devices", 4 if args.process is None else 2)
    jax.config.update("jax_platforms", "cpu")
    if args.process is None:
        run(args)
    else:
        work(args)


if __name__ == "__main__":
    main()
