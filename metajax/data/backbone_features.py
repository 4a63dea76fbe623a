"""The features of a data set's images by a pre-trained network, each computed once and kept."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from tqdm import tqdm

from metajax.checks.numbers import check_integers
from metajax.checks.objects import check_instance
from metajax.data.labelled_images import ImageClasses
from metajax.data.memory_map_rows import read_rows
from metajax.data.readers.cache import cache_folder, read_cache, write_cache
from metajax.data.sampler_checks import checked_classes
from metajax.models.pretrained import Backbone
from metajax.types import Array, Params

_BLOCK = 256  # images that are looked at together


def features(
    backbone: Backbone,
    images: ArrayLike | ImageClasses,
    *,
    cache: str | os.PathLike[str] | None = None,
    batch_size: int = 32,
) -> ImageClasses:
    """What a network makes of every image, computed once, in the place of the images.

    Samplers draw episodes of features as they draw episodes of images, the same ones for the same
    key. Of all classes it is done once; a split is made afterwards: `features(...).select(names)`.

    >>> import jax, metajax
    >>> net = metajax.models.mlp((8,))
    >>> seen = metajax.models.pretrained.Preprocessing(28, (0.5,), (0.5,))
    >>> params = net.init(jax.random.key(0), jax.numpy.zeros((1, 28, 28, 1)))
    >>> part = metajax.models.pretrained.Part(net, params)
    >>> backbone = metajax.models.pretrained.Backbone("mine", {"net": part}, seen)
    >>> images = jax.numpy.zeros((5, 6, 28, 28, 1))
    >>> seen_once = metajax.data.features(backbone, images)
    >>> sample = metajax.data.image_episodes(seen_once, ways=5, shots=1, queries=5)
    >>> sample(jax.random.key(1)).support.inputs.shape
    (5, 8)

    Args:
      backbone: the network, see `metajax.models.pretrained`. With a trunk of `Backbone.cut`
        features may be maps, which what follows the cut takes in the place of images.
      images: `ImageClasses`, or a class-major array `[classes, items, height, width, channels]`;
        square, of as many channels as the network takes, integers in `[0, 255]`, which are divided
        by 255, or floats in `[0, 1]`. Features that the first part of a network made are floats of
        any size.
      cache: the folder in which features are kept, see `image_folder`: by the network's weights, by
        what it computes, and by the images. None is the user's own.
      batch_size: images that are computed at once, 1 or more.

    Returns:
      `ImageClasses` with the classes, groups and sources of `images`, and in the place of the
      images `[images, features]` or `[images, height, width, channels]` float32, memory-mapped.

    Raises:
      OSError: the cache cannot be written, or there is no room for it.
      TypeError: the backbone is no `Backbone`, or a number no integer.
      ValueError: images are not square, of other channels, not finite or out of range; the
        network's items see each other (batch normalisation without running averages), its outputs
        are no vectors or maps, or are not finite for an image.
    """
    check_instance(
        backbone, Backbone, "backbone", "a metajax.models.pretrained.Backbone, with its weights"
    )
    check_integers(1, batch_size=batch_size)
    data = checked_classes(images)
    shape = tuple(data.images.shape[1:])
    rows = np.concatenate(
        [start + np.arange(count) for start, count in zip(data.starts, data.counts, strict=True)]
    )
    sources = None if data.sources is None else data.sources[rows]
    made_from = {
        "backbone": backbone.digest(shape),
        "images": _digest(data, rows, sources, scaled=backbone.preprocessing is not None),
    }
    folder = cache_folder(cache, f"features of {backbone.name}", made_from)
    if (kept := read_cache(folder, made_from)) is not None:
        return kept
    made = features_shape(backbone, shape)
    counts = data.counts.tolist()

    def fill(out: np.ndarray) -> tuple[Sequence[int], str]:
        done = 0
        with tqdm(total=len(rows), desc=backbone.name, unit="image", delay=2) as bar:
            for found in _computed(backbone, data, rows, batch_size):
                if (wrong := _first(~np.isfinite(found))) is not None:
                    raise ValueError(
                        f"the features of {_named(data, done + wrong)} are not finite; expected "
                        "numbers: are the network's weights finite, and its arithmetic not of half "
                        "precision?"
                    )
                out[done : done + len(found)] = found
                done += len(found)
                bar.update(len(found))
        return counts, ""

    return write_cache(
        folder,
        made_from,
        fill,
        data.names,
        counts,
        made,
        data.groups,
        dtype="float32",
        sources=sources,
    )


def features_shape(backbone: Backbone, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of one image's features; raises where images of `shape` have none."""
    example = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    outputs = jax.eval_shape(backbone.model.apply, backbone.params, example)
    several = jax.tree.leaves(outputs)
    if len(several) != 1 or several[0].ndim not in (2, 4):
        raise ValueError(
            f"the backbone {backbone.name!r} gives {[leaf.shape for leaf in several]} of one "
            "image; expected one array, of vectors [1, features] or maps [1, height, width, "
            "channels]: cut it elsewhere"
        )
    if (sharing := backbone.model.sharing(backbone.params, example)) != "none":
        raise ValueError(
            f"the features of an image by {backbone.name!r} depend on the others of its batch "
            f"({sharing!r}), and would not be one image's; expected a network whose batch "
            "normalisation uses running averages, such as from_linen(module, frozen=...)"
        )
    return several[0].shape[1:]


def _digest(
    data: ImageClasses, rows: np.ndarray, sources: np.ndarray | None, *, scaled: bool
) -> str:
    """Of the images, in the order of the classes, and of all that is kept with them.

    Raises:
      ValueError: an image is not finite, or where it is to be `scaled` not in `[0, 1]`, or an
        integer where it is not.
    """
    kind = np.dtype(data.images.dtype)
    if not scaled and not jnp.issubdtype(kind, jnp.floating):
        raise ValueError(
            f"images are {kind}; the backbone has no preprocessing, and expected features, floats"
        )
    kept = None if sources is None else sources.tolist()
    about = [kind.name, data.images.shape[1:], data.names, data.counts.tolist(), data.groups, kept]
    digest = hashlib.sha256(json.dumps(about).encode())
    for start in range(0, len(rows), _BLOCK):
        block = np.ascontiguousarray(read_rows(data.images, rows[start : start + _BLOCK]))
        if kind.kind not in "iu":
            outside = ~((block >= 0) & (block <= 1)) if scaled else ~np.isfinite(block)
            if (wrong := _first(outside)) is not None:
                expected = "floats in [0, 1], such as images / 255" if scaled else "finite floats"
                raise ValueError(
                    f"{_named(data, start + wrong)} holds {block[outside][0]}; expected {expected}"
                )
        digest.update(block.tobytes())
    return digest.hexdigest()


def _first(wrong: np.ndarray) -> int | None:
    """The first of `[items, ...]` flags of which any is set."""
    items = np.flatnonzero(wrong.reshape(len(wrong), -1).any(axis=1))
    return int(items[0]) if items.size else None


def _named(data: ImageClasses, place: int) -> str:
    """The image at a place in the order of the classes."""
    ends = np.cumsum(data.counts)
    of = int(np.searchsorted(ends, place, side="right"))
    return f"image {place - int(ends[of]) + int(data.counts[of])} of {data.names[of]!r}"


def _computed(
    backbone: Backbone, data: ImageClasses, rows: np.ndarray, batch_size: int
) -> Iterator[np.ndarray]:
    """The features of the rows, batch by batch, each of one shape for one program."""

    @jax.jit
    def compute(params: Params, images: Array) -> Array:
        if jnp.issubdtype(images.dtype, jnp.integer):
            images = images.astype(jnp.float32) / 255
        outputs: Any = jax.tree.leaves(backbone.model.apply(params, images.astype(jnp.float32)))
        return outputs[0].astype(jnp.float32)

    params = jax.device_put(backbone.params)
    batch_size = min(batch_size, len(rows))
    for start in range(0, len(rows), batch_size):
        block = read_rows(data.images, rows[start : start + batch_size])
        batch = np.zeros((batch_size, *block.shape[1:]), block.dtype)
        batch[: len(block)] = block
        yield np.asarray(compute(params, batch))[: len(block)]
