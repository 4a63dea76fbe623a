"""Small episodes of many kinds: functions of a key, as people write their samplers.

All are 3-way, 2-shot, with 2 queries a class. What tells the classes apart is drawn anew.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metajax.types import Array, Episode, Examples, Key

WAYS, SHOTS = 3, 2
ITEMS = WAYS * SHOTS
Sampler = Callable[[Key], Episode]


def _labelled(draw: Callable[[Key, Array, Key], Any]) -> Sampler:
    """Episodes of what is drawn from the task's key, the labels and a key of the set."""

    def sample(key: Key) -> Episode:
        labels = jnp.tile(jnp.arange(WAYS), SHOTS)
        task, *sets = jax.random.split(key, 3)
        return Episode(*(Examples(draw(task, labels, own), labels) for own in sets))

    return sample


def of_shape(*shape: int) -> Sampler:
    """Inputs `[items, *shape]`."""

    def draw(task: Key, labels: Array, own: Key) -> Array:
        centres = jax.random.normal(task, (WAYS, *shape))
        return centres[labels] + 0.5 * jax.random.normal(own, (ITEMS, *shape))

    return _labelled(draw)


vectors = of_shape(3)
sequences = of_shape(4, 3)
images = of_shape(4, 4, 2)


@_labelled
def tokens(task: Key, labels: Array, own: Key) -> Any:
    """Four tokens of a vocabulary of 7, of which 2 to 4 count."""
    ids, others, changed, lengths = jax.random.split(own, 4)
    typical = jax.random.randint(task, (WAYS, 4), 0, 7)[labels]
    other = jax.random.randint(others, (ITEMS, 4), 0, 7)
    ids = jnp.where(jax.random.uniform(changed, (ITEMS, 4)) < 0.2, other, typical)
    counts = jax.random.randint(lengths, (ITEMS, 1), 2, 5)
    return {"ids": ids, "mask": (jnp.arange(4)[None] < counts).astype(jnp.result_type(float))}


@_labelled
def graphs(task: Key, labels: Array, own: Key) -> Any:
    """Graphs padded to 4 nodes and 5 edges, of which 2 to 4 and 3 to 5 are real."""
    nodes, edges, sizes = jax.random.split(own, 3)
    counts = jax.random.randint(sizes, (ITEMS, 2), jnp.array([[2, 3]]), jnp.array([[5, 6]]))
    centres = jax.random.normal(task, (WAYS, 1, 3))
    return {
        "nodes": centres[labels] + 0.5 * jax.random.normal(nodes, (ITEMS, 4, 3)),
        "edges": jax.random.randint(edges, (ITEMS, 5, 2), 0, counts[:, None, :1]),
        "sizes": counts,
    }


def curves(key: Key) -> Episode:
    """A regression from 3 numbers to 2."""
    task, *sets = jax.random.split(key, 3)
    slopes = jax.random.normal(task, (3, 2))
    inputs = [jax.random.normal(own, (ITEMS, 3)) for own in sets]
    return Episode(*(Examples(x, jnp.sin(x @ slopes)) for x in inputs))


def padded_vectors(key: Key) -> Episode:
    """Some with weights."""
    return padded(vectors(key))


def several_targets(key: Key) -> Episode:
    """A label, and a number, of each item."""
    episode = vectors(key)
    return Episode(
        *(
            Examples(x, {"label": labels, "size": jnp.sin(x).sum(axis=1)})
            for x, labels, _ in episode
        )
    )


def padded(episode: Episode, junk: float = jnp.nan) -> Episode:
    """The same, with two items of weight 0 among the others, in which anything may stand."""

    def pad(examples: Examples) -> Examples:
        def among(x: Array, value: Any) -> Array:
            rows = jnp.full((1, *x.shape[1:]), value, x.dtype)
            return jnp.concatenate([x[:1], rows, x[1:], rows])

        def fill(x: Array) -> Array:
            return among(x, junk if jnp.issubdtype(x.dtype, jnp.floating) else 0)

        weights = among(jnp.ones(ITEMS), 0)
        return Examples(*jax.tree.map(fill, (examples.inputs, examples.targets)), weights)

    return Episode(pad(episode.support), pad(episode.query))


def unpadded(episode: Episode) -> Episode:
    """Without what `padded` put in, and without weights; what has none stays as it is."""
    counts = jnp.array([0, *range(2, ITEMS + 1)])

    def cut(examples: Examples) -> Examples:
        if examples.weights is None:
            return examples
        return Examples(*jax.tree.map(lambda x: x[counts], (examples.inputs, examples.targets)))

    return Episode(cut(episode.support), cut(episode.query))
