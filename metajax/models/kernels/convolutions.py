"""A convolution whose derivatives of every order are fast, with weights of its own for every task.

On CPU XLA runs a stock convolution's weight gradient naively inside `jax.lax.scan`, and everything
about it naively under `jax.vmap` over weights.

With stride 1 forward, input gradient and weight gradient are three bilinear primitives here, each
one's two transposes being the other two. So every derivative of any order, forward or reverse, is
one of the three again, in the form that is fast for it. With larger strides the outputs are few,
and a copy of the patches, which forward and weight gradient share, and one matrix product do best.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from metajax.checks.parameters import varying_axes
from metajax.kinds import arrays_of
from metajax.models.kernels import convolution_forms as forms
from metajax.models.kernels.convolution_forms import Window
from metajax.types import Array


def convolution(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: object = None,
    feature_group_count: int = 1,
    precision: lax.PrecisionLike = None,
) -> Array:
    """Two-dimensional convolution, fast for per-task weights, and so are its derivatives.

    Takes the arguments of `jax.lax.conv_general_dilated` that Flax passes, so it can be given to
    any `flax.linen.Conv` as `conv_general_dilated=convolution`. Images are channels-last.

    Args:
      lhs: `[items, height, width, channels]` images.
      rhs: `[kernel height, kernel width, channels, filters]` weights.
      window_strides: two strides, 1 or more.
      padding: `"SAME"`, `"VALID"` or two pairs (before, after).
      lhs_dilation: only 1 is supported.
      rhs_dilation: only 1 is supported.
      dimension_numbers: what Flax passes for channels-last images; not read.
      feature_group_count: only 1 is supported.
      precision: of the products.

    Returns:
      `[items, new height, new width, filters]`.

    Raises:
      ValueError: the images are not two-dimensional, the weights do not fit them, or an unsupported
        option is asked for.
    """
    del dimension_numbers
    lhs, rhs = arrays_of(lhs=lhs, rhs=rhs)
    if lhs.ndim != 4:
        raise ValueError(
            f"convolution got images of shape {lhs.shape}; expected [items, height, width, "
            "channels]"
        )
    if rhs.ndim != 4 or rhs.shape[2] != lhs.shape[3]:
        raise ValueError(
            f"convolution got images of shape {lhs.shape} and weights of shape {rhs.shape}; "
            f"expected weights [kernel height, kernel width, {lhs.shape[3]}, filters]"
        )
    dilations = (*(lhs_dilation or ()), *(rhs_dilation or ()))
    if any(dilation != 1 for dilation in dilations) or feature_group_count != 1:
        raise ValueError(
            f"convolution got lhs_dilation={lhs_dilation}, rhs_dilation={rhs_dilation}, "
            f"feature_group_count={feature_group_count}; expected 1 for all of them: leave "
            "conv_general_dilated at its default for such a layer"
        )
    window = forms.window_of(lhs, rhs, window_strides, padding, precision)
    dtype = jnp.result_type(lhs, rhs)
    lhs, rhs = lhs.astype(dtype), rhs.astype(dtype)
    if 0 in (*lhs.shape, *rhs.shape, *window.outputs):
        return forms.stock(lhs, rhs, window)
    if window.strides != (1, 1) or is_placed(lhs) or is_placed(rhs):
        return forms.patches_times_weights(lhs, rhs, window)
    return _forward.bind(lhs[None], rhs[None], window=window)[0]


def is_placed(x: Array) -> bool:
    """Whether the array's type says how it lies over devices: ours would have to say it too.

    So it is under `jax.shard_map` with its check and on meshes with explicit axes.
    """
    spec = getattr(getattr(jax.typeof(x), "sharding", None), "spec", ())
    return bool(varying_axes(x)) or any(axis is not None for axis in spec)


# The primitives' operands and results have a leading axis of tasks, each with weights of its own:
# images [tasks, items, height, width, channels], weights [tasks, kernel height, kernel width,
# channels, filters], outputs [tasks, items, new height, new width, filters].
_forward: Any = Primitive("convolution")
_input_gradient: Any = Primitive("convolution_input_gradient")
_weight_gradient: Any = Primitive("convolution_weight_gradient")

# Each is linear in either operand; the transposes are the other two.
ad.defbilinear(
    _forward,
    lambda outputs, images, weights, *, window: _input_gradient.bind(
        outputs, weights, window=window
    ),
    lambda outputs, images, weights, *, window: _weight_gradient.bind(
        images, outputs, window=window
    ),
)
ad.defbilinear(
    _input_gradient,
    lambda images, outputs, weights, *, window: _forward.bind(images, weights, window=window),
    lambda images, outputs, weights, *, window: _weight_gradient.bind(
        images, outputs, window=window
    ),
)
ad.defbilinear(
    _weight_gradient,
    lambda weights, images, outputs, *, window: _input_gradient.bind(
        outputs, weights, window=window
    ),
    lambda weights, images, outputs, *, window: _forward.bind(images, weights, window=window),
)


def _batch(primitive: Any, args: Sequence[Array], axes: Sequence[Any], **params: Any) -> Any:
    """`vmap`: its axis joins the tasks, or the items where the weights are shared."""
    one, other = args
    if axes[1] is None and primitive is not _weight_gradient:
        one = jnp.moveaxis(one, axes[0], 1)
        size, items = one.shape[1:3]
        merged = one.reshape(one.shape[0], size * items, *one.shape[3:])
        out = primitive.bind(merged, other, **params)
        return out.reshape(out.shape[0], size, items, *out.shape[2:]), 1
    size = next(x.shape[axis] for x, axis in zip(args, axes, strict=True) if axis is not None)

    def merge(x: Array, axis: int | None) -> Array:
        x = jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
        return x.reshape(size * x.shape[1], *x.shape[2:])

    out = primitive.bind(*map(merge, args, axes), **params)
    return out.reshape(size, out.shape[0] // size, *out.shape[1:]), 0


def _register(
    primitive: Any,
    shape: Callable[[Any, Any, Window], tuple[int, ...]],
    stock: Callable[[Array, Array, Window], Array],
    cpu: Callable[[Array, Array, Window], Array],
    many: Callable[[Array, Array, Window], Array],
) -> None:
    """Gives `primitive` its result's shape, and its forms: for one task (on CPU), for many."""

    def run(fast: Callable, one: Array, other: Array, *, window: Window) -> Array:
        if one.shape[0] == 1:
            return fast(one[0], other[0], window)[None]
        return jax.vmap(lambda one, other: many(one, other, window))(one, other)

    def abstract(one: Any, other: Any, *, window: Window) -> Any:
        tasks = one.shape[0]
        return one.update(shape=(tasks, *shape(one.shape[1:], other.shape[1:], window)))

    primitive.def_abstract_eval(abstract)
    primitive.def_impl(jax.jit(primitive.bind, static_argnames="window"))
    batching.primitive_batchers[primitive] = partial(_batch, primitive)
    mlir.register_lowering(primitive, mlir.lower_fun(partial(run, stock), multiple_results=False))
    mlir.register_lowering(
        primitive, mlir.lower_fun(partial(run, cpu), multiple_results=False), platform="cpu"
    )


_register(
    _forward,
    lambda images, weights, window: (images[0], *window.outputs, weights[-1]),
    forms.stock,
    forms.forward,
    forms.patches_times_weights,
)
_register(
    _input_gradient,
    lambda outputs, weights, window: (outputs[0], *window.images, weights[-2]),
    partial(forms.input_gradient_of, forms.stock),
    forms.input_gradient,
    partial(forms.input_gradient_of, forms.patches_times_weights),
)
_register(
    _weight_gradient,
    lambda images, outputs, window: (*window.kernel, images[-1], outputs[-1]),
    partial(forms.weight_gradient_of, forms.stock),
    forms.weight_gradient,
    partial(forms.weight_gradient_of, forms.patches_times_weights),
)
