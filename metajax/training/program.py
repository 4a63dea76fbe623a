"""The compiled part of training: sampling, inner loops and outer updates of many meta-steps."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metajax.iterable_episodes import IterableEpisodes
from metajax.keys import episode_keys
from metajax.parallel.placement import TASKS, state_shardings
from metajax.parallel.steps import on_each_device
from metajax.stacked_runs import count_runs, kept_by_run, over_runs
from metajax.streaming import HostSample
from metajax.training.compiling import compiled
from metajax.training.feed import Dispatch, Sample, read_spec
from metajax.training.stopping import StopSignal
from metajax.training_step import TrainState, TrainStep
from metajax.types import Array, Episode, Key

NonFinite = Literal["stop", "skip"]


class CompiledDispatches:
    """The program of dispatches, compiled once for each length and shape of data.

    Attributes:
      seconds: spent compiling so far.
    """

    def __init__(self, program: Any) -> None:
        self._program = program
        self._compiled: dict[Any, Callable[..., Any]] = {}
        self.seconds = 0.0

    def prepare(self, state: TrainState, dispatch: Dispatch, signals: StopSignal) -> None:
        """Compiles what the dispatch needs, unless that was done before.

        Raises:
          StoppedAtOnce: a signal came before the dispatch could begin.
        """
        signals.check()
        kind = _kind(dispatch)
        if kind not in self._compiled:
            started = time.perf_counter()
            try:
                self._compiled[kind] = compiled(
                    self._program, state, dispatch.data, dispatch.length, signals=signals
                )
            finally:
                self.seconds += time.perf_counter() - started

    def __call__(
        self, state: TrainState, dispatch: Dispatch
    ) -> tuple[TrainState, Mapping[str, Array]]:
        """Runs a dispatch that was prepared."""
        run = self._compiled[_kind(dispatch)]
        return jax.block_until_ready(run(state, dispatch.data))


def _kind(dispatch: Dispatch) -> Any:
    leaves, structure = jax.tree.flatten(dispatch.data)
    return dispatch.length, structure, *map(jnp.shape, leaves), *map(jnp.result_type, leaves)


def dispatch_program(
    step: TrainStep,
    state: TrainState,
    sample: Sample,
    *,
    tasks: int,
    non_finite: NonFinite,
    mesh: Mesh | None,
) -> Any:
    """The function `(state, data, length) -> (state, metrics)`, under `jax.jit`.

    It takes `length` (static) meta-steps; every metric comes back as `[length, ...]`, and among
    them `finite`, whether the meta-loss, `grad_norm` where there is one, and the update were. After
    a step that was not, the state stays as it is (`"stop"`), or goes on to the next step without
    the update (`"skip"`). `data` is the sampler, or what was read of one on the host, or of an
    iterator of episodes, `[length, tasks, ...]`.

    Of a stack all arrays have an axis of runs before these, state, metrics and what was fetched:
    every run goes its own way, and one that stopped, see `kept_by_run`, is not `finite` any more.

    Args:
      step: the meta-step; over devices it averages over the axis `TASKS`.
      state: of the shapes that the function will be given.
      sample: the sampler.
      tasks: tasks a meta-step and device.
      non_finite: see above.
      mesh: the devices, or None for one.
    """
    ahead = isinstance(sample, HostSample | IterableEpisodes)
    own_data = isinstance(sample, HostSample)  # Of each run; the runs share a sampler or iterator.

    def episodes_of(keys: Key, data: Any, read: Any) -> Episode:
        if isinstance(sample, IterableEpisodes):
            return read
        if isinstance(sample, HostSample):
            return jax.vmap(sample.finish)(keys, read)
        return jax.vmap(data)(keys)

    def run(state: TrainState, data: Any, length: int) -> tuple[TrainState, Mapping[str, Array]]:
        first = 0 if mesh is None else jax.lax.axis_index(TASKS) * tasks

        def iteration(
            carry: tuple[TrainState, Array], read: Any
        ) -> tuple[tuple[TrainState, Array], Mapping[str, Array]]:
            state, good = carry
            keys = episode_keys(state.key, state.step, tasks, first=first)
            stepped, metrics = step(state, episodes_of(keys, data, read))
            finite = jnp.isfinite(metrics["loss"])
            if "grad_norm" in metrics:
                finite &= jnp.isfinite(metrics["grad_norm"])
            for leaf in jax.tree.leaves(stepped.params):
                finite &= jnp.isfinite(leaf).all()
            good = finite if non_finite == "skip" else good & finite
            params, opt_state = jax.tree.map(
                lambda new, old: jnp.where(good, new, old), stepped[:2], state[:2]
            )
            count = state.step + (1 if non_finite == "skip" else good)
            state = TrainState(params, opt_state, count, state.key)
            return (state, good), {**metrics, "finite": finite}

        carry = (state, jnp.array(True))
        (state, _), metrics = jax.lax.scan(iteration, carry, data if ahead else None, length=length)
        return state, metrics

    def run_each(states: TrainState, data: Any, length: int) -> Any:
        newest = states.step.max()

        def run_one(each: tuple[TrainState, Any]) -> tuple[TrainState, Mapping[str, Array]]:
            state, own = each
            after, metrics = run(state, own if own_data else data, length)
            after, finite = kept_by_run(
                state, after, metrics["finite"], newest=newest, skip=non_finite == "skip"
            )
            return after, {**metrics, "finite": finite}

        return over_runs(run_one, (states, data if own_data else None), states.params)

    runs = count_runs(state)
    program = run if runs is None else run_each
    if mesh is None:
        return jax.jit(program, static_argnums=2)
    whole = PartitionSpec()

    def run_on_mesh(state: TrainState, data: Any, length: int) -> Any:
        def part(state: TrainState, data: Any) -> Any:
            return program(state, data, length)

        places = (whole, read_spec(runs if own_data else None) if ahead else whole)
        return on_each_device(part, mesh, places, whole)(state, data)

    places = (state_shardings(state, mesh), NamedSharding(mesh, whole))
    return jax.jit(run_on_mesh, static_argnums=2, out_shardings=places)
