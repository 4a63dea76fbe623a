"""Training runs in PyTorch, one a process: `python torch_training.py NAME PLAN RESULT`.

PLAN is a file with a `Training` as JSON. RESULT is where the times and losses go, and beside it,
with the suffix `.npz`, the tasks if they are to be kept. Tasks are drawn as in the papers' code: on
the host, in NumPy arrays, by a Python loop over the tasks.
"""
# pyright: reportMissingImports=false

import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from protocol import Arrays, Case, Training
from torch import Tensor
from torch_nets import loss_function, network
from torch_worker import Params, Setting, functional_maml, learn2learn_loss

Batch = tuple[Tensor, ...]  # `xs, ys, xq, yq`, each with a leading axis of tasks.
Step = Callable[[Batch], float]


def sinusoids(training: Training) -> Iterator[Batch]:
    """Batches of tasks `y = amplitude sin(x - phase)`, as in the MAML authors' data generator."""
    generator = np.random.default_rng(training.seed)
    tasks, items = training.tasks, training.shots + training.queries
    while True:
        amplitudes = generator.uniform(0.1, 5.0, tasks)
        phases = generator.uniform(0.0, np.pi, tasks)
        inputs = np.zeros((tasks, items, 1), np.float32)
        outputs = np.zeros((tasks, items, 1), np.float32)
        for task in range(tasks):
            inputs[task] = generator.uniform(-5.0, 5.0, (items, 1))
            outputs[task] = amplitudes[task] * np.sin(inputs[task] - phases[task])
        x, y = torch.from_numpy(inputs), torch.from_numpy(outputs)
        support, query = slice(None, training.shots), slice(training.shots, None)
        yield x[:, support], y[:, support], x[:, query], y[:, query]


def image_tasks(training: Training, images: np.ndarray) -> Iterator[Batch]:
    """Batches of classification tasks, from floats `[classes, items, channels, height, width]`."""
    generator = random.Random(training.seed)
    classes, items = images.shape[:2]
    labels = [np.repeat(np.arange(training.ways), n) for n in (training.shots, training.queries)]
    while True:
        tasks = []
        for _ in range(training.tasks):
            support, query = [], []
            for chosen in generator.sample(range(classes), training.ways):
                picked = generator.sample(range(items), training.shots + training.queries)
                support += [images[chosen, item] for item in picked[: training.shots]]
                query += [images[chosen, item] for item in picked[training.shots :]]
            tasks.append((np.stack(support), labels[0], np.stack(query), labels[1]))
        yield tuple(torch.from_numpy(np.stack(part)) for part in zip(*tasks, strict=True))


def learn2learn(setting: Setting, training: Training) -> Step:
    """`MAML.clone` and `adapt`, a task after another; then Adam."""
    task_loss = learn2learn_loss(setting)
    optimizer = torch.optim.Adam(setting.net.parameters(), training.outer_rate, fused=True)

    def step(batch: Batch) -> float:
        optimizer.zero_grad()
        total = 0.0
        for task in zip(*batch, strict=True):
            loss = task_loss(*task) / training.tasks
            loss.backward()
            total += loss.item()
        optimizer.step()
        return total

    return step


def compiled(setting: Setting, training: Training) -> Step:
    """`torch.compile` of the tasks under `torch.func.vmap`; then Adam."""
    parameters = dict(setting.net.named_parameters())
    values = {name: parameter.detach() for name, parameter in parameters.items()}
    optimizer = torch.optim.Adam(parameters.values(), training.outer_rate, fused=True)
    loss, adapt = functional_maml(setting)

    def task_loss(params: Params, xs: Tensor, ys: Tensor, xq: Tensor, yq: Tensor) -> Tensor:
        return loss(adapt(params, xs, ys), xq, yq)

    @torch.compile
    def mean_gradient(params: Params, *batch: Tensor) -> tuple[Params, Tensor]:
        gradient = torch.func.grad_and_value(task_loss)
        gradients, losses = torch.func.vmap(partial(gradient, params))(*batch)
        return {name: part.mean(0) for name, part in gradients.items()}, losses.mean()

    def step(batch: Batch) -> float:
        gradient, value = mean_gradient(values, *batch)
        for name, parameter in parameters.items():
            parameter.grad = gradient[name]
        optimizer.step()
        return value.item()

    return step


CONTENDERS = {"learn2learn": learn2learn, "torch.func compiled": compiled}


def train(name: str, training: Training, data: Arrays) -> tuple[dict, list[Batch]]:
    """Trains.

    Returns:
      `first_s`, seconds of the first iteration, which compiles where anything is compiled,
      `sampling_s` of all sampling, and `history` with the seconds and the mean loss at the end of
      every window; then the tasks, if they are to be kept.
    """
    case = training.case
    images = data.pop("images", None)
    if images is None:
        batches, size = sinusoids(training), 0
    else:
        size = images.shape[2]
        images = np.ascontiguousarray(images.transpose(0, 1, 4, 2, 3), np.float32) / 255
        batches = image_tasks(training, images)
    net = network(case, data, size, native=name == "learn2learn")
    setting = Setting(net, loss_function(case), case.rate, case.steps, case.first_order)
    step = CONTENDERS[name](setting, training)
    floats = getattr(torch, case.precision)
    history, losses, kept = [], [], []
    sampling = first = 0.0
    started = time.perf_counter()
    for iteration in range(1, training.iterations + 1):
        before = time.perf_counter()
        batch = next(batches)
        sampling += time.perf_counter() - before
        losses.append(
            step(tuple(part.to(floats) if part.is_floating_point() else part for part in batch))
        )
        if training.keep:
            kept.append(batch)
        seconds = time.perf_counter() - started
        if iteration == 1:
            first = seconds
        if iteration % training.window == 0:
            history.append({"step": iteration, "seconds": seconds, "loss": np.mean(losses)})
            losses.clear()
    return {"first_s": first, "sampling_s": sampling, "history": history}, kept


if __name__ == "__main__":
    contender, plan, result = sys.argv[1:]
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    fields = json.loads(Path(plan).read_text())
    run = Training(**fields | {"case": Case(**fields["case"])})
    with np.load(run.case.data) as file:
        found, batches = train(contender, run, dict(file))
    Path(result).write_text(json.dumps(found))
    if batches:
        parts = dict(zip(("xs", "ys", "xq", "yq"), zip(*batches, strict=True), strict=True))
        np.savez(
            Path(result).with_suffix(".npz"),
            allow_pickle=False,
            **{name: np.stack(part) for name, part in parts.items()},
        )
