"""From pictures to what heads compare: the networks that have a name, and those that are given."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from metajax.data.backbone_features import features, features_shape
from metajax.data.readers.decoding import ASPECTS
from metajax.kinds import in_brief
from metajax.models.pretrained import Backbone, efficientnet_lite0
from metajax.pictures.batches import in_batches
from metajax.pictures.reading import Look
from metajax.pictures.record_fields import Fields
from metajax.pictures.run_networks import RunNetwork, network_of_record
from metajax.pictures.saved_programs import SavedProgram, program_in, program_of
from metajax.runs import Run, load_run
from metajax.types import Array, Params


class Registered(NamedTuple):
    """A network that has a name.

    Attributes:
      make: of its `size`, the side that it sees; its weights come with a package.
      side: that it sees where nothing else is asked for.
    """

    make: Callable[..., Backbone]
    side: int


REGISTERED = {"efficientnet_lite0": Registered(efficientnet_lite0, 224)}
Cache = str | os.PathLike[str] | Literal[False] | None
_MOST_PIXELS = 4096  # A side that a file may ask for.


class Encoder(Protocol):
    """What makes items of pictures."""

    @property
    def look(self) -> Look:
        """Of the pictures that it takes; it inverts them itself."""
        ...

    @property
    def params(self) -> Params:
        """Arrays, the first argument of `embed`."""
        ...

    def embed(self, params: Params, images: Array) -> Array:
        """What the head takes, of pictures `[n, side, side, channels]` uint8; can be traced."""
        ...

    def items(self, images: np.ndarray, cache: Cache) -> np.ndarray:
        """What is kept of the same; found again in the folder `cache`, unless that is False."""
        ...

    def record(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What a file has of it: arrays by name, and JSON."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class BackboneEncoder:
    """Features of a pre-trained network.

    Attributes:
      look: see `Encoder`.
      backbone: the network.
      name: by which it is registered; None of one that was given.
    """

    look: Look
    backbone: Backbone
    name: str | None

    @property
    def params(self) -> Params:
        """The weights."""
        return self.backbone.params

    def embed(self, params: Params, images: Array) -> Array:
        """See `Encoder`."""
        return self._apply(params, self.look.seen(images))

    def items(self, images: np.ndarray, cache: Cache) -> np.ndarray:
        """See `Encoder`.

        Raises:
          OSError: the cache cannot be written.
          ValueError: features are not finite, or no vectors.
        """
        compiled = self._compiled
        if cache is False:
            return finite(in_batches(compiled, self.look.seen(images)))
        return np.array(features(self.backbone, self.look.seen(images)[None], cache=cache).images)

    def record(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """See `Encoder`.

        Raises:
          ValueError: the network cannot be kept as a program.
        """
        if self.name is not None:
            return {}, {"registered": self.name, "digest": self.digest}
        program = program_of(
            self.backbone.name, self._apply, self.params, self.look.shape, np.uint8
        )
        return SavedNetwork(self.look, program, self.digest).record()

    @functools.cached_property
    def digest(self) -> str:
        """Changes with any weight, and not with the version of JAX."""
        digest = hashlib.sha256(f"{self.backbone.name} {self.backbone.preprocessing}".encode())
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.params):
            values = np.ascontiguousarray(leaf)
            name = jax.tree_util.keystr(path)
            digest.update(f"{name} {values.dtype}{values.shape}".encode())
            digest.update(values.tobytes())
        return digest.hexdigest()

    def _apply(self, params: Params, images: Array) -> Array:
        outputs = self.backbone.model.apply(params, images.astype(jnp.float32) / 255)
        return outputs.astype(jnp.float32)

    @functools.cached_property
    def _compiled(self) -> Callable[[Array], Array]:
        """The network, once it is found to make a vector of each picture on its own."""
        shape = features_shape(self.backbone, self.look.shape)
        if len(shape) != 1:
            raise ValueError(
                f"network {self.backbone.name!r} makes maps of shape {shape} of a picture; "
                "expected a vector of features: a whole network, one that ends in a mean over "
                "space say"
            )
        return functools.partial(jax.jit(self._apply), jax.device_put(self.params))


@dataclasses.dataclass(frozen=True, eq=False)
class SavedNetwork:
    """Features of a network that came with a file.

    Attributes:
      look: see `Encoder`.
      program: the network, of pictures as it sees them.
      digest: of the weights that it had.
    """

    look: Look
    program: SavedProgram
    digest: str

    @property
    def params(self) -> Params:
        """The weights."""
        return self.program.arrays

    def embed(self, params: Params, images: Array) -> Array:
        """See `Encoder`."""
        return self.program(params, self.look.seen(images))

    def items(self, images: np.ndarray, cache: Cache) -> np.ndarray:
        """See `Encoder`.

        Raises:
          ValueError: features are not finite.
        """
        del cache  # Few networks come so, and their programs have no digest.
        return finite(in_batches(self._placed, self.look.seen(images)))

    def record(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """See `Encoder`."""
        arrays, record = self.program.with_parts("network")
        return arrays, {"program": record, "digest": self.digest}

    @functools.cached_property
    def _placed(self) -> Callable[[Array], Array]:
        return functools.partial(self.program, jax.device_put(self.program.arrays))


def encoder_of(network: Any, side: int | None, aspect: str, invert: bool) -> Encoder | None:
    """What makes items of pictures by a network; None where X are features.

    Raises:
      FileNotFoundError: it is a path, and no run is there.
      ImportError: the package of a registered network's weights is missing.
      OSError: a run cannot be read.
      TypeError: it is no network.
      ValueError: it takes no pictures, or none of this side.
    """
    if network is None:
        return None
    if isinstance(network, str) and network in REGISTERED:
        return _registered(network, side or REGISTERED[network].side, aspect, invert)
    if isinstance(network, Backbone):
        return _of_backbone(network, side, aspect, invert)
    if isinstance(network, str | os.PathLike):
        network = _run_in(network)
    if isinstance(network, Run):
        network = _of_run(network)
    if not isinstance(network, SavedNetwork | RunNetwork):
        raise TypeError(f"network is {in_brief(network)}; expected {_EXPECTED}")
    if side not in (None, network.look.side):
        raise ValueError(
            f"side={side}, and the network takes pictures of {network.look.side} pixels; expected "
            "side=None"
        )
    look = dataclasses.replace(network.look, aspect=aspect, invert=invert)
    return network if look == network.look else dataclasses.replace(network, look=look)


_EXPECTED = (
    f"the name of a network ({', '.join(REGISTERED)}), a metajax.models.pretrained.Backbone, a "
    "folder that `metajax train` made, a metajax.runs.Run, or None where X are features"
)


def network_of(
    arrays: Mapping[str, np.ndarray], fields: Fields, width: int, given: Any
) -> tuple[Any, Look | None]:
    """The argument `network` of a classifier that was saved, and how it sees pictures.

    Args:
      arrays: of the file.
      fields: of the file.
      width: of features.
      given: a network to take instead of the one in the file, which has to be the same; or None.

    Raises:
      ImportError: the package of a registered network's weights is missing.
      ValueError: the file says something else than `Encoder.record`, or weights are others.
    """
    if not fields.has("network"):
        if given is not None:
            fields.refuse("has no network, X are features", "network=None")
        return None, None
    network, seen = fields.within("network"), fields.within("look")
    if given is not None and network.has("recipe"):
        fields.refuse("has a run, with its parameters", "network=None")
    look = Look(
        seen.integer("side", 1, _MOST_PIXELS),
        3 if seen.integer("channels", 1, 3) == 3 else 1,
        seen.text("aspect", ASPECTS),
        seen.flag("invert"),
    )
    if network.has("recipe"):
        return network_of_record(arrays, network, look), look
    digest = network.text("digest")
    if given is None and network.has("program"):
        program = program_in(
            arrays,
            "network",
            network.within("program"),
            shape=look.shape,
            dtype=np.uint8,
            width=width,
        )
        return SavedNetwork(look, program, digest), look
    found = given if given is not None else network.text("registered", tuple(REGISTERED))
    encoder = encoder_of(found, look.side, look.aspect, look.invert)
    if encoder is None or encoder.look != look or getattr(encoder, "digest", None) != digest:
        raise ValueError(
            f"{fields.where} was fitted on features of a network with other weights than {found!r} "
            "has here; expected the same weights: install the package of that version, or fit again"
        )
    return found, look


def check_items(items: np.ndarray, encoder: Encoder | None, fields: Fields) -> None:
    """Raises a ValueError unless items of a file are such as the encoder makes."""
    if encoder is None:
        fits, expected = items.ndim == 2, "features, since it has no network"
    else:
        images = jax.ShapeDtypeStruct((1, *encoder.look.shape), jnp.uint8)
        shape = jax.eval_shape(encoder.embed, encoder.params, images).shape[1:]
        pictures = isinstance(encoder, RunNetwork)
        fits = items.shape[1:] == shape and (items.dtype == np.uint8) == pictures
        expected = f"{'pictures' if pictures else 'features'} of shape {shape} for its network"
    if not fits:
        fields.refuse(f"has items of {items.dtype} and shape {items.shape}", expected)


def finite(found: np.ndarray) -> np.ndarray:
    """Features `[n, features]`.

    Raises:
      ValueError: one is not finite.
    """
    if not np.isfinite(found).all():
        wrong = int(np.argmin(np.isfinite(found).all(axis=1)))
        raise ValueError(
            f"the features of picture {wrong} of X are not finite; expected numbers: are the "
            "network's weights finite?"
        )
    return found


@functools.lru_cache(maxsize=8)
def _registered(name: str, side: int, aspect: str, invert: bool) -> BackboneEncoder:
    return dataclasses.replace(
        _of_backbone(REGISTERED[name].make(size=side), side, aspect, invert), name=name
    )


@functools.lru_cache(maxsize=8)
def _of_backbone(
    backbone: Backbone, side: int | None, aspect: str, invert: bool
) -> BackboneEncoder:
    seen = backbone.preprocessing
    if seen is None:
        raise ValueError(
            f"network is the Backbone {backbone.name!r} without a preprocessing; expected one that "
            "takes pictures, not what follows a cut"
        )
    look = Look(seen.size if side is None else side, len(seen.mean), aspect, invert)
    return BackboneEncoder(look, backbone, None)


def _run_in(path: str | os.PathLike[str]) -> Run:
    if not Path(path).is_dir():
        raise FileNotFoundError(f"network={os.fspath(path)!r} is no folder; expected {_EXPECTED}")
    return load_run(path)


def _of_run(run: Run) -> RunNetwork:
    if len(run.shape) != 3 or run.shape[0] != run.shape[1] or run.shape[2] not in (1, 3):
        raise ValueError(
            f"network is a run whose items have the shape {run.shape}; expected one of square "
            "pictures [side, side, 1 or 3]"
        )
    return RunNetwork(Look(run.shape[0], run.shape[2]), run.recipe, run.params())
