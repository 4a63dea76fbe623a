"""Episodes of varying ways, shots and imbalance, as Meta-Dataset draws them.

Triantafillou et al., "Meta-Dataset: A Dataset of Datasets for Learning to Learn from Few Examples"
(2020), section 3.2 and the authors' code. Their formulas are followed in whole numbers, so that all
devices draw the same: the weights of classes have 1,024 values, and shares are cut to what fits a
32-bit product.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from metajax.data.episode_draws import ClassTable, Drawn, Places
from metajax.types import Array, Key

# The weights exp(U[log 0.5, log 2)) are whole numbers of 2^-10.
_LARGEST_WEIGHT = 2**11
LARGEST_CLASS = 2**20


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class VaryingDraws:
    """Episodes of varying ways and shots, padded to one size: the pure function `key -> Drawn`."""

    table: ClassTable
    min_ways: int = dataclasses.field(metadata={"static": True})
    max_ways: int = dataclasses.field(metadata={"static": True})
    max_queries: int = dataclasses.field(metadata={"static": True})
    max_support: int = dataclasses.field(metadata={"static": True})
    max_class_support: int = dataclasses.field(metadata={"static": True})

    def __call__(self, key: Key) -> Drawn:
        """Draws an episode; the order of the classes, and so their labels, is random."""
        ways_key, class_key, size_key, weight_key, item_key = jax.random.split(key, 5)
        classes, available = self.table.draw_classes(class_key, self.max_ways)
        ways = jax.random.randint(ways_key, (), self.min_ways, available + 1, jnp.int32)
        present = jnp.arange(self.max_ways) < ways
        counts = self.table.counts[classes]
        # Half of the smallest class at most are queries, the same number of every class.
        half = jnp.min(counts // 2, where=present, initial=self.max_queries)
        queries = jnp.where(present, half, 0)
        shots = self._shots(size_key, weight_key, ways, present, counts, counts - queries)
        most = min(self.table.largest, self.max_support + self.max_queries)
        items = self.table.draw_items(item_key, classes, most)
        return Drawn(
            _padded(classes, items, jnp.zeros_like(shots), shots, self.max_support),
            _padded(classes, items, shots, queries, self.max_ways * self.max_queries),
        )

    def _shots(
        self,
        size_key: Key,
        weight_key: Key,
        ways: Array,
        present: Array,
        counts: Array,
        left: Array,
    ) -> Array:
        """`[max_ways]` support items of each class, of the `left` that are no queries."""
        # The size of the support set: the sum of ceil(beta min(100, left)), beta in (0, 1].
        beta = jax.random.randint(size_key, (), 1, 2**16 + 1, jnp.int32)
        wanted = (beta * jnp.minimum(left, self.max_class_support) + 2**16 - 1) >> 16
        size = jnp.minimum(jnp.sum(wanted, where=present), self.max_support)
        # One item of each class; what remains is shared out by size of the class times its weight.
        weights = jnp.asarray(np.rint(2 ** (2 * (np.arange(1024) + 0.5) / 1024 + 9)), jnp.uint32)
        weights = weights[jax.random.randint(weight_key, (self.max_ways,), 0, 1024, jnp.int32)]
        # The sum of the shares times the items to share out has to fit in 32 bits.
        largest = jnp.max(counts, where=present, initial=1).astype(jnp.uint32)
        bits = 32 - jax.lax.clz(largest) + (self.max_ways * _LARGEST_WEIGHT).bit_length()
        spare = 32 - self.max_support.bit_length()
        cut = jnp.where(bits > spare, bits - spare, 0).astype(jnp.uint32)
        shares = jnp.maximum((weights * counts.astype(jnp.uint32)) >> cut, 1)
        shares = jnp.where(present, shares, 0)
        extra = shares * (size - ways).astype(jnp.uint32) // shares.sum()
        return jnp.where(present, jnp.minimum(extra.astype(jnp.int32) + 1, left), 0)


def _padded(classes: Array, items: Array, first: Array, counts: Array, slots: int) -> Places:
    """The items `[first, first + counts)` of each class, class by class, padded to `slots`."""
    ends = jnp.cumsum(counts)
    slot = jnp.arange(slots)
    way = jnp.minimum((slot[:, None] >= ends[None]).sum(axis=1), len(classes) - 1)
    place = jnp.minimum(first[way] + slot - (ends - counts)[way], items.shape[1] - 1)
    real = slot < ends[-1]
    return Places(
        jnp.where(real, classes[way], 0),
        jnp.where(real, items[way, place], 0),
        jnp.where(real, way, 0),
        weights=real.astype(jnp.float32),
    )
