"""Groups: the same results, whatever their size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.models.grouping import in_groups


@pytest.mark.parametrize(("group", "sizes"), [(1, {1}), (2, {2, 1}), (3, {5}), (9, {5})])
def test_groups_and_a_rest(group: int, sizes: set[int]) -> None:
    seen = set()

    def double(items: dict) -> jax.Array:
        seen.add(len(items["x"]))
        return 2 * items["x"] + items["y"]

    items = {"x": jnp.arange(5.0), "y": jnp.arange(5.0) ** 2}
    grouped = in_groups(double, items, group)
    assert seen == sizes
    np.testing.assert_array_equal(grouped, double(items))
