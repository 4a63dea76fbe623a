"""Small states, and their checkpoints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metajax as mj

OPTIMIZER = optax.adam(1e-2)
OPTIONS = {"algorithm": "maml", "rates": [0.1, 0.2]}


def state_of(step: int = 0, *, width: int = 4, dtype: Any = np.float32) -> mj.TrainState:
    """A state of a few numbers, which are others at every step."""
    params = {"w": np.arange(width, dtype=dtype) + step, "half": jnp.full(2, step, jnp.bfloat16)}
    state = mj.init_state(jax.tree.map(jnp.asarray, params), OPTIMIZER, jax.random.key(7))
    return state._replace(step=jnp.asarray(np.int32(step)))


def open_checkpoints(folder: Path, options: Mapping[str, Any] = OPTIONS, **kwargs: Any) -> Any:
    return mj.Checkpoints(folder, options=options, **kwargs)


def save_steps(folder: Path, *steps: int, **kwargs: Any) -> None:
    with open_checkpoints(folder, **kwargs) as checkpoints:
        for step in steps:
            checkpoints.save(state_of(step))


def leaves_of(state: mj.TrainState) -> list[np.ndarray]:
    return [np.asarray(x) for x in jax.tree.leaves((state[:3], jax.random.key_data(state.key)))]


def same(one: mj.TrainState, other: mj.TrainState) -> bool:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    assert one.key.dtype == other.key.dtype
    pairs = zip(leaves_of(one), leaves_of(other), strict=True)
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
