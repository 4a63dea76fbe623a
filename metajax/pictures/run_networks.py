"""Trained runs in the place of a network and a head: their learner takes pictures themselves."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.pictures.heads import Head, Trained, own_head
from metajax.pictures.reading import Look
from metajax.pictures.record_fields import Fields
from metajax.recipes import Recipe, as_json, build, from_json
from metajax.recipes.records import OF_FIXED_WAYS
from metajax.types import Array, Learner, Params

_MOST_STEPS = 1000  # That a file may ask for; the largest test of a paper takes 50.


@dataclasses.dataclass(frozen=True, eq=False)
class RunNetwork:
    """The learner of a run, with its parameters. Its items are pictures of 8 bits.

    Attributes:
      look: see `Encoder`.
      recipe: of which the learner is built.
      own: its parameters.
    """

    look: Look
    recipe: Recipe
    own: Params

    @property
    def params(self) -> Params:
        """Nothing: the learner has the parameters."""
        return ()

    def embed(self, params: Params, images: Array) -> Array:
        """Floats in `[0, 1]`, see `Encoder`."""
        del params
        return self.look.seen(images).astype(jnp.float32) / 255

    def items(self, images: np.ndarray, cache: Any) -> np.ndarray:
        """See `Encoder`."""
        del cache
        return np.array(self.look.seen(images))  # Those given may change, or be a cache.

    def head(self, ways: int) -> Head:
        """The learner as it is tested, for as many classes, or for the recipe's number of them.

        Where the test draws mini-batches of the support set, all of it is taken at every step: the
        same pictures give the same answers.
        """
        return own_head(Trained(_tester(self.recipe, ways), self.own))

    def record(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What a file has of it: arrays by name, and JSON."""
        leaves = jax.tree.leaves(self.own)
        arrays = {f"network/{index}": np.asarray(leaf) for index, leaf in enumerate(leaves)}
        return arrays, {"recipe": as_json(self.recipe)}


@functools.lru_cache(maxsize=8)
def _tester(recipe: Recipe, ways: int) -> Learner:
    """Made once, so that its programs are compiled once. It draws no mini-batches."""
    testing = dataclasses.replace(recipe.testing, batch_size=None)
    if recipe.training.algorithm not in OF_FIXED_WAYS:
        drawing = dataclasses.replace(testing.drawing, ways=ways)
        testing = dataclasses.replace(testing, drawing=drawing)
    return build(dataclasses.replace(recipe, testing=testing)).tester


def network_of_record(arrays: Mapping[str, np.ndarray], fields: Fields, look: Look) -> RunNetwork:
    """What `RunNetwork.record` gave.

    Raises:
      ValueError: the recipe is none, or the arrays are not its learner's parameters.
    """
    try:
        recipe = from_json(fields.json("recipe"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{fields.where} has a recipe that is none: {error}") from error
    if recipe.training.data == "sinusoids" or recipe.testing.steps > _MOST_STEPS:
        fields.refuse(
            f"has a recipe of {recipe.training.data} and {recipe.testing.steps} steps",
            f"one of pictures and at most {_MOST_STEPS} steps",
        )
    example = jax.ShapeDtypeStruct((1, *look.shape), jnp.float32)
    shapes = jax.eval_shape(build(recipe).tester.init, jax.random.key(0), example)
    leaves, structure = jax.tree.flatten(shapes)
    found = []
    for index, leaf in enumerate(leaves):
        array = arrays.get(f"network/{index}", np.array([]))
        fits = array.shape == leaf.shape and array.dtype == leaf.dtype
        if not fits or not np.isfinite(array).all():
            fields.refuse(
                f"has {array.dtype}{[*array.shape]} as its array network/{index}",
                f"finite {leaf.dtype}{[*leaf.shape]}",
            )
        found.append(array)
    return RunNetwork(look, recipe, jax.tree.unflatten(structure, found))
