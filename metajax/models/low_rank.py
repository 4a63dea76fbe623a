"""Low-rank adapters: Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen, "LoRA: Low-Rank Adaptation
of Large Language Models", ICLR 2022, arXiv 2106.09685.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.checks.numbers import check_integers, check_numbers
from metajax.checks.objects import check_model
from metajax.inner.selection import Selection, check_selection, chosen_leaves, named_paths
from metajax.types import Array, Inputs, Key, Model, Outputs, Params, Sharing, State


class LowRankFactors(NamedTuple):
    """Two matrices of which the product is added to a parameter.

    Attributes:
      a: `[rows, rank]`, random at the start.
      b: `[rank, columns]`, 0 at the start.
    """

    a: Array
    b: Array


class LoRAParams(NamedTuple):
    """The parameters of a model with low-rank adapters.

    Attributes:
      model: the model's own.
      factors: the same pytree with `LowRankFactors` in the place of each adapted leaf, and None in
        the other places.
    """

    model: Params
    factors: Params


def with_lora(model: Model, *, rank: int, where: Selection, scale: float = 1.0) -> Model:
    """`model` with low-rank adapters (Hu et al. 2022): `W + scale / rank * A B` in the place of W.

    Its parameters are `LoRAParams`. A starts normal, with columns of about length 1, and B at 0
    (section 4.1), so that it starts as the model itself. Tasks that adapt the factors alone:

    >>> import optax, metajax
    >>> net = metajax.models.with_lora(
    ...     metajax.models.mlp((64, 5)), rank=4, where="*/kernel")
    >>> learner = metajax.maml(net, inner=optax.sgd(0.1), num_steps=5, adapt="factors")

    Over a pre-trained network nothing else is learned either with
    `metajax.models.frozen(with_lora(...), LoRAParams(params, factors), learn="factors")`, where
    `init` of the model with adapters makes the factors.

    A leaf of more than two axes is a matrix whose rows are its first axes and whose columns are the
    others, cut where A and B need the fewest numbers, the first such place: a kernel `[height,
    width, channels in, channels out]` before its last axis as a rule, one `[out, in, height,
    width]` after its first. So do kernels of layers that are scanned, `[layers, in, out]`: the
    layers share B and have rows of A of their own.

    Args:
      model: any model.
      rank: of A B, up to the smaller side of every matrix; static.
      where: which parameters have adapters, by path or predicate, see `InnerLoop`; each of two axes
        or more: `"*/kernel"`, or `lambda path, leaf: len(leaf.shape) > 1` (Equinox's biases of
        convolutions have three).
      scale: alpha of the paper, above 0. With B at 0, it acts as a rate of the factors.

    Returns:
      A `Model`. What items share, and statistics, are the model's own.

    Raises:
      TypeError: `model` is no `Model`, `rank` no integer, `where` no `Selection` or `scale` no
        number.
      ValueError: `rank` is below 1, or `scale` not a finite number above 0. From `init`: `where`
        selects nothing, or a leaf of fewer than two axes, of no floats, or smaller than `rank`.
    """
    check_model(model, "model")
    check_integers(1, rank=rank)
    if where is None:
        raise TypeError("where=None; expected a path such as '*/kernel', see Selection")
    check_selection(where, name="where")
    check_numbers(lambda x: 0 < x < math.inf, "a finite number above 0", scale=scale)
    share = float(scale) / rank  # One of NumPy's would have a dtype of its own.

    def init(key: Key, inputs: Inputs) -> LoRAParams:
        of_model, of_factors = jax.random.split(key)
        params = model.init(of_model, inputs)
        leaves, structure = jax.tree.flatten(params)
        paths, chosen = chosen_leaves(params, where, "where")
        if not any(chosen):
            raise ValueError(
                f"where={where!r} selects no parameter; expected some of {named_paths(paths)}"
            )
        keys = jax.random.split(of_factors, len(leaves))
        factors = [
            _factors(leaf_key, path, leaf, rank) if wanted else None
            for leaf_key, path, leaf, wanted in zip(keys, paths, leaves, chosen, strict=True)
        ]
        return LoRAParams(params, jax.tree.unflatten(structure, factors))

    def whole(params: LoRAParams) -> Params:
        leaves, structure = jax.tree.flatten(params.model)
        factors = structure.flatten_up_to(params.factors)
        merged = [
            leaf if pair is None else leaf + share * _product(pair).reshape(leaf.shape)
            for leaf, pair in zip(leaves, factors, strict=True)
        ]
        return jax.tree.unflatten(structure, merged)

    def apply(
        params: LoRAParams, inputs: Inputs, weights: Array | None, key: Key | None
    ) -> Outputs:
        return model.apply(whole(params), inputs, weights, key)

    def sharing(params: LoRAParams, inputs: Inputs) -> Sharing:
        return model.sharing(whole(params), inputs)

    def statistics(
        params: LoRAParams, state: State, inputs: Inputs, weights: Array | None
    ) -> State:
        assert model.statistics is not None
        return model.statistics(whole(params), state, inputs, weights)

    kept = None if model.statistics is None else statistics
    return Model(init, apply, sharing=sharing, statistics=kept)


def _factors(key: Key, path: str, leaf: Array, rank: int) -> LowRankFactors:
    """The factors of a parameter, with which it starts as it is."""
    shape, dtype = jnp.shape(leaf), jnp.result_type(leaf)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"where selects {path}, which holds {dtype}; expected floats alone")
    if len(shape) < 2:
        raise ValueError(
            f"where selects {path} of shape {shape}; expected parameters of two axes or more, such "
            "as lambda path, leaf: len(leaf.shape) > 1"
        )
    cuts = [(math.prod(shape[:axis]), math.prod(shape[axis:])) for axis in range(1, len(shape))]
    rows, columns = min(cuts, key=sum)
    if rank > min(rows, columns):
        raise ValueError(
            f"rank={rank}, but {path} of shape {shape} is a matrix of {rows} by {columns}; "
            f"expected {min(rows, columns)} at most, or a where without it"
        )
    a = jax.random.normal(key, (rows, rank), dtype) / math.sqrt(rows)
    return LowRankFactors(a, jnp.zeros((rank, columns), dtype))


def _product(factors: LowRankFactors) -> Array:
    return jnp.matmul(factors.a, factors.b, precision=jax.lax.Precision.HIGHEST)
