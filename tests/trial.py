"""What a trial of somebody's model is, and the same steps written by hand."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import oracles
import trial_episodes
from trial_episodes import Sampler

import metajax as mj
from metajax.keys import fit_key, query_key, step_keys
from metajax.types import Array, Episode, Key, Outputs, Params, Targets

STEPS = 2
Apply = Callable[[Params, Any, Key | None], Outputs]


class Brought(NamedTuple):
    """What somebody has.

    Attributes:
      model: as it gets into the library.
      by_hand: `(params, inputs, key) -> outputs`, written on the framework itself; without a key it
        draws nothing.
    """

    model: mj.Model
    by_hand: Apply


class Trial(NamedTuple):
    """A model of somebody's, to be meta-trained as it is.

    Attributes:
      name: in the table of the documentation, as are `how` and `notes`.
      bring: makes it. What it is made with is imported there.
      how: how it gets in.
      notes: what else is to be known.
      needs: a package that may be missing.
      sample: its episodes.
      loss: `(outputs, targets) -> []`, by hand.
      options: of `maml`.
      moves: by hand, whether a step moves the parameter of a path.
      draws: whether it draws, with a key.
      shares: whether outputs depend on the other items.
      rate: the inner rate.
      fast: whether it is among the tests that run by default.
    """

    name: str
    bring: Callable[[], Brought]
    how: str
    notes: str = ""
    needs: str | None = None
    sample: Sampler = trial_episodes.vectors
    loss: Callable[[Outputs, Targets], Array] = oracles.mean_cross_entropy
    options: Mapping[str, Any] = MappingProxyType({})
    moves: Callable[[str], bool] = lambda path: True
    draws: bool = False
    shares: bool = False
    rate: float = 0.2
    fast: bool = False


def meta_loss(
    trial: Trial, by_hand: Apply, params: Params, episode: Episode, key: Key | None
) -> tuple[Array, Outputs]:
    """The query loss after two steps, one after another, and the outputs."""

    def loss(params: Params, examples: Any, key: Key | None) -> tuple[Array, Outputs]:
        outputs = by_hand(params, examples.inputs, key)
        return trial.loss(outputs, examples.targets), outputs

    def moved(path: Any, parameter: Array, slope: Array) -> Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return parameter - trial.rate * slope if trial.moves(name) else parameter

    keys = step_keys(fit_key(key), STEPS)
    for step in range(STEPS):
        drawn = None if keys is None else keys[step]
        slopes = jax.grad(loss, has_aux=True)(params, episode.support, drawn)[0]
        params = jax.tree_util.tree_map_with_path(moved, params, slopes)
    return loss(params, episode.query, query_key(key))
