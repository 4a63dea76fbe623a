"""Features and pictures of three classes, and a network that counts what it looks at."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import metajax as mj
from metajax.models.pretrained import Backbone, Part, Preprocessing

SIDE, WIDTH = 4, 6


@functools.cache
def features(shots: int = 10, apart: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Three classes, some of whose items are told apart wrongly."""
    draw = np.random.default_rng(0)
    centres = apart * np.eye(3, WIDTH)
    items = draw.normal(size=(3 * shots, WIDTH)) + np.repeat(centres, shots, axis=0)
    return items.astype(np.float32), np.repeat(["ant", "bee", "cat"], shots)


@functools.cache
def pictures(shots: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Noisy copies of three pictures."""
    draw = np.random.default_rng(1)
    whole = draw.integers(60, 196, (3, SIDE, SIDE, 3)).repeat(shots, axis=0)
    noisy = whole + draw.integers(-50, 50, whole.shape)
    return noisy.astype(np.uint8), np.repeat([3, 5, 8], shots)


def backbone(seen: list[int] | None = None, scale: float = 1.0) -> Backbone:
    """A tanh of a linear map of pixels; `seen` has the pictures of every batch it was given."""

    def init(key: jax.Array, inputs: jax.Array) -> Any:
        width = inputs[0].size
        return {"w": scale * jax.random.normal(key, (width, WIDTH)) / width**0.5}

    def apply(params: Any, inputs: jax.Array) -> jax.Array:
        if seen is not None:
            jax.debug.callback(lambda batch: seen.append(len(batch)), inputs)
        flat = inputs.reshape(inputs.shape[0], -1)
        return jnp.tanh(jnp.matmul(flat, params["w"], precision="highest"))

    model = mj.Model(init, apply)
    params = model.init(jax.random.key(3), jnp.zeros((1, SIDE, SIDE, 3)))
    look = Preprocessing(SIDE, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    return Backbone("tiny", {"net": Part(model, params)}, look)
