"""The contenders in PyTorch, one a process: `python torch_worker.py NAME BYTES`.

Each function below writes the meta-gradient as the users of that library do: a Python loop over the
tasks, or `vmap`. A step's result is the mean gradient, in the order of the network's parameters.
"""
# pyright: reportMissingImports=false

import os
import sys
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from protocol import Arrays, Case, Program, serve
from torch import Tensor, nn
from torch_nets import export, loss_function, network, tensors

Gradient = list[Tensor]
Step = Callable[[], Gradient]
Tasks = list[tuple[Tensor, ...]]  # Tuples `xs, ys, xq, yq`.
Params = dict[str, Tensor]


class Setting(NamedTuple):
    """A case in PyTorch's terms."""

    net: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    rate: float
    steps: int
    first_order: bool


def _accumulated(setting: Setting, tasks: Tasks, backward: Callable[..., None]) -> Step:
    """The mean of what `backward(xs, ys, xq, yq)` leaves in the `grad` of the parameters."""
    params = list(setting.net.parameters())

    def step() -> Gradient:
        for param in params:
            param.grad = None
        for task in tasks:
            backward(*task)
        return [param.grad for param in params]

    return step


def learn2learn_loss(setting: Setting) -> Callable[..., Tensor]:
    """`(xs, ys, xq, yq) -> []`, the query loss after `MAML.clone` and `adapt`."""
    from learn2learn.algorithms.maml import MAML

    maml = MAML(setting.net, lr=setting.rate, first_order=setting.first_order)

    def task_loss(xs: Tensor, ys: Tensor, xq: Tensor, yq: Tensor) -> Tensor:
        learner = maml.clone()
        for _ in range(setting.steps):
            learner.adapt(setting.loss(learner(xs), ys))
        return setting.loss(learner(xq), yq)

    return task_loss


def learn2learn(setting: Setting, tasks: Tasks) -> Step:
    """`MAML.clone` and `adapt`, a task after another."""
    task_loss = learn2learn_loss(setting)

    def backward(*task: Tensor) -> None:
        (task_loss(*task) / len(tasks)).backward()

    return _accumulated(setting, tasks, backward)


def higher(setting: Setting, tasks: Tasks) -> Step:
    """`innerloop_ctx`; first order is the gradient at the adapted parameters, which it detaches."""
    import higher

    optimizer = torch.optim.SGD(setting.net.parameters(), lr=setting.rate)

    def backward(xs: Tensor, ys: Tensor, xq: Tensor, yq: Tensor) -> None:
        with higher.innerloop_ctx(
            setting.net,
            optimizer,
            copy_initial_weights=False,
            track_higher_grads=not setting.first_order,
        ) as (fast, inner):
            for _ in range(setting.steps):
                inner.step(setting.loss(fast(xs), ys))
            value = setting.loss(fast(xq), yq) / len(tasks)
            if not setting.first_order:
                value.backward()
                return
            gradient = torch.autograd.grad(value, fast.parameters())
        for param, part in zip(setting.net.parameters(), gradient, strict=True):
            param.grad = part if param.grad is None else param.grad + part

    return _accumulated(setting, tasks, backward)


def torchopt(setting: Setting, tasks: Tasks) -> Step:
    """`MetaSGD`. First order is not offered: a transformation that detaches stands in for it."""
    import torchopt
    from torchopt.base import GradientTransformation

    detach = GradientTransformation(
        lambda params: (),
        lambda updates, state, *, params=None, inplace=True: (
            tuple(update.detach() for update in updates),
            state,
        ),
    )
    if setting.first_order:
        sgd = torchopt.chain(detach, torchopt.sgd(lr=setting.rate))
        inner = torchopt.MetaOptimizer(setting.net, sgd)
    else:
        inner = torchopt.MetaSGD(setting.net, lr=setting.rate)
    start = torchopt.extract_state_dict(setting.net, by="reference")
    start_inner = torchopt.extract_state_dict(inner, by="reference")

    def backward(xs: Tensor, ys: Tensor, xq: Tensor, yq: Tensor) -> None:
        for _ in range(setting.steps):
            inner.step(setting.loss(setting.net(xs), ys))
        (setting.loss(setting.net(xq), yq) / len(tasks)).backward()
        torchopt.recover_state_dict(setting.net, start)
        torchopt.recover_state_dict(inner, start_inner)

    return _accumulated(setting, tasks, backward)


def functional_maml(
    setting: Setting,
) -> tuple[Callable[[Params, Tensor, Tensor], Tensor], Callable[[Params, Tensor, Tensor], Params]]:
    """Loss `(params, inputs, targets) -> []`, inner steps on it `(params, xs, ys) -> params`."""

    def loss(params: Params, inputs: Tensor, targets: Tensor) -> Tensor:
        outputs = torch.func.functional_call(setting.net, params, (inputs,))
        return setting.loss(outputs, targets)

    def adapt(params: Params, xs: Tensor, ys: Tensor) -> Params:
        for _ in range(setting.steps):
            gradient = torch.func.grad(loss)(params, xs, ys)
            params = {name: params[name] - setting.rate * gradient[name] for name in params}
        return params

    return loss, adapt


def functional(
    setting: Setting, tasks: Tasks, *, vmap: bool = False, compiled: bool = False
) -> Step:
    """`torch.func.grad` through functional inner steps.

    Args:
      setting: what to compute.
      tasks: on what.
      vmap: all the tasks under `torch.func.vmap`, rather than one after another.
      compiled: under `torch.compile`; without `vmap`, one task's gradient is what is compiled.
    """
    params = {name: param.detach() for name, param in setting.net.named_parameters()}
    loss, adapt = functional_maml(setting)

    def gradient(params: Params, xs: Tensor, ys: Tensor, xq: Tensor, yq: Tensor) -> list[Tensor]:
        if setting.first_order:
            found = torch.func.grad(loss)(adapt(params, xs, ys), xq, yq)
        else:
            found = torch.func.grad(lambda params: loss(adapt(params, xs, ys), xq, yq))(params)
        return list(found.values())

    if vmap:
        stacked = [torch.stack(part) for part in zip(*tasks, strict=True)]

        def mean(*episodes: Tensor) -> Gradient:
            parts = torch.func.vmap(partial(gradient, params))(*episodes)
            return [part.mean(0) for part in parts]

        run = torch.compile(mean) if compiled else mean
        return lambda: run(*stacked)

    single = torch.compile(gradient) if compiled else gradient

    def step() -> Gradient:
        total: Gradient | None = None
        for task in tasks:
            parts = single(params, *task)
            total = parts if total is None else torch._foreach_add(total, parts)
        assert total is not None
        return [part / len(tasks) for part in total]

    return step


def compiled(setting: Setting, tasks: Tasks) -> Step:
    """`torch.compile` of the form that suits: `vmap` for tiny networks, else a task at a time."""
    # It keeps at most eight versions of a function's code, then runs it uncompiled.
    torch.compiler.reset()
    weights = sum(param.numel() for param in setting.net.parameters())
    return functional(setting, tasks, vmap=weights < 10_000, compiled=True)


CONTENDERS: dict[str, Callable[[Setting, Tasks], Step]] = {
    "learn2learn": learn2learn,
    "higher": higher,
    "TorchOpt": torchopt,
    "torch.func loop": functional,
    "torch.func vmap": partial(functional, vmap=True),
    "torch.func compiled": compiled,
}
NATIVE = ("learn2learn", "higher", "TorchOpt", "torch.func loop")


def build(case: Case, params: Arrays, episodes: Arrays, contender: str) -> Program:
    """See `protocol.serve`."""
    native = contender in NATIVE
    net = network(case, params, episodes["xs"].shape[-2], native=native)
    setting = Setting(net, loss_function(case), case.rate, case.steps, case.first_order)
    tasks = tensors(case, episodes)
    return Program(CONTENDERS[contender](setting, tasks), partial(export, case, params))


if __name__ == "__main__":
    name, memory = sys.argv[1:]
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    serve(partial(build, contender=name), int(memory))
