"""Which random number comes from which key: the whole scheme, in one place.

    a run's key: TrainState.key, which never changes
    |-- step -- task i ............. the learner's key of a task     learner_keys
    `-- EPISODES -- step -- task i . the key of its episode          episode_keys
    an evaluation's key: key(seed)
    `-- episode i, cut in two ...... episode and learner             evaluation_keys

    a learner's key
    |-- FIT ........................ adaptation                      fit_key
    |   |-- cut by steps ........... one a step (maml)               step_keys
    |   |-- START .................. what comes before them
    |   |                            (proto_maml's prototypes)       start_key
    |   |-- STEPS, cut by steps .... one a step (reptile)            step_keys
    |   `-- BATCHES -- pass i ...... mini-batches (reptile)          batches_key
    `-- QUERY ...................... the query loss, alike at every
                                     inner step                      query_key
    a metric learner's key ......... the order of the support set (full context)
    `-- ENCODERS, cut in 3 ......... dropout of support, queries,
                                     comparison                      encoder_keys

    a policy gradient's key, of a step or of the queries
    `-- cut in two ................. beginnings, one a roll-out; the moves, one key each, cut in
                                     two: actions, and the environment's, one a roll-out

    an episode's key
    |-- cut in parts ............... classes, items, turns (image_episodes); ways, classes, size,
    |                                weights, items (varying_episodes); amplitude, phase, inputs
    |                                (sinusoid_episodes)
    `-- AUGMENTATION -- image i .... resampling, movement, noise     augmentation_key

With JAX's generator `split(key, n)[i]` is `fold_in(key, i)`: what is folded into a key that is cut
in n parts as well has to be n or more. Folding in an index, a step's or a task's, makes what is
drawn independent of how many others there are: of the iterations a run is cut into, the chunks, the
devices, the processes. A name in capitals is a number folded in that is no step, task or image.
"""

import jax
import jax.numpy as jnp
from jax import export

from metajax.checks.numbers import check_integers
from metajax.kinds import check_key, is_array
from metajax.types import Array, Key

_EPISODES = 2**32 - 1
_FIT, _QUERY = 0, 1
_STEPS, _BATCHES = 0, 1
_START = _ENCODERS = _AUGMENTATION = 2**31


def task_keys(key: Key, tasks: int, *, first: int | Array = 0) -> Key:
    """One key a task, by its index in the whole meta-batch.

    The keys do not depend on how the batch is cut over chunks, devices or processes.

    Args:
      key: the meta-step's key.
      tasks: number of tasks at hand; static.
      first: index of the first of them in the whole meta-batch.

    Returns:
      `[tasks]` keys.

    Raises:
      TypeError: `key` is none, or a number no integer.
      ValueError: `key` is several, or a number below 0.
    """
    check_key(key)
    if not export.is_symbolic_dim(tasks):  # A program that is exported for any number of them.
        check_integers(0, tasks=tasks)
    if not (is_array(first) and jnp.issubdtype(jnp.result_type(first), jnp.integer)):
        check_integers(0, first=first)
    return jax.vmap(lambda task: jax.random.fold_in(key, task))(first + jnp.arange(tasks))


def learner_keys(run: Key, step: int | Array, tasks: int, *, first: int | Array = 0) -> Key:
    """`[tasks]` keys of a run's meta-step, for the learner; see `task_keys`."""
    return task_keys(jax.random.fold_in(run, step), tasks, first=first)


def episode_keys(run: Key, step: int | Array, tasks: int, *, first: int | Array = 0) -> Key:
    """`[tasks]` keys of a run's meta-step, for the sampler; see `task_keys`."""
    return learner_keys(jax.random.fold_in(run, _EPISODES), step, tasks, first=first)


def evaluation_keys(seed: int, episodes: int, *, first: int = 0) -> tuple[Key, Key]:
    """`[episodes]` keys for the sampler, and as many for the learner."""
    evaluation = jax.random.key(seed)
    return jax.vmap(lambda index: evaluation_pair(evaluation, index))(first + jnp.arange(episodes))


def evaluation_pair(evaluation: Key, index: int | Array) -> tuple[Key, Key]:
    """One key for the sampler and one for the learner, of an episode of an evaluation's key."""
    sample_key, learner_key = jax.random.split(jax.random.fold_in(evaluation, index))
    return sample_key, learner_key


def fit_key(key: Key | None) -> Key | None:
    """A learner's key for adaptation; None of None."""
    return None if key is None else jax.random.fold_in(key, _FIT)


def query_key(key: Key | None) -> Key | None:
    """A learner's key for the query loss; None of None."""
    return None if key is None else jax.random.fold_in(key, _QUERY)


def step_keys(key: Key | None, num_steps: int, *, batches: bool = False) -> Key | None:
    """`[num_steps]` keys of an inner loop; None of None.

    Args:
      key: of the adaptation.
      num_steps: their number; static.
      batches: whether mini-batches are drawn beside them, with `batches_key`.
    """
    if key is None:
        return None
    return jax.random.split(jax.random.fold_in(key, _STEPS) if batches else key, num_steps)


def batches_key(key: Key) -> Key:
    """The key of an adaptation from which mini-batches are drawn."""
    return jax.random.fold_in(key, _BATCHES)


def start_key(key: Key | None) -> Key | None:
    """The key of an adaptation for what comes before its steps; None of None."""
    return None if key is None else jax.random.fold_in(key, _START)


def encoder_keys(key: Key | None) -> tuple[Key | None, Key | None, Key | None]:
    """A metric learner's keys for support, queries and comparison; None of None."""
    if key is None:
        return None, None, None
    first, second, third = jax.random.split(jax.random.fold_in(key, _ENCODERS), 3)
    return first, second, third


def augmentation_key(key: Key) -> Key:
    """An episode's key for its augmentation."""
    return jax.random.fold_in(key, _AUGMENTATION)
