"""Where the tensors of a vision transformer are in a file of Transformers'."""

import os
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from metajax.models.pretrained.vision_network import VisionSettings, shapes_of
from metajax.regular_files import open_regular
from metajax.types import Params

Path = tuple[str, ...]
PROJECTION = "visual_projection.weight"
# Each family's names for the layers within each part; all but the projection after a prefix that
# says of which of a model's networks they are.
_VIT = {
    "embeddings/patches": "embeddings.patch_embeddings.projection",
    "embeddings/class_token": "embeddings.cls_token",
    "embeddings/positions": "embeddings.position_embeddings",
    "block/attention/query": "attention.attention.query",
    "block/attention/key": "attention.attention.key",
    "block/attention/value": "attention.attention.value",
    "block/attention/out": "attention.output.dense",
    "block/norm1": "layernorm_before",
    "block/norm2": "layernorm_after",
    "block/mlp/up": "intermediate.dense",
    "block/mlp/down": "output.dense",
    "pooling/norm": "layernorm",
}
_DINOV2 = {
    **_VIT,
    "block/norm1": "norm1",
    "block/norm2": "norm2",
    "block/mlp/up": "mlp.fc1",
    "block/mlp/down": "mlp.fc2",
    "block/layer_scale1": "layer_scale1.lambda1",
    "block/layer_scale2": "layer_scale2.lambda1",
}
_CLIP = {
    "embeddings/patches": "embeddings.patch_embedding",
    "embeddings/class_token": "embeddings.class_embedding",
    "embeddings/positions": "embeddings.position_embedding.weight",
    "embeddings/norm": "pre_layrnorm",  # Spelt so.
    "block/attention/query": "self_attn.q_proj",
    "block/attention/key": "self_attn.k_proj",
    "block/attention/value": "self_attn.v_proj",
    "block/attention/out": "self_attn.out_proj",
    "block/norm1": "layer_norm1",
    "block/norm2": "layer_norm2",
    "block/mlp/up": "mlp.fc1",
    "block/mlp/down": "mlp.fc2",
    "pooling/norm": "post_layernorm",
}
_SIGLIP = {
    **_CLIP,
    "pooling/probe": "head.probe",
    "pooling/attention/query": "head.attention.in_proj",
    "pooling/attention/key": "head.attention.in_proj",
    "pooling/attention/value": "head.attention.in_proj",
    "pooling/attention/out": "head.attention.out_proj",
    "pooling/attention_norm": "head.layernorm",
    "pooling/mlp/up": "head.mlp.fc1",
    "pooling/mlp/down": "head.mlp.fc2",
}
_NAMES = {"vit": _VIT, "dinov2": _DINOV2, "clip": _CLIP, "siglip": _SIGLIP}
_BLOCKS = {"vit": "encoder.layer", "dinov2": "encoder.layer"}
# What such a network has beside, and features do without; the last is jax-image-models' own.
_UNUSED = (
    "embeddings.mask_token",
    "embeddings.position_ids",
    "pooler.",
    "classifier.",
    "encoder.vision_position_ids",
)
_FUSED = {"query": 0, "key": 1, "value": 2}


def read_weights(
    path: str | os.PathLike[str], settings: VisionSettings
) -> tuple[VisionSettings, dict[str, Params]]:
    """The settings with the projection, if there is one, and the parameters of each part.

    Raises:
      ImportError: safetensors is missing.
      OSError: the file is not there, may not be read, or is no regular one.
      ValueError: it is damaged, or its tensors are not those of the network.
    """
    where = os.fspath(path)
    mark = f"{_NAMES[settings.family]['embeddings/patches']}.weight"

    def own(names: list[str]) -> list[str]:
        prefix = _prefix(names, mark)
        return [name for name in names if name.startswith(prefix) or name == PROJECTION]

    tensors = _tensors(where, own)
    if settings.family == "clip" and PROJECTION in tensors:
        settings = settings._replace(projection=len(tensors[PROJECTION]))
    prefix = _prefix(list(tensors), mark)
    shapes: dict[Path, Any] = flatten_dict(shapes_of(settings))
    sources = {place: _source(place, settings, prefix) for place in shapes}
    _check_names(tensors, set(sources.values()), prefix, where)
    parameters = {}
    for place, name in sources.items():
        tensor, expected = tensors[name], shapes[place].shape
        value = _value(tensor, name, place, len(expected))
        if value.shape != expected or not jnp.issubdtype(tensor.dtype, jnp.floating):
            raise ValueError(
                f"{where!r} has {name} of shape {tensor.shape} and {tensor.dtype}, of which "
                f"{'/'.join(place)} becomes {value.shape}; expected floats of {expected}, as its "
                "config.json says"
            )
        value = value.astype(np.float32)
        if not np.isfinite(value).all():
            raise ValueError(f"{where!r} has NaN or inf in {name}; it is damaged: copy it anew")
        parameters[place] = jnp.asarray(value)
    return settings, unflatten_dict(parameters)


def _tensors(where: str, wanted: Callable[[list[str]], list[str]]) -> dict[str, np.ndarray]:
    """Tensors of a file by name, those `wanted` of all; only theirs of its bytes are read."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ImportError(
            f"vision_transformer() needs safetensors, which cannot be imported ({error}); "
            'run: pip install "metajax[pretrained]"'
        ) from error
    try:
        with open_regular(where), safe_open(where, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in wanted(list(file.keys()))}
    except SafetensorError as error:
        raise ValueError(
            f"{where!r} is damaged, or no file of safetensors: {error}; copy it anew"
        ) from error
    except AttributeError as error:  # By which it says that NumPy has no such dtype.
        raise ValueError(
            f"{where!r} has tensors that are no arrays of NumPy ({error}); expected floats of 64, "
            "32 or 16 bits, or bfloat16: save the model in one of them"
        ) from error


def _prefix(names: list[str], mark: str) -> str:
    """What stands before `mark` in the one of the names that ends with it."""
    return next((name[: -len(mark)] for name in names if name.endswith(mark)), "")


def _source(place: Path, settings: VisionSettings, prefix: str) -> str:
    """The name of the tensor of which a parameter is made."""
    part, *within, kind = place
    if kind == "kernel" and within == ["projection"]:
        return PROJECTION
    block = part.startswith("block")
    names = _NAMES[settings.family]
    folder = "block" if block else part
    if kind not in ("kernel", "bias", "scale"):
        name = names["/".join((folder, *within, kind))]
    else:
        layer = names["/".join((folder, *within))]
        ending = "bias" if kind == "bias" else "weight"
        name = f"{layer}_{ending}" if layer.endswith("in_proj") else f"{layer}.{ending}"
    if block:
        layers = _BLOCKS.get(settings.family, "encoder.layers")
        name = f"{layers}.{int(part.removeprefix('block')) - 1}.{name}"
    return prefix + name


def _value(tensor: np.ndarray, name: str, place: Path, axes: int) -> np.ndarray:
    """The parameter of so many axes that is made of a tensor, of the order that Flax has."""
    if ".in_proj_" in name and len(tensor) % 3 == 0:
        tensor = np.split(tensor, 3)[_FUSED[place[-2]]]
    if tensor.ndim == 4:
        return tensor.transpose(2, 3, 1, 0)
    if place[-1] == "kernel":
        return tensor.T
    while tensor.ndim > axes and len(tensor) == 1:
        tensor = tensor[0]
    return tensor


def _check_names(tensors: dict[str, Any], expected: set[str], prefix: str, where: str) -> None:
    """Raises unless each tensor of the network is there, and no other."""
    unused = tuple(prefix + name for name in _UNUSED)
    others = [name for name in tensors if name not in expected and not name.startswith(unused)]
    for what, names in (
        ("lacks", [name for name in sorted(expected) if name not in tensors]),
        ("holds as well", others),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ValueError(
                f"{where!r} {what} {', '.join(names[:3])}{more}; expected the {len(expected)} "
                "tensors of the network that its config.json says, and no others"
            )
