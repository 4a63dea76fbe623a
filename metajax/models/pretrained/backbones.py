"""Pre-trained networks, and the images that they were trained to see."""

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from metajax.checks.numbers import check_integers, check_numbers
from metajax.checks.objects import check_instance, check_model
from metajax.checks.parameters import check_floats
from metajax.checks.settings import check_mappings, check_texts
from metajax.kinds import check_words, in_brief
from metajax.models.pretrained.traced_constants import constants_of
from metajax.types import Array, Inputs, Key, Model, Outputs, Params, Sharing

Resizing = Literal["bilinear", "bicubic"]


class Part(NamedTuple):
    """One of the parts of a network that are applied one after the other.

    Attributes:
      model: from what the part before gives, `[items, ...]`, to what the next takes.
      params: its parameters.
    """

    model: Model
    params: Params


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What a network was trained to see: images of one size, each channel normalised.

    Attributes:
      size: the side of its images, in pixels, 1 or more.
      mean: of each channel, of images in `[0, 1]`; as many as it takes channels.
      std: of each channel, above 0; images become `(images - mean) / std`.
      resizing: how images of other sizes are brought to it; smaller ones are enlarged, larger ones
        reduced with antialiasing. At sharp edges the bicubic one leaves `[0, 1]` by some
        hundredths, which Pillow's cuts off.

    Raises:
      TypeError: the size is no integer, or a mean or deviation no number.
      ValueError: a number is out of range, or there are not as many means as deviations.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resizing: Resizing = "bilinear"

    def __post_init__(self) -> None:
        check_integers(1, size=self.size)
        for name, lies, expected in (
            ("mean", lambda x: -np.inf < x < np.inf, "a number"),
            ("std", lambda x: 0 < x < np.inf, "a number above 0"),
        ):
            values = getattr(self, name)
            if not isinstance(values, list | tuple):
                raise TypeError(
                    f"{name} is {in_brief(values)}; expected a number a channel, such as (0.5,)"
                )
            check_numbers(lies, expected, **{f"{name}[{i}]": x for i, x in enumerate(values)})
            object.__setattr__(self, name, tuple(map(float, values)))
        if not self.mean or len(self.mean) != len(self.std):
            raise ValueError(
                f"mean has {len(self.mean)} numbers and std {len(self.std)}; expected one of each "
                "a channel"
            )
        check_words(get_args(Resizing), resizing=self.resizing)

    def __call__(self, images: Array) -> Array:
        """`[items, size, size, channels]` of images `[items, side, side, channels]` in `[0, 1]`.

        Raises:
          ValueError: they are no floats, not square, or of other channels.
        """
        channels = len(self.mean)
        shape = jnp.shape(images)
        if len(shape) != 4 or shape[1] != shape[2] or shape[3] != channels:
            grey = len(shape) == 4 and shape[3] == 1 and channels == 3
            remedy = "; grey ones become RGB by np.repeat(images, 3, axis=-1)" if grey else ""
            raise ValueError(
                f"images have shape {shape}; expected square ones of {channels} channels, as the "
                f"network takes them, [items, side, side, {channels}], of any side: crop or pad "
                f"others{remedy}"
            )
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(
                f"images are {images.dtype}; expected floats in [0, 1], such as images / 255"
            )
        if shape[1] != self.size:
            resized = (shape[0], self.size, self.size, channels)
            images = jax.image.resize(images, resized, self.resizing)
        mean, std = (jnp.asarray(x, images.dtype) for x in (self.mean, self.std))
        return (images - mean[None, None, None]) / std[None, None, None]


@dataclasses.dataclass(frozen=True, eq=False)
class Backbone:
    """A pre-trained network, with its weights and its preprocessing.

    >>> import jax, metajax
    >>> net = metajax.models.mlp((8,))
    >>> params = net.init(jax.random.key(0), jax.numpy.zeros((1, 28, 28, 1)))
    >>> seen = metajax.models.pretrained.Preprocessing(28, (0.5,), (0.5,))
    >>> part = metajax.models.pretrained.Part(net, params)
    >>> backbone = metajax.models.pretrained.Backbone("mine", {"net": part}, seen)

    Attributes:
      name: what it is called.
      parts: its parts by name, in the order in which they are applied.
      preprocessing: of its images; None is one that takes what another gives, see `cut`.

    Raises:
      TypeError: an attribute is of another kind.
      ValueError: there are no parts.
    """

    name: str
    parts: Mapping[str, Part]
    preprocessing: Preprocessing | None

    def __post_init__(self) -> None:
        check_texts(name=self.name)
        check_mappings(parts=self.parts)
        if not self.parts:
            raise ValueError("parts is empty; expected {name: Part(model, params), ...}")
        for name, part in self.parts.items():
            check_instance(part, Part, f"parts[{name!r}]", "a Part(model, params)")
            check_model(part.model, f"parts[{name!r}].model")
            check_floats(part.params)
        if self.preprocessing is not None:
            check_instance(
                self.preprocessing, Preprocessing, "preprocessing", "a Preprocessing, or None"
            )
        object.__setattr__(self, "parts", dict(self.parts))

    @property
    def params(self) -> dict[str, Params]:
        """The parameters of each part."""
        return {name: part.params for name, part in self.parts.items()}

    @cached_property
    def model(self) -> Model:
        """The whole, from images `[items, side, side, channels]` in `[0, 1]` to features.

        Its parameters are those of `params`, of which its `init` gives the pre-trained ones,
        whatever the key. The preprocessing is a part of it.
        """

        def init(key: Key, inputs: Inputs) -> Params:
            del key, inputs
            return jax.tree.map(jnp.array, self.params)  # Whoever donates them keeps the backbone.

        def apply(
            params: Params, inputs: Inputs, weights: Array | None, key: Key | None
        ) -> Outputs:
            values = self._seen(inputs)
            for index, (name, part) in enumerate(self.parts.items()):
                own = None if key is None else jax.random.fold_in(key, index)
                values = part.model.apply(params[name], values, weights, own)
            return values

        def sharing(params: Params, inputs: Inputs) -> Sharing:
            kinds = set()
            values = jax.eval_shape(self._seen, inputs)
            for name, part in self.parts.items():
                kinds.add(part.model.sharing(params[name], values))
                values = jax.eval_shape(part.model.apply, params[name], values)
            return next(kind for kind in ("batch", "weighted", "none") if kind in kinds)

        return Model(init, apply, sharing=sharing)

    def cut(self, name: str) -> "tuple[Backbone, Backbone]":
        """Two backbones of it: what comes before the part `name`, and that part with what follows.

        What the first gives the second takes, so that a task may adapt the second on features of
        the first that were computed once.

        Raises:
          ValueError: there is no such part, or it is the first.
        """
        names = list(self.parts)
        check_texts(name=name)
        if name not in names[1:]:
            raise ValueError(
                f"name={name!r}; expected a part after the first, of {', '.join(names)}"
            )
        place = names.index(name)
        before, after = (
            {name: self.parts[name] for name in some} for some in (names[:place], names[place:])
        )
        return (
            Backbone(f"{self.name}, before {name}", before, self.preprocessing),
            Backbone(f"{self.name}, from {name} on", after, None),
        )

    def digest(self, shape: tuple[int, ...]) -> str:
        """Changes with any weight, state or setting, by which features of it are told apart.

        What the parts compute, and keep beside their parameters, running averages say, is found by
        tracing them for inputs of `shape`: `(height, width, channels)` of images.

        Raises:
          TypeError: the shape is none.
          ValueError: the network does not take inputs of this shape.
        """
        if not isinstance(shape, list | tuple):
            raise TypeError(f"shape={in_brief(shape)}; expected (height, width, channels)")
        check_integers(1, **{f"shape[{axis}]": side for axis, side in enumerate(shape)})
        example = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        traced = jax.make_jaxpr(self.model.apply)(self.params, example)
        leaves = jax.tree_util.tree_leaves_with_path(self.params)
        named = [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]
        named += [(f"constant {index}", leaf) for index, leaf in enumerate(constants_of(traced))]
        program = re.sub(r"\b0x[0-9a-f]+", "", str(traced))  # Addresses of functions.
        digest = hashlib.sha256(f"{self.name} {self.preprocessing} {program}".encode())
        for path, leaf in named:
            if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
                leaf = jax.random.key_data(leaf)
            values = np.ascontiguousarray(leaf)
            digest.update(f"{path} {values.dtype}{values.shape}".encode())
            digest.update(values.tobytes())
        return digest.hexdigest()

    def _seen(self, inputs: Inputs) -> Inputs:
        return inputs if self.preprocessing is None else self.preprocessing(inputs)
