"""The training loop: compiled dispatches of many meta-steps, reported and saved from the host."""

import collections
import contextlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from signal import SIGTERM
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from metajax.checkpoint import Checkpoints
from metajax.checks.numbers import check_integers, check_optional_integers
from metajax.checks.objects import check_instance
from metajax.checks.settings import check_flags, check_paths
from metajax.iterable_episodes import IterableEpisodes
from metajax.kinds import check_words
from metajax.parallel.placement import (
    TASKS,
    place_state,
    task_devices,
    tasks_per_device,
)
from metajax.parallel.processes import largest_of_processes
from metajax.parallel.watching import needing_all_processes
from metajax.sample_checks import as_sample, check_sample, check_sample_of
from metajax.stacked_runs import check_steps, count_runs, newest_step, one_run
from metajax.training.checked_steps import check_step
from metajax.training.feed import Sample, dispatches, go_on, moved
from metajax.training.hooks import Hooks
from metajax.training.program import CompiledDispatches, NonFinite, dispatch_program
from metajax.training.progress import MetricsFile, Progress, Record, mean_over_runs
from metajax.training.records import goes_on, record_of, warn_of_no_steps, warn_of_non_finite
from metajax.training.stopping import (
    CALLBACK,
    READING,
    REPORTING,
    RUNNING,
    Stopped,
    StoppedAtOnce,
    StopSignal,
    why,
)
from metajax.training_step import TrainState, TrainStep, check_state, train_step
from metajax.types import Array, Learner

# Of a run of any length.
_RECORDS = 1000


class TrainResult(NamedTuple):
    """What a run of `train` ends with.

    Attributes:
      state: the last good state.
      stopped: why the loop ended: all iterations done, an iterator of episodes at its end, Ctrl-C
        (SIGINT), SIGTERM (at the very end too), a meta-loss, gradient or update that was not finite
        (the parameters are then those before that step), or `on_dispatch`, which asked for it
        (`"callback"`).
      history: the records that were reported, one a dispatch; the last 1,000 of them. All go to
        `metrics_file`, and to `on_dispatch`.
      compile_seconds: time spent compiling.
      run_seconds: time spent training.
    """

    state: TrainState
    stopped: Stopped
    history: list[Record]
    compile_seconds: float
    run_seconds: float

    def __repr__(self) -> str:
        """Why the loop ended, and the last record; of a stack with the means over its runs."""
        last = self.history[-1] if self.history else {"step": newest_step(self.state)}
        runs = count_runs(self.state)
        if runs is not None:
            numbers = {name: value for name, value in last.items() if np.ndim(value) < 2}
            last = {name: mean_over_runs(value) for name, value in numbers.items()}
        shown = [
            f"{name} {value:.6g}" for name, value in last.items() if isinstance(value, int | float)
        ]
        means = "" if runs is None else f", means over {runs} runs"
        return f"TrainResult, {self.stopped}{means}: {', '.join(shown)}"


def train(
    learner: Learner | TrainStep,
    optimizer: optax.GradientTransformation | None,
    state: TrainState,
    sample: Sample,
    *,
    iterations: int,
    meta_batch: int,
    chunk_size: int | None = None,
    dispatch: int = 100,
    mesh: Mesh | None = None,
    non_finite: NonFinite = "stop",
    checkpoints: Checkpoints | None = None,
    validate: Callable[[TrainState], Any] | None = None,
    validate_every: int | None = None,
    metrics_file: str | Path | None = None,
    progress: bool = True,
    on_dispatch: Callable[[TrainState, Record], object] | None = None,
) -> TrainResult:
    """Meta-trains until `state.step` is `iterations`.

    Sampling, inner loops and outer updates of `dispatch` iterations are one `jax.lax.scan`. What is
    drawn depends on `state.key` and the step alone, and dispatches begin at multiples of
    `dispatch`, so a run that is cut in two and goes on from its state is the same run, bit for bit.

    Ctrl-C and SIGTERM end the loop after the dispatch in progress, a second one at once. While a
    program is traced or compiled they end it at once; the compiler itself cannot be stopped, so
    that the process ends when it is done, or by Ctrl-C. Several processes stop together, after a
    dispatch. Whatever ends the loop, the last good state is returned, and with `checkpoints` saved,
    after an exception too.

    A stack of states, all of whose arrays have a leading axis `[runs]`, is as many runs in one
    program: seeds, or the numbers of an optimiser that are in its state. Each is the run that it
    would be alone, to rounding. `jax.tree.map(lambda x: x[i], states)` is the state of one of them.
    Accelerators, several devices and small models compute all runs at once; a single CPU device
    those of 8,000 parameters and more one after another, as `meta_gradient` does their tasks.

    Args:
      learner: any learner, or a meta-step of one's own: a pure function `(state, episodes) ->
        (state, metrics)` such as `train_step` returns, whose episodes' arrays are `[tasks, ...]`.
        Its metrics hold the meta-loss as `loss`, `[]`, and may hold `grad_norm`, `[]`: these and
        the parameters are what has to be finite. The loop takes parameters and optimiser state from
        it, counts the steps itself, and keeps the key. With a mesh the step sees a device's tasks,
        and averages gradient, loss and metrics over the axis `"tasks"` itself:
        `train_step(..., axis_name="tasks")`, or `jax.lax.pmean(..., "tasks")`; not `mesh_step`,
        which is for a loop of one's own.
      optimizer: the outer optimiser; None beside a step, which has its own.
      state: from `init_state`, `Checkpoints.restore` or an earlier result's; or a stack of them,
        `jax.vmap(lambda key: init_state(learner.init(key, example), optimizer, key))(keys)`. The
        optimiser is then any one of theirs.
      sample: the pure function `key -> Episode`, or one with `place="host"`, whose images are then
        read one dispatch ahead: two dispatches of them are on the device, one more in memory. Or an
        iterator or iterable of NumPy episodes or of meta-batches of them (a generator, a data
        loader, a list), read ahead alike; see `metajax.data.from_iterable`. With several processes
        each gives an iterator of its own tasks, `metajax.parallel.process_tasks`.
      iterations: the step to train to, counted from the run's beginning.
      meta_batch: tasks a meta-step, over all devices.
      chunk_size: tasks that a device runs at once, see `meta_gradient`; None beside a step.
      dispatch: iterations a dispatch, that is between two reports. A shorter one, at the end or
        after a state in between, compiles anew.
      mesh: from `task_mesh`, to train on many devices, each of which samples its own tasks. With
        several processes all of them call `train` alike, and it needs a mesh; process 0 reports.
      non_finite: what a meta-loss, gradient or update that is not finite does: `"stop"` ends the
        loop with the state before that step, `"skip"` goes on with the next step without the
        update, and stops where a whole dispatch is so. Either gives a `RuntimeWarning` that names
        the steps. A run of a stack stops by itself: it stays where it was (under `"skip"`, where
        that dispatch began) while the others go on, and the loop ends when none is left.
      checkpoints: where the state is saved: when it is due, and at the end of the loop. A stack is
        one checkpoint, of the largest of its steps.
      validate: the score of a state, a function such as
        `lambda state: evaluate(learner, state.params, ...).mean("accuracy")`: a float, or what
        `float` takes. The record has it as `validation`. With `checkpoints` every state that was
        scored is saved, and that of the best score is kept. Of a stack it returns `[runs]` scores,
        as `evaluate(learner, states, ...).mean("accuracy")` does, or one number; the checkpoint's
        score is their mean.
      validate_every: iterations between two validations: each is at the first dispatch that ends
        at a multiple of it or after, one at the last iteration. None is whenever a checkpoint is
        due, or without `checkpoints` after every dispatch.
      metrics_file: a JSON-lines file to which every record is appended. A run that goes on from a
        checkpoint repeats the records after it. A disk that is full costs records and a
        `RuntimeWarning`.
      progress: show a progress bar on a terminal, a line every ten seconds elsewhere.
      on_dispatch: called with the state and the record after each dispatch, in every process. Where
        it returns True, a `bool` of Python or NumPy, the loop ends, in all processes; what else it
        returns means nothing.

    Returns:
      A `TrainResult`. A record holds `step`, `seconds`, `tasks_per_second`, each metric's mean over
      the dispatch, the score as `validation` where there is one and, where updates were skipped,
      how many as `skipped`: numbers of Python, or lists of them. Of a stack the metrics and
      `skipped` are lists, a run each, with None for the metrics of a run that stopped before, and
      `tasks_per_second` counts the tasks of all runs. A state that is at `iterations` already comes
      back as it is, with a `RuntimeWarning`.

    Raises:
      TypeError: an argument is of another kind: a number is no integer, say, `state` no
        `TrainState`, `checkpoints` no `Checkpoints`, `learner` is neither learner nor function,
        `optimizer` is not an optax transformation, a step does not return a `TrainState` and
        metrics, or `float` does not take what `validate` returns.
      ValueError: a number is below 1, the devices do not divide the meta-batch, there are several
        processes and no mesh, `validate_every` without `validate`, the state is another
        optimiser's (see `train_step`), a metric has a name of the record's own fields, labels do
        not fit the learner, or the model has more outputs than there are ways; with a step, there
        is an `optimizer` or a `chunk_size` beside it, its metrics lack `loss`, its state has other
        shapes or dtypes than it was given, or it does not average over the devices; an array of a
        stack has no axis of runs, or the runs are at several steps (they may be if `checkpoints`
        restored them: those behind had stopped).
      FileExistsError: the folder of `checkpoints` holds those of another run.
    """
    check_integers(1, iterations=iterations, meta_batch=meta_batch, dispatch=dispatch)
    check_optional_integers(1, chunk_size=chunk_size, validate_every=validate_every)
    # What is counted with them goes into records, which JSON has to hold.
    iterations, meta_batch, dispatch = int(iterations), int(meta_batch), int(dispatch)
    check_words(("stop", "skip"), non_finite=non_finite)
    check_flags(progress=progress)
    check_state(state)
    if checkpoints is not None:
        made = "metajax.Checkpoints(folder, options=...), or None"
        check_instance(checkpoints, Checkpoints, "checkpoints", made)
    if metrics_file is not None:
        check_paths(metrics_file=metrics_file)
    hooks = Hooks(
        validate, validate_every, on_dispatch, saves=checkpoints is not None, iterations=iterations
    )
    if mesh is None and jax.process_count() > 1:
        raise ValueError(
            f"there are {jax.process_count()} processes and no mesh, so that each would train by "
            "itself; expected mesh=metajax.parallel.task_mesh()"
        )
    step = _step_of(learner, optimizer, chunk_size, mesh)
    sample = as_sample(sample)
    runs = count_runs(state)
    if checkpoints is None or checkpoints.newest != newest_step(state):
        check_steps(state)  # What was restored may hold runs that stopped.
    state = jax.tree.map(_strong, state)
    tasks = meta_batch
    if mesh is not None:
        tasks = tasks_per_device(meta_batch, task_devices(mesh))
        state = place_state(state, mesh)
    one = one_run(state, runs)
    if isinstance(learner, Learner):
        check_sample_of(learner, one.params, sample)
    else:
        check_sample(sample, partial(check_step, step, one, tasks=meta_batch, mesh=mesh))
    if checkpoints is not None:
        checkpoints.begin(state)
    position = None
    if isinstance(sample, IterableEpisodes) and newest_step(state) < iterations:
        if checkpoints is not None and checkpoints.newest == newest_step(state):
            position = checkpoints.position
        go_on(sample, newest_step(state), position, tasks=meta_batch, mesh=mesh)
        position = sample.position()
    run = CompiledDispatches(
        dispatch_program(step, state, sample, tasks=tasks, non_finite=non_finite, mesh=mesh)
    )
    history: collections.deque[Record] = collections.deque(maxlen=_RECORDS)
    stopped: Stopped = "finished"
    run_seconds = 0.0
    done = began = newest_step(state)
    speaks = jax.process_index() == 0
    if done >= iterations:
        warn_of_no_steps(done, iterations)
    feed = dispatches(
        sample, state, iterations=iterations, dispatch=dispatch, tasks=meta_batch, mesh=mesh
    )
    tasks_a_step = meta_batch * (runs or 1)
    report = Progress(done, iterations, tasks_a_step, enabled=progress and speaks)
    with contextlib.ExitStack() as stack:
        stack.enter_context(needing_all_processes())
        stack.callback(report.close)
        stack.enter_context(contextlib.closing(feed))
        metrics_lines = stack.enter_context(MetricsFile(metrics_file if speaks else None))
        signals = stack.enter_context(StopSignal())
        if checkpoints is not None:
            stack.push(
                lambda error, *_: _save_last(
                    checkpoints, state, position, began, failed=error is not None
                )
            )
        while done < iterations:
            signals.begin(READING)
            started = time.perf_counter()
            each = next(feed, None)
            if each is None:
                stopped = "exhausted"
                break
            waited = time.perf_counter() - started
            try:
                run.prepare(state, each, signals)
            except StoppedAtOnce:
                stopped = "interrupted"
                break
            signals.begin(RUNNING)
            started = time.perf_counter() - waited
            state, metrics = run(state, each)
            steps = newest_step(state) - done  # Fewer where one was not finite.
            if steps == each.length:
                position = each.position
            else:
                position = moved(position, steps, tasks=meta_batch, mesh=mesh)
            signals.begin(REPORTING)
            seconds = time.perf_counter() - started
            run_seconds += seconds
            finite = np.asarray(metrics["finite"])
            if not finite.all():
                warn_of_non_finite(done, finite, state, non_finite)
                if not goes_on(finite, non_finite):
                    stopped = "non-finite"
                    break
            done += each.length
            record = record_of(done, run_seconds, each.length * tasks_a_step / seconds, metrics)
            due = checkpoints is not None and checkpoints.due(done)
            record |= hooks.validation(state, done, each.length, due=due)
            if checkpoints is not None and (due or "validation" in record):
                score = record.get("validation")
                score = None if score is None else float(np.mean(score))
                checkpoints.save(state, score=score, position=position)
            history.append(record)
            metrics_lines.append(record)
            report.update(record, each.length)
            asked = CALLBACK if hooks.asks_to_stop(state, record) else 0
            reason = largest_of_processes(max(signals.received, asked))
            if reason and done < iterations:
                stopped = why(reason)
                break
    if isinstance(sample, IterableEpisodes) and stopped != "finished":
        sample.go_back(position)  # What was read ahead is not lost to a source that can be set.
    if largest_of_processes(signals.received) == SIGTERM:
        stopped = "terminated"
    return TrainResult(state, stopped, list(history), run.seconds, run_seconds)


def _step_of(
    learner: Learner | TrainStep,
    optimizer: optax.GradientTransformation | None,
    chunk_size: int | None,
    mesh: Mesh | None,
) -> TrainStep:
    if isinstance(learner, Learner):
        if optimizer is None:
            raise TypeError(
                "optimizer is None beside a learner; expected an optax.GradientTransformation, "
                "such as optax.adam(1e-3): only a step has its own"
            )
        axis_name = None if mesh is None else TASKS
        return train_step(learner, optimizer, chunk_size=chunk_size, axis_name=axis_name)
    if not callable(learner):
        raise TypeError(
            f"learner is {learner!r}; expected a metajax.Learner, or a step "
            "(state, episodes) -> (state, metrics)"
        )
    if optimizer is not None:
        raise ValueError(
            "there is an optimizer beside a step, which has its own; expected None: "
            "train(train_step(learner, optimizer), None, ...)"
        )
    if chunk_size is not None:
        raise ValueError(
            f"chunk_size={chunk_size} beside a step, which cuts its tasks itself; expected None: "
            f"train_step(..., chunk_size={chunk_size})"
        )
    return learner


def _strong(x: Array) -> Array:
    """Without the weak type of a Python number: the program's results have none, either."""
    if isinstance(x, jax.Array) and not getattr(x, "weak_type", False):
        return x
    return jax.lax.convert_element_type(x, jnp.result_type(x))


def _save_last(
    checkpoints: Checkpoints, state: TrainState, position: Any, began: int, *, failed: bool
) -> None:
    """Saves the state of the last whole dispatch, after an exception too."""
    if newest_step(state) == began:
        return
    if failed and jax.process_count() > 1:
        return  # The processes save together, and the others may know of no exception.
    checkpoints.save(state, position=position)
    checkpoints.wait()
