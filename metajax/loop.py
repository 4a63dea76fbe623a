"""The compiled training loop: many meta-steps a dispatch, on the device, reported from the host."""

import contextlib
import json
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax.progress import Progress, Record, stop_signal
from metajax.tasks import task_keys
from metajax.training import TrainState, train_step
from metajax.types import Array, Episode, Key, Learner

Sample = Callable[[Key], Episode]


class TrainResult(NamedTuple):
    """What a run of `train` ends with.

    Attributes:
      state: the last good state.
      stopped: why the loop ended: all iterations done, Ctrl-C, or a meta-loss, gradient or update
        that was not finite (the state is then the one before that step).
      history: the records that were reported, one a dispatch.
      compile_seconds: time spent compiling.
      run_seconds: time spent training.
    """

    state: TrainState
    stopped: Literal["finished", "interrupted", "non-finite"]
    history: list[Record]
    compile_seconds: float
    run_seconds: float


def train(
    learner: Learner,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    sample: Sample,
    *,
    iterations: int,
    meta_batch: int,
    chunk_size: int | None = None,
    dispatch: int = 100,
    metrics_file: str | Path | None = None,
    progress: bool = True,
    on_dispatch: Callable[[TrainState, Record], None] | None = None,
) -> TrainResult:
    """Meta-trains until `state.step` is `iterations`.

    Sampling, inner loops and outer updates of `dispatch` iterations are one `jax.lax.scan`. What is
    drawn depends on `state.key` and the step alone, so a run that is cut in two and goes on from
    its state is the same run.

    Ctrl-C ends the loop after the dispatch in progress. A meta-loss, gradient or update that is
    not finite ends it too, with a `RuntimeWarning` that names the step. Both keep what was trained.

    Args:
      learner: any learner.
      optimizer: the outer optimiser.
      state: from `init_state`, or an earlier result's.
      sample: the pure function `key -> Episode`.
      iterations: the step to train to, counted from the run's beginning.
      meta_batch: tasks a meta-step.
      chunk_size: tasks run at once, see `meta_gradient`.
      dispatch: iterations a dispatch, that is between two reports. A last, shorter dispatch
        compiles anew.
      metrics_file: a JSON-lines file to which every record is appended.
      progress: show a progress bar on a terminal, a line every ten seconds elsewhere.
      on_dispatch: called with the state and the record after each dispatch, for checkpoints and
        validation.

    Returns:
      A `TrainResult`. A record holds `step`, `seconds`, `tasks_per_second` and each metric's mean
      over the dispatch.

    Raises:
      ValueError: a number is below 1, or the model's width is not the number of ways.
    """
    if iterations < 1 or meta_batch < 1 or dispatch < 1:
        raise ValueError(
            f"iterations={iterations}, meta_batch={meta_batch}, dispatch={dispatch}; expected 1 "
            "or more of each"
        )
    check_sample(learner, state.params, sample)
    step = train_step(learner, optimizer, chunk_size=chunk_size)

    def run(
        state: TrainState, sample: Sample, length: int
    ) -> tuple[TrainState, Mapping[str, Array]]:
        def iteration(
            carry: tuple[TrainState, Array], _: None
        ) -> tuple[tuple[TrainState, Array], Mapping[str, Array]]:
            state, good = carry
            episodes = jax.vmap(sample)(episode_keys(state, meta_batch))
            stepped, metrics = step(state, episodes)
            finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
            finite &= jnp.isfinite(optax.tree.norm(stepped.params))
            metrics = {**metrics, "finite": finite}
            good = good & finite
            params, opt_state, count = jax.tree.map(
                lambda new, old: jnp.where(good, new, old), stepped[:3], state[:3]
            )
            return (TrainState(params, opt_state, count, state.key), good), metrics

        (state, _), metrics = jax.lax.scan(iteration, (state, jnp.array(True)), length=length)
        return state, metrics

    compiled: dict[int, Callable[..., Any]] = {}
    sample = as_pytree(sample)
    jitted = jax.jit(run, static_argnums=2)
    history: list[Record] = []
    stopped: Literal["finished", "interrupted", "non-finite"] = "finished"
    compile_seconds = run_seconds = 0.0
    done = int(state.step)
    report = Progress(done, iterations, meta_batch, enabled=progress)
    with contextlib.ExitStack() as stack:
        stack.callback(report.close)
        stop = stack.enter_context(stop_signal())
        lines = None
        if metrics_file is not None:
            lines = stack.enter_context(Path(metrics_file).open("a", encoding="utf-8"))
        while done < iterations:
            length = min(dispatch, iterations - done)
            started = time.perf_counter()
            if length not in compiled:
                compiled[length] = jitted.lower(state, sample, length).compile()
                compile_seconds += time.perf_counter() - started
                started = time.perf_counter()
            state, metrics = jax.block_until_ready(compiled[length](state, sample))
            seconds = time.perf_counter() - started
            run_seconds += seconds
            bad = _first_non_finite(metrics)
            if bad is not None:
                stopped = "non-finite"
                warnings.warn(
                    "the meta-loss, its gradient or the update was not finite at step "
                    f"{done + bad}; stopped, keeping the parameters of step {int(state.step)}. A "
                    "smaller inner or outer rate, or clipping, may help",
                    RuntimeWarning,
                    stacklevel=2,
                )
                break
            done += length
            record = _record(done, run_seconds, length * meta_batch / seconds, metrics)
            history.append(record)
            if lines is not None:
                lines.write(json.dumps(record) + "\n")
                lines.flush()
            report.update(record, length)
            if on_dispatch is not None:
                on_dispatch(state, record)
            if stop.is_set() and done < iterations:
                stopped = "interrupted"
                break
    return TrainResult(state, stopped, history, compile_seconds, run_seconds)


def check_sample(learner: Learner, params: Any, sample: Sample) -> None:
    """Raises unless one drawn episode fits the learner, its number of ways included."""
    key = jax.random.key(0)
    episode = sample(key)
    # The episode is not an argument of what is traced, so that checks can read its labels.
    jax.eval_shape(lambda params: learner.loss(params, episode, key), params)


def episode_keys(state: TrainState, meta_batch: int) -> Key:
    """The `[meta_batch]` keys from which `train` draws the episodes of the state's next step."""
    # The learner's keys are those of `state.key` itself: folding in what is never a step keeps the
    # two streams apart.
    data_key = jax.random.fold_in(state.key, 2**32 - 1)
    return task_keys(jax.random.fold_in(data_key, state.step), meta_batch)


def as_pytree(sample: Sample) -> Sample:
    """A sampler that can be an argument of a compiled function."""
    return jax.tree_util.Partial(sample) if jax.tree_util.all_leaves([sample]) else sample


def _first_non_finite(metrics: Mapping[str, Array]) -> int | None:
    finite = np.asarray(metrics["finite"])
    return None if finite.all() else int(np.argmin(finite))


def _record(
    step: int, seconds: float, tasks_per_second: float, metrics: Mapping[str, Array]
) -> Record:
    means = {
        name: np.mean(values, axis=0).tolist()
        for name, values in metrics.items()
        if name != "finite"
    }
    return {"step": step, "seconds": seconds, "tasks_per_second": tasks_per_second, **means}
