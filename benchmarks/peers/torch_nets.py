"""The workloads' networks as PyTorch has them, and the weights' way there and back."""
# pyright: reportMissingImports=false

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from protocol import Arrays, Case
from torch import Tensor, nn


class BatchStatistics(nn.Module):
    """Batch normalisation written out.

    `torch.func` transforms of the native one give wrong second derivatives without a word when
    `grad` goes around `vmap`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, images: Tensor) -> Tensor:
        """`[items, channels, height, width]` to the same."""
        centred = images - images.mean((0, 2, 3), keepdim=True)
        variance = centred.square().mean((0, 2, 3), keepdim=True)
        scale = self.weight[:, None, None] * torch.rsqrt(variance + 1e-5)
        return centred * scale + self.bias[:, None, None]


class SpaceMean(nn.Module):
    """`[items, channels, height, width] -> [items, channels]`."""

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        return images.mean((2, 3))


def network(case: Case, params: Arrays, size: int, *, native: bool) -> nn.Sequential:
    """The case's network with the weights in it.

    Args:
      case: says which network.
      params: weights in the layout of `workloads.py`.
      size: height and width of the images.
      native: PyTorch's own batch normalisation, rather than `BatchStatistics`.
    """
    layers: list[nn.Module] = []
    for name, kernel in params.items():
        layer, leaf = name.split("/")
        if leaf != "kernel":
            continue
        if layer.startswith("conv"):
            size, padding = _same_padding(size, stride=2 if case.network == "stride" else 1)
            channels, filters = kernel.shape[2:]
            low, high = padding
            if low != high:
                layers.append(nn.ZeroPad2d((low, high, low, high)))
            layers += [
                nn.Conv2d(
                    *(channels, filters, 3),
                    stride=2 if case.network == "stride" else 1,
                    padding=low if low == high else 0,
                    bias=False,
                ),
                nn.BatchNorm2d(filters, track_running_stats=False)
                if native
                else BatchStatistics(filters),
                nn.ReLU(),
            ]
            if case.network == "max":
                layers.append(nn.MaxPool2d(2))
                size //= 2
        else:
            if layer == "dense0" and case.network != "perceptron":
                layers.append(SpaceMean() if case.network == "stride" else nn.Flatten())
            elif layer != "dense0":
                layers.append(nn.ReLU())
            layers.append(nn.Linear(*kernel.shape))
    net = nn.Sequential(*layers).to(getattr(torch, case.precision))
    with torch.no_grad():
        for (name, array), parameter in zip(params.items(), net.parameters(), strict=True):
            parameter.copy_(torch.from_numpy(_to_torch(name, array, case, params)))
    return net


def loss_function(case: Case) -> Callable[[Tensor, Tensor], Tensor]:
    """`(outputs, targets) -> []`, a mean over items."""
    return F.mse_loss if case.regression else F.cross_entropy


def tensors(case: Case, episodes: Arrays) -> list[tuple[Tensor, ...]]:
    """A tuple `xs, ys, xq, yq` for every task; images have their channels first."""

    def tensor(array: np.ndarray) -> Tensor:
        if array.ndim == 5:
            array = array.transpose(0, 1, 4, 2, 3)
        made = torch.from_numpy(np.ascontiguousarray(array))
        return made if made.is_floating_point() else made.long()

    stacked = [tensor(episodes[name]) for name in ("xs", "ys", "xq", "yq")]
    return list(zip(*stacked, strict=True))


def export(case: Case, params: Arrays, gradient: list[Tensor]) -> Arrays:
    """A gradient in the order of the network's parameters, back in the layout of `workloads.py`."""
    out = {}
    for name, tensor in zip(params, gradient, strict=True):
        array = tensor.detach().numpy()
        if name.startswith("conv"):
            array = array.transpose(2, 3, 1, 0)
        elif name.endswith("kernel"):
            array = array.T
            if name == "dense0/kernel" and case.network == "max":
                space = _space(params)
                array = array.reshape(-1, *space, array.shape[-1]).transpose(1, 2, 0, 3)
                array = array.reshape(-1, array.shape[-1])
        out[name] = array
    return out


def _to_torch(name: str, array: np.ndarray, case: Case, params: Arrays) -> np.ndarray:
    if name.startswith("conv"):
        array = array.transpose(3, 2, 0, 1)
    elif name.endswith("kernel"):
        if name == "dense0/kernel" and case.network == "max":
            # Flattened maps: ours have the channels last, PyTorch's first.
            rows = array.reshape(*_space(params), -1, array.shape[-1]).transpose(2, 0, 1, 3)
            array = rows.reshape(array.shape)
        array = array.T
    return np.ascontiguousarray(array)


def _space(params: Arrays) -> tuple[int, int]:
    """Height and width of the maps that the head of the max-pooled network flattens."""
    side = round((len(params["dense0/kernel"]) / len(params["norm0/bias"])) ** 0.5)
    return side, side


def _same_padding(size: int, stride: int) -> tuple[int, tuple[int, int]]:
    """New size and (before, after) of a 3-wide window under "SAME", the odd one after."""
    new = -(-size // stride)
    total = max((new - 1) * stride + 3 - size, 0)
    return new, (total // 2, total - total // 2)
