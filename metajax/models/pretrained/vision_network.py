"""The vision transformers of ViT, DINOv2, CLIP and SigLIP, which differ in a few settings."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax.types import Array


def _quick_gelu(x: Array) -> Array:
    return x * jax.nn.sigmoid(1.702 * x)


# By the names that configurations have for them.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
    "quick_gelu": _quick_gelu,
}


class VisionSettings(NamedTuple):
    """What a vision transformer is made of.

    Attributes:
      family: `"vit"`, `"dinov2"`, `"clip"` or `"siglip"`.
      image: the side of its images, in pixels.
      patch: the side of their patches.
      width: of each patch's embedding.
      blocks: how many there are.
      heads: of each attention.
      hidden: width of the perceptrons in the blocks.
      activation: one of `ACTIVATIONS`.
      epsilon: added to the variance by layer normalisation.
      query_bias: whether queries, keys and values have biases.
      projection: width of what the pooled embedding is projected to; None leaves it.
    """

    family: str
    image: int
    patch: int
    width: int
    blocks: int
    heads: int
    hidden: int
    activation: str
    epsilon: float
    query_bias: bool
    projection: int | None

    @property
    def has_class_token(self) -> bool:
        """Whether the embedding is that of a token beside the patches', or attention over them."""
        return self.family != "siglip"


class Embeddings(nn.Module):
    """From images `[items, image, image, 3]` to `[items, tokens, width]`, the class token first."""

    settings: VisionSettings

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """The tokens of images."""
        family, _, patch, width, *_ = self.settings
        sides = (patch, patch)
        biased = family != "clip"
        conv = nn.Conv(width, sides, sides, padding="VALID", use_bias=biased, name="patches")
        tokens = conv(images)
        tokens = tokens.reshape(tokens.shape[0], -1, width)
        if self.settings.has_class_token:
            token = self.param("class_token", nn.initializers.zeros, (width,), jnp.float32)
            first = jnp.broadcast_to(token[None, None], (tokens.shape[0], 1, width))
            tokens = jnp.concatenate([first.astype(tokens.dtype), tokens], axis=1)
        spread = nn.initializers.normal(0.02)
        tokens += self.param("positions", spread, tokens.shape[1:], jnp.float32)[None]
        return _norm(self.settings, "norm")(tokens) if family == "clip" else tokens


class Block(nn.Module):
    """Attention and a perceptron, each on what is normalised and added to it; of `[..., width]`."""

    settings: VisionSettings

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        """The tokens after the block."""
        settings = self.settings
        hidden = _norm(settings, "norm1")(tokens)
        hidden = _Attention(settings.heads, settings.query_bias, name="attention")(hidden, hidden)
        tokens += self._scaled("layer_scale1", hidden)
        hidden = _norm(settings, "norm2")(tokens)
        hidden = _Perceptron(settings.hidden, settings.activation, name="mlp")(hidden)
        return tokens + self._scaled("layer_scale2", hidden)

    def _scaled(self, name: str, hidden: Array) -> Array:
        if self.settings.family != "dinov2":
            return hidden
        scale = self.param(name, nn.initializers.ones, hidden.shape[-1:], jnp.float32)
        return hidden * scale[None, None]


class Pooling(nn.Module):
    """From `[items, tokens, width]` to `[items, features]`: the class token, or by attention."""

    settings: VisionSettings

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        """The features of tokens."""
        settings = self.settings
        if settings.has_class_token:
            pooled = _norm(settings, "norm")(tokens[:, 0])
        else:
            pooled = self._attended(_norm(settings, "norm")(tokens))
        if settings.projection is None:
            return pooled
        return nn.Dense(settings.projection, use_bias=False, name="projection")(pooled)

    def _attended(self, tokens: Array) -> Array:
        items, _, width = tokens.shape
        settings = self.settings
        probe = self.param("probe", nn.initializers.normal(0.02), (width,), jnp.float32)
        query = jnp.broadcast_to(probe[None, None], (items, 1, width))
        pooled = _Attention(settings.heads, True, name="attention")(query, tokens)
        hidden = _norm(settings, "attention_norm")(pooled)
        hidden = _Perceptron(settings.hidden, settings.activation, name="mlp")(hidden)
        return (pooled + hidden)[:, 0]


class _Attention(nn.Module):
    """Of queries' tokens to others, by several heads."""

    heads: int
    query_bias: bool

    @nn.compact
    def __call__(self, queries: Array, tokens: Array) -> Array:
        width = queries.shape[-1]

        def of_heads(name: str, inputs: Array) -> Array:
            outputs = nn.Dense(width, use_bias=self.query_bias, name=name)(inputs)
            return outputs.reshape(*outputs.shape[:-1], self.heads, -1)

        query, key = of_heads("query", queries), of_heads("key", tokens)
        scores = jnp.einsum("iqhd,ikhd->ihqk", query, key) / query.shape[-1] ** 0.5
        shares = jax.nn.softmax(scores)
        mixed = jnp.einsum("ihqk,ikhd->iqhd", shares, of_heads("value", tokens))
        return nn.Dense(width, name="out")(mixed.reshape(*mixed.shape[:2], width))


class _Perceptron(nn.Module):
    """One hidden layer, of each token."""

    hidden: int
    activation: str

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        hidden = ACTIVATIONS[self.activation](nn.Dense(self.hidden, name="up")(tokens))
        return nn.Dense(tokens.shape[-1], name="down")(hidden)


def _norm(settings: VisionSettings, name: str) -> nn.Module:
    # Of the mean of squares, 32 bits would lose the variance of tokens that lie far from 0.
    return nn.LayerNorm(epsilon=settings.epsilon, use_fast_variance=False, name=name)


def parts_of(settings: VisionSettings) -> dict[str, nn.Module]:
    """The parts of the network, in their order."""
    blocks = {f"block{i}": Block(settings) for i in range(1, settings.blocks + 1)}
    return {"embeddings": Embeddings(settings), **blocks, "pooling": Pooling(settings)}


def shapes_of(settings: VisionSettings) -> dict[str, dict]:
    """Shapes and dtypes of the parameters of each part."""
    tokens = (settings.image // settings.patch) ** 2 + settings.has_class_token
    images = jax.ShapeDtypeStruct((1, settings.image, settings.image, 3), jnp.float32)
    embedded = jax.ShapeDtypeStruct((1, tokens, settings.width), jnp.float32)
    shapes = {}
    for name, module in parts_of(settings).items():
        inputs = images if name == "embeddings" else embedded
        shapes[name] = jax.eval_shape(module.init, jax.random.key(0), inputs)["params"]
    return shapes
