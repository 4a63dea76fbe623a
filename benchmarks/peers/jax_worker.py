"""The contenders in JAX, one a process: `python jax_worker.py {metajax,naive} BYTES`."""

import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import naive_jax
import numpy as np
import optax
from jax_names import from_tree, to_tree
from protocol import Arrays, Case, Program, serve

import metajax as mj


def build_metajax(case: Case, params: Arrays, episodes: Arrays) -> Program:
    """The library as its users have it: a learner's loss through `meta_gradient`."""
    widths = [len(array) for name, array in params.items() if name.endswith("/bias")]
    if case.network == "perceptron":
        model = mj.models.mlp(widths)
    elif case.network == "stride":
        model = mj.models.strided_conv_net(widths[-1], filters=widths[0])
    else:
        model = mj.models.max_pool_conv_net(widths[-1], filters=widths[0])
    learner = mj.maml(
        model,
        inner=optax.sgd(case.rate),
        num_steps=case.steps,
        first_order=case.first_order,
        loss_fn=mj.squared_error if case.regression else mj.cross_entropy,
        backward=mj.Backward(unroll=True),
    )

    def meta_gradient(params: Any, episode: mj.Episode, keys: jax.Array) -> Any:
        return mj.meta_gradient(learner.loss, params, episode, keys, chunk_size=case.chunk_size)[0]

    xs, ys, xq, yq = (jnp.asarray(episodes[name]) for name in ("xs", "ys", "xq", "yq"))
    episode = mj.Episode(mj.Examples(xs, ys), mj.Examples(xq, yq))
    keys = mj.task_keys(jax.random.key(0), len(xs))
    template = jax.eval_shape(learner.init, jax.random.key(0), xs[0])
    return _program(meta_gradient, (to_tree(params, template), episode, keys), from_tree)


def build_naive(case: Case, params: Arrays, episodes: Arrays) -> Program:
    """See `naive_jax`."""
    gradient = naive_jax.meta_gradient(
        case.network, case.rate, case.steps, first_order=case.first_order
    )
    return _program(gradient, (params, episodes), lambda tree: jax.tree.map(np.asarray, tree))


def _program(
    function: Callable[..., Any], arguments: tuple, export: Callable[[Any], Arrays]
) -> Program:
    compiled = jax.jit(function)
    arguments = jax.device_put(arguments)
    return Program(lambda: jax.block_until_ready(compiled(*arguments)), export)


if __name__ == "__main__":
    contender, memory = sys.argv[1:]
    builder = {"metajax": build_metajax, "naive": build_naive}[contender]

    def build(case: Case, params: Arrays, episodes: Arrays) -> Program:
        jax.config.update("jax_enable_x64", case.precision == "float64")
        return builder(case, params, episodes)

    serve(build, int(memory))
