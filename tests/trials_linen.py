"""Modules of Flax linen, as people have them."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import trial_episodes
from trial import Brought, Trial
from trial_episodes import WAYS

import metajax as mj
from metajax.models import from_linen
from metajax.types import Array, Key, Params


def plain(module: nn.Module, collections: dict[str, Any] | None = None, **flags: Any) -> Brought:
    """A module that has no mode; what stands beside its parameters is frozen."""
    rest = collections or {}

    def by_hand(params: Params, inputs: Any, key: Key | None) -> Any:
        return module.apply({"params": params, **rest}, inputs, **flags)

    return Brought(from_linen(module, frozen=collections), by_hand)


def drawing(module: nn.Module) -> Brought:
    """A module that drops where `train` says so."""

    def by_hand(params: Params, inputs: Any, key: Key | None) -> Any:
        rngs = None if key is None else {"dropout": key}
        return module.apply({"params": params}, inputs, train=key is not None, rngs=rngs)

    return Brought(from_linen(module), by_hand)


def beside_parameters(module: nn.Module, inputs: Any, **flags: Any) -> dict[str, Any]:
    """Collections of a module that was trained elsewhere: any numbers, variances among them."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), inputs, **flags))
    generator = np.random.default_rng(3)
    return {
        name: jax.tree.map(lambda x: generator.uniform(0.5, 1.5, x.shape), collection)
        for name, collection in shapes.items()
        if name != "params"
    }


class Perceptron(nn.Module):
    """With dropout and batch normalisation, on the one flag that people write."""

    rate: float = 0.0
    norms: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = nn.Dense(4)(x)
        if self.norms:
            x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.Dropout(self.rate, deterministic=not train)(nn.tanh(x))
        return nn.Dense(WAYS)(x)


def perceptron() -> Brought:
    return plain(nn.Sequential([nn.Dense(4), nn.tanh, nn.Dense(WAYS)]))


def dropout() -> Brought:
    return drawing(Perceptron(0.2))


def batch_norm() -> Brought:
    return one_flag(0.0)


def one_flag(rate: float = 0.2) -> Brought:
    module = Perceptron(rate, norms=True)

    def by_hand(params: Params, inputs: Any, key: Key | None) -> Any:
        # In evaluation as in training, but for what is dropped: episodes bring their batch.
        still = module.clone(rate=0.0) if key is None else module
        rngs = None if key is None else {"dropout": key}
        variables = {"params": params}
        return still.apply(variables, inputs, True, rngs=rngs, mutable=["batch_stats"])[0]

    return Brought(from_linen(module), by_hand)


def averages() -> Brought:
    module = Perceptron(norms=True)
    kept = beside_parameters(module, jnp.ones((1, 3)), train=True)
    return plain(module, kept, train=False)


class Spectral(nn.Module):
    """A layer divided by its largest singular value, by vectors that training moves."""

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        x = nn.tanh(nn.SpectralNorm(nn.Dense(4))(x, update_stats=train))
        return nn.Dense(WAYS)(x)


def spectral_norm() -> Brought:
    module = Spectral()
    return plain(module, beside_parameters(module, jnp.ones((1, 3))))


def lstm() -> Brought:
    class Reader(nn.Module):
        @nn.compact
        def __call__(self, x: Array) -> Array:
            cell = nn.OptimizedLSTMCell(4, param_dtype=jnp.result_type(float))
            return nn.Dense(WAYS)(nn.RNN(cell)(x)[:, -1])

    return plain(Reader())


def transformer() -> Brought:
    class Encoder(nn.Module):
        @nn.compact
        def __call__(self, inputs: dict[str, Array], train: bool = False) -> Array:
            x = nn.Embed(7, 4)(inputs["ids"])
            x = x + self.param("place", nn.initializers.normal(), (1, 4, 4))
            mask = inputs["mask"][:, None, None] > 0
            attention = nn.MultiHeadDotProductAttention(2, dropout_rate=0.1)
            x = x + attention(nn.LayerNorm()(x), mask=mask, deterministic=not train)
            x = x + nn.Dropout(0.1, deterministic=not train)(nn.Dense(4)(nn.LayerNorm()(x)))
            counted = inputs["mask"][..., None]
            return nn.Dense(WAYS)((x * counted).sum(1) / counted.sum(1))

    return drawing(Encoder())


def low_rank() -> Brought:
    class Adapted(nn.Module):
        @nn.compact
        def __call__(self, x: Array) -> Array:
            down = self.param("lora_a", nn.initializers.normal(), (x.shape[-1], 1))
            up = self.param("lora_b", nn.initializers.zeros, (1, 4))
            return nn.Dense(WAYS)(nn.tanh(nn.Dense(4)(x) + x @ down @ up))

    return plain(Adapted())


def modulated() -> Brought:
    class Modulated(nn.Module):
        @nn.compact
        def __call__(self, x: Array) -> Array:
            scale = self.param("film_scale", nn.initializers.ones, (1, 4))
            offset = self.param("film_offset", nn.initializers.zeros, (1, 4))
            return nn.Dense(WAYS)(nn.tanh(nn.Dense(4)(x) * scale + offset))

    return plain(Modulated())


def graph_net() -> Brought:
    class GraphNet(nn.Module):
        """All graphs of a set as one, as graph libraries have them."""

        @nn.compact
        def __call__(self, graphs: dict[str, Array]) -> Array:
            items, nodes = graphs["nodes"].shape[:2]
            first = nodes * jnp.arange(items)[:, None, None]
            ends = (graphs["edges"] + first).reshape(-1, 2)
            real_nodes = jnp.arange(nodes)[None] < graphs["sizes"][:, :1]
            real_edges = jnp.arange(graphs["edges"].shape[1])[None] < graphs["sizes"][:, 1:]
            x = graphs["nodes"].reshape(items * nodes, -1)
            sent = nn.Dense(4)(x)[ends[:, 0]] * real_edges.reshape(-1, 1)
            x = nn.tanh(nn.Dense(4)(x) + jax.ops.segment_sum(sent, ends[:, 1], len(x)))
            owner = jnp.repeat(jnp.arange(items), nodes)
            pooled = jax.ops.segment_sum(x * real_nodes.reshape(-1, 1), owner, items)
            return nn.Dense(WAYS)(pooled)

    return plain(GraphNet())


def two_heads() -> Brought:
    class Heads(nn.Module):
        @nn.compact
        def __call__(self, x: Array) -> dict[str, Array]:
            x = nn.tanh(nn.Dense(4)(x))
            return {"label": nn.Dense(WAYS)(x), "size": nn.Dense(1)(x)[:, 0]}

    return plain(Heads())


def two_losses(outputs: Any, targets: Any) -> Array:
    classes = oracles.mean_cross_entropy(outputs["label"], targets["label"])
    return classes + oracles.mean_squared_error(outputs["size"], targets["size"])


def two_losses_an_item(outputs: Any, targets: Any) -> Array:
    chosen = jax.nn.log_softmax(outputs["label"])[jnp.arange(6), targets["label"]]
    return (outputs["size"] - targets["size"]) ** 2 - chosen


def takes_weights() -> Brought:
    class Centred(nn.Module):
        """Minus the mean of the items that count."""

        @nn.compact
        def __call__(self, x: Array, weights: Array | None = None) -> Array:
            x = nn.Dense(4)(x)
            return nn.Dense(WAYS)(nn.tanh(x - jnp.average(x, axis=0, weights=weights)[None]))

    return plain(Centred())


def residual() -> Brought:
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: Array) -> Array:
            x = nn.Conv(4, (3, 3))(x)
            y = nn.relu(nn.GroupNorm(2)(x))
            y = nn.GroupNorm(2)(nn.Conv(4, (3, 3), use_bias=False)(y))
            return nn.Dense(WAYS)(nn.relu(x + y).mean((1, 2)))

    return plain(Block())


def rematerialised() -> Brought:
    class Deep(nn.Module):
        @nn.compact
        def __call__(self, x: Array, train: bool) -> Array:
            layer = nn.remat(Perceptron, static_argnums=(2,))
            return nn.Dense(WAYS)(nn.tanh(layer(0.2)(x, train)))

    return drawing(Deep())


def scanned() -> Brought:
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x: Array, _: None) -> tuple[Array, None]:
            return x + nn.tanh(nn.Dense(3)(x)), None

    class Deep(nn.Module):
        @nn.compact
        def __call__(self, x: Array) -> Array:
            layers = nn.scan(
                Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
            )
            return nn.Dense(WAYS)(layers()(x, None)[0])

    return plain(Deep())


def as_it_is() -> Brought:
    module = nn.Dense(WAYS)
    # The whole variables of a module without state are parameters like any others.
    return Brought(
        mj.Model(module.init, module.apply),
        lambda params, inputs, key: module.apply(params, inputs),
    )


FROM_LINEN = "`from_linen(module)`"
FROZEN = "`from_linen(module, frozen=...)`"
TRIALS = (
    Trial("linen, perceptron", perceptron, FROM_LINEN, fast=True),
    Trial("linen, dropout", dropout, FROM_LINEN, "a mask a task and step", draws=True),
    Trial("linen, batch norm", batch_norm, FROM_LINEN, "the batch, in both modes", shares=True),
    Trial("linen, trained batch norm", averages, FROZEN, "averages stay"),
    Trial(
        "linen, `train` without a default",
        one_flag,
        FROM_LINEN,
        "dropout and batch norm are told apart",
        draws=True,
        shares=True,
    ),
    Trial("linen, spectral norm", spectral_norm, FROZEN, "refused without"),
    Trial("linen, LSTM", lstm, FROM_LINEN, sample=trial_episodes.sequences),
    Trial(
        "linen, transformer",
        transformer,
        FROM_LINEN,
        "inputs `{ids, mask}`",
        sample=trial_episodes.tokens,
        draws=True,
    ),
    Trial(
        "linen, LoRA",
        low_rank,
        FROM_LINEN,
        '`adapt="lora_*"`',
        options={"adapt": "lora_*"},
        moves=lambda path: path.startswith("lora"),
    ),
    Trial(
        "linen, FiLM",
        modulated,
        FROM_LINEN,
        '`adapt=["film_scale", "film_offset"]`',
        options={"adapt": ["film_scale", "film_offset"]},
        moves=lambda path: path.startswith("film"),
    ),
    Trial(
        "linen, packed graphs",
        graph_net,
        FROM_LINEN,
        "padded as inputs, packed inside",
        sample=trial_episodes.graphs,
    ),
    Trial(
        "linen, two heads",
        two_heads,
        FROM_LINEN,
        "outputs and targets are dictionaries, one own loss",
        sample=trial_episodes.several_targets,
        loss=two_losses,
        options={"loss_fn": two_losses_an_item},
    ),
    Trial(
        "linen, a module that takes `weights`",
        takes_weights,
        FROM_LINEN,
        "leaves out padding itself",
        sample=trial_episodes.padded_vectors,
        shares=True,
    ),
    Trial("linen, residual block", residual, FROM_LINEN, sample=trial_episodes.images),
    Trial("linen, `nn.remat`", rematerialised, FROM_LINEN, draws=True),
    Trial("linen, `nn.scan` over layers", scanned, FROM_LINEN),
    Trial(
        "linen, without an adapter",
        as_it_is,
        "`Model(module.init, module.apply)`",
        "for modules that neither draw nor keep state",
    ),
)
