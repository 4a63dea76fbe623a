"""Running averages after meta-training from scratch."""

from collections.abc import Callable

import jax

from metajax.checks.numbers import check_integers
from metajax.checks.objects import check_model
from metajax.checks.parameters import check_floats, check_parameters
from metajax.given_data import as_episode
from metajax.keys import evaluation_keys
from metajax.signatures import check_takes
from metajax.types import Episode, Key, Model, Params, State


def estimate_statistics(
    model: Model,
    params: Params,
    sample: Callable[[Key], Episode],
    *,
    episodes: int = 500,
    seed: int = 0,
) -> State:
    """The running averages that training on episodes would have made.

    Meta-training normalises by the batch at hand. What comes out here makes a model that answers
    each item alone: `from_linen(module, frozen=state)` or `from_nnx(module, frozen=state)`. It is
    an exponential average with the module's own momentum, at the meta-parameters before adaptation;
    support and query set of an episode are a batch each, and items of weight 0 do not count.

    Args:
      model: from an adapter, without given running averages.
      params: its parameters.
      sample: `key -> Episode`.
      episodes: their number, 1 or more; enough of them that the initial values are forgotten.
      seed: 0 or more; the same seed draws the same episodes.

    Returns:
      The state, in the form in which adapters take it as `frozen`.

    Raises:
      TypeError: `model` is no `Model`, `sample` no sampler, or a number is no integer.
      ValueError: the model keeps no running averages, or a number is too small.
    """
    check_model(model, "model")
    check_takes(sample, "sample", "key")
    check_integers(1, episodes=episodes)
    check_integers(0, seed=seed)
    statistics = model.statistics
    if statistics is None:
        raise ValueError(
            "the model keeps no running averages; expected one that an adapter made of a module "
            "with batch normalisation, from_linen(module) say"
        )

    def updated(params: Params, state: State, key: Key) -> State:
        episode = as_episode(sample(key))
        check_parameters(jax.eval_shape(model.init, key, episode.support.inputs), params)
        for examples in episode:
            state = statistics(params, state, examples.inputs, examples.weights)
        return state

    check_floats(params)

    @jax.jit
    def run(params: Params, keys: Key) -> State:
        def step(state: State, key: Key) -> tuple[State, None]:
            return updated(params, state, key), None

        return jax.lax.scan(step, updated(params, None, keys[0]), keys[1:])[0]

    return run(params, evaluation_keys(seed, episodes)[0])
