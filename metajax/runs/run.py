"""What a run is: all that its learner is rebuilt from."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp

from metajax.checkpoint import restore_state
from metajax.checkpoint.reading import stored_steps
from metajax.kinds import check_words
from metajax.recipes.building import Built, build
from metajax.recipes.records import Recipe
from metajax.runs.own_classes import OwnClasses
from metajax.training.stopping import Stopped
from metajax.training_step import TrainState, init_state
from metajax.types import Key, Params

Which = Literal["best", "newest"]


@dataclasses.dataclass(frozen=True, repr=False)
class Run:
    """A training run, as `train_run` leaves it and `load_run` finds it.

    Attributes:
      folder: the run's folder, absolute.
      recipe: how it is trained and tested; of own classes without turns at test.
      shape: of one item, `(height, width, channels)` of images in `[0, 1]`.
      seed: of the first parameters, the episodes, and the parts of own classes.
      validate_every: iterations between two validations, or None without.
      validation_episodes: of each of them, or None.
      classes: own classes that it is trained on; None where the recipe's data set is.
      data_dir: the folder of the data sets that it was begun with, absolute; None where nothing is
        read from there.
      version: of the metajax that began it.
      digest: of what `run.json` says, which its checkpoints know.
      stopped: why the training ended that has just been, see `metajax.TrainResult`; None of a run
        that was loaded.
    """

    folder: Path
    recipe: Recipe
    shape: tuple[int, ...]
    seed: int
    validate_every: int | None
    validation_episodes: int | None
    classes: OwnClasses | None
    data_dir: str | None
    version: str
    digest: str
    stopped: Stopped | None = None

    def __repr__(self) -> str:
        """The recipe, how far it is, and where."""
        of = f"{self.step} of {self.recipe.training.iterations} iterations"
        return f"Run of {self.recipe.name}, {of}, in {str(self.folder)!r}"

    @property
    def step(self) -> int:
        """Iterations that are done and saved."""
        return max(stored_steps(self.checkpoints), default=0)

    @property
    def validated_on(self) -> Literal["accuracy", "query_loss"]:
        """The metric that chooses the best checkpoint, a loss where there is no accuracy."""
        return "query_loss" if self.recipe.training.data == "sinusoids" else "accuracy"

    @property
    def checkpoints(self) -> Path:
        """Where they lie."""
        return self.folder / "checkpoints"

    @property
    def metrics(self) -> Path:
        """The file of what was reported, a line of JSON a dispatch."""
        return self.folder / "metrics.jsonl"

    @property
    def options(self) -> dict[str, str]:
        """By which its checkpoints know it, see `metajax.Checkpoints`."""
        return {"run": self.digest}

    def built(self, record_steps: bool | Sequence[int] = False) -> Built:
        """The learner, the tester and the optimiser, see `metajax.recipes.build`.

        Args:
          record_steps: see there.
        """
        return build(self.recipe, record_steps=record_steps)

    def params(self, which: Which | None = None) -> Params:
        """Its parameters, see `state`."""
        return self.state(which).params

    def state(self, which: Which | None = None) -> TrainState:
        """A state that it has saved.

        Args:
          which: the `"newest"`, or the `"best"` at validation; None is the best where there was a
            validation, or else the newest.

        Raises:
          FileNotFoundError: nothing is saved yet, or nothing was validated.
          OSError: all checkpoints are damaged.
          ValueError: they are of another run, or `which` is another word.
        """
        if which is not None:
            check_words(Which.__args__, which=which)
        like = self._alike()
        if which is None:
            try:
                return self._restored(like, "best")
            except FileNotFoundError:  # Without a validation there is no score, yet or at all.
                which = "newest"
        return self._restored(like, which)

    def first_state(self) -> TrainState:
        """The state that it begins with, of its seed."""
        return jax.jit(self._beginning())(jax.random.key(self.seed))

    def _alike(self) -> TrainState:
        """A state of the same shapes, for which no program is compiled."""
        key = jax.random.key(0)
        shapes = jax.eval_shape(self._beginning(), key)
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)._replace(key=key)

    def _beginning(self) -> Callable[[Key], TrainState]:
        learner, _, optimizer = self.built()

        def begin(key: Key) -> TrainState:
            params_key, run_key = jax.random.split(key)
            params = learner.init(params_key, jnp.zeros((1, *self.shape)))
            return init_state(params, optimizer, run_key)

        return begin

    def _restored(self, like: TrainState, which: Which) -> TrainState:
        return restore_state(self.checkpoints, like, which=which, options=self.options)
