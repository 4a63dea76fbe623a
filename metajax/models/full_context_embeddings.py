r"""Full Context Embeddings (Vinyals et al. 2016, section 2.1.2 and appendix A.1, A.2).

Support, a bidirectional LSTM over the items in order with a skip connection:

.. math::  g(x_i, S) = \overrightarrow{h}_i + \overleftarrow{h}_i + g'(x_i)

Query, `attLSTM`, K read steps from :math:`c_0 = 0` and :math:`h_0 = 0` or :math:`h_0 = f'(x)`:

.. math::

  r_{k-1} &= \sum_i \text{softmax}_i(h_{k-1}^T g(x_i)) \, g(x_i) \\
  \hat{h}_k, c_k &= \text{LSTM}(f'(x), [h_{k-1}, r_{k-1}], c_{k-1}) \\
  h_k &= \hat{h}_k + f'(x)

(equations 3 to 6) and :math:`f(x, S) = h_K`. The LSTM's *input* is f'(x) and its *recurrent state*
the concatenation [h, r], twice as wide as its output. Neither :math:`h_0` nor K is published: both
are choices. From 0 the first read is the mean of the support, from f'(x) attention to it.
"""

from typing import Any, Literal, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax.checks.numbers import check_integers
from metajax.kinds import check_words
from metajax.metric import dot_products, log_attention
from metajax.types import Array, FullContext, Key, Params


def full_context(
    features: int, *, read_steps: int = 5, start: Literal["zeros", "embedding"] = "zeros"
) -> FullContext:
    """Full Context Embeddings for an encoder of width `features`.

    The LSTM cells are Flax's. Its cell ties the width of the recurrent state to that of the output;
    here the state [h, r] is twice as wide. A gate is affine in everything it sees,
    `W f'(x) + U [h, r] + b` with `U = [U_h, U_r]`, so h stands in the cell's state and r beside
    f'(x) in its input: the same function, the columns of one matrix filed under two names.

    Args:
      features: width of the encoder's outputs, 1 or more.
      read_steps: K, 0 or more; the authors do not publish theirs. Public codes have 5
        (facebookresearch/low-shot-shrink-hallucinate), 2 (oscarknagg/few-shot), or one a support
        item (wyharveychen/CloserLookFewShot). Static.
      start: the first h, which is a choice too, since the paper says only how every h follows from
        the one before: `"zeros"`, so that the first read is the mean of the support, or the
        query's own `"embedding"` f'(x), as in the three public codes.

    Returns:
      A `FullContext` for `matching_network`.

    Raises:
      TypeError: a number is not an integer.
      ValueError: a number is out of range, or `start` another word. From its functions: embeddings
        of another width.
    """
    check_integers(1, features=features)
    check_integers(0, read_steps=read_steps)
    check_words(("zeros", "embedding"), start=start)
    cell = nn.LSTMCell(features)

    def init(key: Key) -> Params:
        forward, backward, attention = jax.random.split(key, 3)
        state = (jnp.zeros(features), jnp.zeros(features))

        def one(key: Key, width: int) -> Params:
            return cell.init(key, state, jnp.zeros(width))["params"]

        return {
            "forward": one(forward, features),
            "backward": one(backward, features),
            "attention": one(attention, 2 * features),
        }

    def run_cell(params: Params, state: tuple[Array, Array], inputs: Array) -> tuple[Array, Array]:
        """The cell's next (c, h); its output is h."""
        return cast(Any, cell.apply({"params": params}, state, inputs))[0]

    def check(embeddings: Array) -> None:
        if embeddings.shape[-1] != features:
            raise ValueError(
                f"the embeddings have {embeddings.shape[-1]} features but full_context was made "
                f"for {features}; expected full_context(features={embeddings.shape[-1]})"
            )

    def run(params: Params, items: Array, kept: Array, *, reverse: bool) -> Array:
        """Outputs `[items, features]` of an LSTM that steps over the items not kept."""
        zeros = jnp.zeros(features, jnp.result_type(items, *jax.tree.leaves(params)))

        def step(state: tuple[Array, Array], item: tuple[Array, Array]) -> tuple:
            inputs, keep = item
            new = run_cell(params, state, inputs)
            return jax.tree.map(lambda a, b: jnp.where(keep, a, b), new, state), new[1]

        return jax.lax.scan(step, (zeros, zeros), (items, kept), reverse=reverse)[1]

    def support(params: Params, embeddings: Array, weights: Array | None) -> Array:
        check(embeddings)
        kept = jnp.ones(embeddings.shape[0], bool) if weights is None else weights > 0
        forward = run(params["forward"], embeddings, kept, reverse=False)
        backward = run(params["backward"], embeddings, kept, reverse=True)
        return forward + backward + embeddings

    def query(params: Params, queries: Array, support: Array, weights: Array | None) -> Array:
        check(queries)

        def step(state: tuple[Array, Array], _: None) -> tuple:
            c, h = state
            attention = jnp.exp(log_attention(dot_products(h, support), weights))
            inputs = jnp.concatenate([queries, dot_products(attention, support.T)], axis=-1)
            c, output = run_cell(params["attention"], (c, h), inputs)
            return (c, output + queries), None

        zeros = jnp.zeros(queries.shape, jnp.result_type(queries, *jax.tree.leaves(params)))
        first = zeros + queries if start == "embedding" else zeros
        (_, h), _ = jax.lax.scan(step, (zeros, first), length=read_steps)
        return h if read_steps else queries

    return FullContext(init, support, query)
