"""Arithmetic of a program, and how fast this machine does arithmetic at all."""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr


def count_operations(function: Callable[..., Any], *args: Any) -> float:
    """Additions and multiplications in the matrix products and convolutions of `function(*args)`.

    Two a multiply-add. A scan counts as often as it runs, a branch as its dearest case, and the
    body of a `while_loop`, which does not say how often it runs, once. Products with the zeros that
    a convolution puts around its input and between its items do not count: in derivatives of
    convolutions they are most of the window.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Jaxpr) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        kind, params = equation.primitive.name, equation.params
        if kind == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            total += 2 * _size(equation.invars[0], contracted) * _size(equation.outvars[0])
        elif kind == "conv_general_dilated":
            total += 2 * _convolution_products(equation)
        elif kind.startswith("convolution"):
            total += 2 * _own_convolution_products(equation)
        elif kind == "cond":
            total += max(_count(branch) for branch in _parts(params["branches"]))
        else:
            times = params["length"] if kind == "scan" else 1
            total += times * sum(_count(part) for part in _parts(params.values()))
    return total


def _size(variable: Any, axes: Iterable[int] | None = None) -> int:
    shape = variable.aval.shape
    return math.prod(shape if axes is None else (shape[axis] for axis in axes))


def _convolution_products(equation: Any) -> int:
    """Multiplications of an input with a weight, both of them there."""
    params = equation.params
    inputs, weights, outputs = params["dimension_numbers"]
    images, kernel = (variable.aval.shape for variable in equation.invars)
    result = equation.outvars[0].aval.shape
    products = result[outputs[0]] * result[outputs[1]] * kernel[weights[1]]
    for axis, stride in enumerate(params["window_strides"]):
        places = stride * np.arange(result[outputs[2 + axis]])
        taps = params["rhs_dilation"][axis] * np.arange(kernel[weights[2 + axis]])
        reached = places[:, None] + taps - params["padding"][axis][0]
        gap, size = params["lhs_dilation"][axis], images[inputs[2 + axis]]
        products *= int(((reached >= 0) & (reached % gap == 0) & (reached < gap * size)).sum())
    return products


def _own_convolution_products(equation: Any) -> int:
    """The same for metajax's convolution and its two gradients, which do equal work."""
    window = equation.params["window"]
    one, other = (variable.aval.shape for variable in equation.invars)
    tasks, items = one[:2]
    of_weights = equation.primitive.name == "convolution_weight_gradient"
    channels, filters = (one[-1], other[-1]) if of_weights else other[-2:]
    products = tasks * items * channels * filters
    for size, kernel, outer, (before, _) in zip(
        window.images, window.kernel, window.outputs, window.padding, strict=True
    ):
        reached = np.arange(outer)[:, None] + np.arange(kernel) - before
        products *= int(((reached >= 0) & (reached < size)).sum())
    return products


def _parts(values: Any) -> Iterator[Jaxpr]:
    for value in values:
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _parts(value)


class Rate(NamedTuple):
    """Billions of operations a second."""

    best: float
    median: float


def matrix_product_rate(size: int = 2048, runs: int = 9) -> Rate:
    """What a compiled single-precision product of two square matrices reaches here."""
    left, right = jax.random.normal(jax.random.key(0), (2, size, size), jnp.float32)
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(left, right))
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        jax.block_until_ready(product(left, right))
        times.append(time.perf_counter() - started)
    work = 2 * size**3 / 1e9
    return Rate(work / min(times), work / statistics.median(times))
