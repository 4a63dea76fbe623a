"""A vision transformer's settings, and its preprocessing's, from the files beside its weights.

What a file leaves out has the default of its family in the library that wrote it, Transformers
(`configuration_*.py` and `image_processing_*.py` of each family there).
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metajax.models.pretrained.backbones import Preprocessing, Resizing
from metajax.models.pretrained.vision_network import ACTIVATIONS, VisionSettings
from metajax.regular_files import read_regular

_MOST_BYTES = 10_000_000
_RESAMPLE: dict[int, Resizing] = {2: "bilinear", 3: "bicubic"}  # As Pillow numbers them.
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_HALVES = ((0.5,) * 3, (0.5,) * 3)


class _Family(NamedTuple):
    """The defaults of a family: of the network, and of what its images are normalised by."""

    patch: int
    activation: str
    epsilon: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: int


_FAMILIES = {
    "vit": _Family(16, "gelu", 1e-12, *_HALVES, 2),
    "dinov2": _Family(14, "gelu", 1e-6, *_IMAGENET, 3),
    "clip": _Family(32, "quick_gelu", 1e-5, *_CLIP, 3),
    "siglip": _Family(16, "gelu_pytorch_tanh", 1e-6, *_HALVES, 3),
}


def read_json(path: Path) -> dict[str, Any]:
    """A file that is an object in JSON.

    Raises:
      OSError: it is not there, or may not be read.
      ValueError: it is none.
    """
    try:
        found = json.loads(read_regular(path, _MOST_BYTES))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is no JSON: {error}; copy it anew") from error
    if not isinstance(found, dict):
        raise ValueError(f"{str(path)!r} is a {type(found).__name__} in JSON; expected an object")
    return found


class Config:
    """An object in JSON, and what its values have to be."""

    def __init__(self, values: dict[str, Any], path: Path) -> None:
        self.values, self._path = values, path

    def integer(self, name: str, default: int) -> int:
        """A positive integer."""
        value = self.values.get(name, default)
        good = type(value) is int and value > 0
        return value if good else self.refuse(name, value, "a positive integer")

    def number(self, name: str, default: float) -> float:
        """A positive number."""
        value = self.values.get(name, default)
        good = type(value) in (int, float) and 0 < value < np.inf
        return value if good else self.refuse(name, value, "a positive number")

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self.values.get(name, default)
        return value if isinstance(value, bool) else self.refuse(name, value, "true or false")

    def word(self, name: str, default: str, words: list[str]) -> str:
        """One of some words."""
        value = self.values.get(name, default)
        known = isinstance(value, str) and value in words
        return value if known else self.refuse(name, value, f"one of {', '.join(words)}")

    def expect(self, name: str, default: Any, only: Any) -> None:
        """Raises unless it is the one value that the networks here have."""
        value = self.values.get(name, default)
        if value != only:
            self.refuse(name, value, f"{json.dumps(only)}, since no other is supported")

    def three(self, name: str, default: tuple[float, ...], positive: bool) -> tuple[float, ...]:
        """A number a channel."""
        value = self.values.get(name)
        value = list(default) if value is None else value
        good = isinstance(value, list) and len(value) == 3
        if not good or not all(type(x) in (int, float) and np.isfinite(x) for x in value):
            self.refuse(name, value, "three numbers")
        if positive and min(value) <= 0:
            self.refuse(name, value, "three numbers above 0")
        return tuple(map(float, value))

    def refuse(self, name: str, value: Any, expected: str) -> Any:
        """Raises a ValueError that names the file."""
        shown = str(value)[:80]
        raise ValueError(f"{str(self._path)!r} has {name} {shown}; expected {expected}")


def read_settings(path: Path) -> VisionSettings:
    """The network of `config.json`, but for the projection, which its weights tell.

    Raises:
      OSError: the file is not there, or may not be read.
      ValueError: it is of another network, or damaged.
    """
    whole = Config(read_json(path), path)
    kinds = [*_FAMILIES, "clip_vision_model", "siglip_vision_model"]
    family = whole.word("model_type", "", kinds).removesuffix("_vision_model")
    nested = whole.values.get("vision_config", whole.values)
    if not isinstance(nested, dict):
        raise ValueError(f"{str(path)!r} has a vision_config that is no object")
    config, defaults = Config(nested, path), _FAMILIES[family]
    config.expect("num_channels", 3, 3)
    config.expect("use_swiglu_ffn", False, False)
    config.expect("vision_use_head", True, True)
    width = config.integer("hidden_size", 768)
    if family == "dinov2":
        hidden = int(width * config.number("mlp_ratio", 4))
    else:
        hidden = config.integer("intermediate_size", 3072)
    settings = VisionSettings(
        family,
        config.integer("image_size", 224),
        config.integer("patch_size", defaults.patch),
        width,
        config.integer("num_hidden_layers", 12),
        config.integer("num_attention_heads", 12),
        hidden,
        config.word("hidden_act", defaults.activation, list(ACTIVATIONS)),
        config.number("layer_norm_eps", defaults.epsilon),
        config.flag("qkv_bias", True),
        None,
    )
    if width % settings.heads or settings.image < settings.patch:
        raise ValueError(
            f"{str(path)!r} has hidden_size {width} for {settings.heads} heads and patches of "
            f"{settings.patch} of {settings.image} pixels; expected equal heads, and whole patches"
        )
    return settings


def read_preprocessing(path: Path, settings: VisionSettings) -> Preprocessing:
    """What `preprocessor_config.json` says, or the family's own constants where it is missing.

    Raises:
      OSError: the file may not be read.
      ValueError: it is damaged, or asks for what is not done here.
    """
    defaults = _FAMILIES[settings.family]
    config = Config(read_json(path) if path.exists() else {}, path)
    for name in ("do_rescale", "do_normalize", "do_resize"):
        config.expect(name, True, True)
    if abs(255 * (factor := config.number("rescale_factor", 1 / 255)) - 1) > 1e-6:
        config.refuse("rescale_factor", factor, "1 / 255, since images here are in [0, 1]")
    if (resample := config.integer("resample", defaults.resample)) not in _RESAMPLE:
        config.refuse("resample", resample, "2 (bilinear) or 3 (bicubic)")
    mean = config.three("image_mean", defaults.mean, positive=False)
    std = config.three("image_std", defaults.std, positive=True)
    return Preprocessing(settings.image, mean, std, _RESAMPLE[resample])
