"""Full context embeddings: both beginnings of the query's reads, step by step in NumPy."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import metajax as mj

pytestmark = pytest.mark.usefixtures("float64")

WIDTH = 3


def _reads(cell: Any, query: np.ndarray, support: np.ndarray, h: np.ndarray, steps: int) -> Any:
    """`steps` times: attend to the support with h, then one step of an LSTM."""
    c = np.zeros(WIDTH)
    for _ in range(steps):
        weights = np.exp(support @ h)
        r = weights @ support / weights.sum()
        seen = np.concatenate([query, r])
        i, f, g, o = (
            seen @ cell[f"i{gate}"]["kernel"]
            + h @ cell[f"h{gate}"]["kernel"]
            + cell[f"h{gate}"]["bias"]
            for gate in "ifgo"
        )
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        h = np.tanh(c) / (1 + np.exp(-o)) + query
    return h


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("start", ["zeros", "embedding"])
def test_reads_from_both_beginnings(start: Literal["zeros", "embedding"], steps: int) -> None:
    context = mj.models.full_context(WIDTH, read_steps=steps, start=start)
    params = oracles.normal_like(1, jax.eval_shape(context.init, jax.random.key(0)), 0.7)
    support, queries = oracles.normals(0, (5, WIDTH), (2, WIDTH))
    cell, support_, queries_ = jax.tree.map(np.asarray, (params["attention"], support, queries))
    outputs = jax.jit(context.query)(params, queries, support, None)
    expected = np.array(
        [
            # Without a step nothing is read, and the query is its own embedding.
            _reads(cell, x, support_, np.zeros(WIDTH) if start == "zeros" and steps else x, steps)
            for x in queries_
        ]
    )
    oracles.assert_close(outputs, jnp.asarray(expected), 1e-13)
