"""Compiled meta-gradients of the workloads, and the medians of interleaved runs of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from operations import count_operations
from peers.jax_names import to_tree
from workloads import Workload, arrays

import metajax as mj

Name = TypeVar("Name")


class Program(NamedTuple):
    """A compiled meta-gradient of a workload's tasks.

    Attributes:
      run: runs it to its end; returns the mean gradient, and the pair of loss and metrics.
      compile_seconds: tracing and compiling.
      temporary_bytes: what the program asks for beside its arguments and results.
      operations: of its matrix products and convolutions, see `count_operations`.
    """

    run: Callable[[], tuple]
    compile_seconds: float
    temporary_bytes: int
    operations: float


def network(workload: Workload) -> mj.Model:
    """The workload's network."""
    if workload.network == "perceptron":
        return mj.models.mlp(workload.widths)
    nets = {"stride": mj.models.strided_conv_net, "max": mj.models.max_pool_conv_net}
    return nets[workload.network](workload.widths[-1], filters=workload.filters)


def make_learner(
    workload: Workload,
    num_steps: int,
    *,
    first_order: bool = False,
    backward: mj.Backward = mj.Backward(),
    computing: Any = None,
) -> mj.Learner:
    """MAML of the workload's network, loss and inner rate; see `compile_meta_gradient`."""
    model = network(workload)
    return mj.maml(
        model if computing is None else mj.models.computing_in(model, computing),
        inner=optax.sgd(workload.inner_rate),
        num_steps=num_steps,
        first_order=first_order,
        loss_fn=mj.squared_error if workload.regression else mj.cross_entropy,
        backward=backward,
    )


def compile_meta_gradient(
    workload: Workload,
    num_steps: int,
    *,
    first_order: bool = False,
    backward: mj.Backward = mj.Backward(),
    dtype: Any = jnp.float32,
    computing: Any = None,
) -> Program:
    """Compiles the mean meta-gradient over the workload's tasks, in its chunks.

    Args:
      workload: what to compute on.
      num_steps: inner steps.
      first_order: see `metajax.maml`.
      backward: see `metajax.maml`.
      dtype: of weights and episodes.
      computing: where the network computes in another type, see `metajax.models.computing_in`.
    """
    learner = make_learner(
        *(workload, num_steps),
        first_order=first_order,
        backward=backward,
        computing=computing,
    )
    data = {
        name: jnp.asarray(array, dtype if array.dtype.kind == "f" else None)
        for name, array in arrays(workload).items()
    }
    support, query = (mj.Examples(data[f"x{name}"], data[f"y{name}"]) for name in "sq")
    params = to_tree(data, jax.eval_shape(learner.init, jax.random.key(0), support.inputs[0]))
    keys = mj.task_keys(jax.random.key(1), workload.tasks)
    arguments = jax.device_put((params, mj.Episode(support, query), keys))

    return program_of(learner, *arguments, chunk_size=workload.chunk_size)


def program_of(
    learner: mj.Learner,
    params: Any,
    episodes: mj.Episode,
    keys: jax.Array,
    *,
    chunk_size: int | None = None,
) -> Program:
    """Compiles the mean meta-gradient of a learner over tasks `[tasks, ...]`."""
    arguments = params, episodes, keys

    def meta_gradient(params: Any, episodes: mj.Episode, keys: jax.Array) -> tuple:
        return mj.meta_gradient(learner.loss, params, episodes, keys, chunk_size=chunk_size)

    started = time.perf_counter()
    compiled = jax.jit(meta_gradient).lower(*arguments).compile()
    seconds = time.perf_counter() - started
    memory = compiled.memory_analysis()
    if memory is None:
        raise RuntimeError(f"the {jax.default_backend()} backend does not report memory")
    return Program(
        lambda: jax.block_until_ready(compiled(*arguments)),
        seconds,
        memory.temp_size_in_bytes,
        count_operations(meta_gradient, *arguments),
    )


def interleaved_medians(programs: Mapping[Name, Program], seconds: float) -> dict[Name, float]:
    """Median seconds of each program, run in turns for about `seconds` (at least five turns)."""
    for program in programs.values():
        program.run()
    times: dict[Name, list[float]] = {name: [] for name in programs}
    ends = time.perf_counter() + seconds
    turns = 0
    while turns < 5 or time.perf_counter() < ends:
        turns += 1
        for name, program in programs.items():
            started = time.perf_counter()
            program.run()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(spent) for name, spent in times.items()}
