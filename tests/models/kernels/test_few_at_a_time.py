"""Groups: the same results, whatever their size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.models.kernels.few_at_a_time import in_groups


@pytest.mark.exact
@pytest.mark.parametrize(
    ("number", "group", "sizes"),
    [
        (5, 1, {1}),
        (5, 2, {2, 1}),
        (5, 3, {5}),
        (5, 9, {5}),
        (6, 2, {2}),
        (7, 3, {3, 1}),
        (8, 3, {2}),
        (9, 4, {3}),
    ],
)
def test_groups_and_a_rest(number: int, group: int, sizes: set[int]) -> None:
    seen = set()

    def double(items: dict) -> jax.Array:
        seen.add(len(items["x"]))
        return 2 * items["x"] + items["y"]

    items = {"x": jnp.arange(float(number)), "y": jnp.arange(float(number)) ** 2}
    grouped = in_groups(double, items, group)
    assert seen == sizes
    np.testing.assert_array_equal(grouped, double(items))
