"""From a recipe to a run's folder, begun or gone on with."""

import dataclasses
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from metajax.checkpoint import Checkpoints
from metajax.checks.numbers import check_integers, check_optional_integers, check_seeds
from metajax.checks.objects import check_instance
from metajax.checks.settings import check_flags, check_optional_paths, check_paths
from metajax.data.samplers import Place
from metajax.evaluation import evaluate
from metajax.kinds import check_optional_functions, check_words
from metajax.recipes.records import Recipe
from metajax.runs.episodes import WITHOUT_FILES, episodes_of, folder_of_data
from metajax.runs.folder import FILE, Settings, begin_run, check_same, load_run
from metajax.runs.own_classes import (
    OwnClasses,
    on_own_pictures,
    read_pictures,
    split_classes,
)
from metajax.runs.run import Run
from metajax.training.feed import Sample
from metajax.training.loop import train
from metajax.training.progress import Record
from metajax.training.stopping import Stopped
from metajax.training_step import TrainState


def train_run(
    recipe: Recipe,
    folder: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    pictures: str | os.PathLike[str] | None = None,
    seed: int = 0,
    validate_every: int | None = None,
    validation_episodes: int = 100,
    checkpoint_every: int = 250,
    dispatch: int = 50,
    place: Place = "device",
    progress: bool = True,
    on_dispatch: Callable[[TrainState, Record], object] | None = None,
) -> Run:
    """Trains a recipe in a folder; where it was begun there, the same call goes on with it.

    A run that was stopped or killed goes on from its newest checkpoint, and is then the run that it
    would have been, bit for bit. Ctrl-C and SIGTERM end it as they end `metajax.train`: it is saved
    and returned.

    >>> import metajax, tempfile
    >>> recipe = metajax.recipes.changed(metajax.recipes.named("maml-sinusoids-5s"), iterations=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = metajax.runs.train_run(recipe, folder, progress=False)
    ...     print(run.step, run.stopped)
    2 finished

    Args:
      recipe: what is trained, such as `metajax.recipes.named("maml-glyphs")`;
        `metajax.recipes.changed` changes its numbers.
      folder: the run's, made if it does not exist; see `metajax.runs` for what it will hold.
      data_dir: the folder of the data sets, see `metajax.recipes.sampler`; None is that of the
        environment variable `METAJAX_DATA_DIR`. Glyphs and sinusoids need none.
      pictures: a folder of own pictures, a folder a class, in the place of the recipe's data set.
        The classes are cut by the seed into 64 % to train on, 16 % to validate and 20 % for the
        test. Their middle square is taken at the recipe's pixels; recipes of Omniglot and of the
        glyphs make them grey, of 28 px. A recipe that turns its classes by quarters turns these in
        training; to validate and at test they are as they are, for a turned class is none of yours.
      seed: of the first parameters, the episodes, and the parts of own classes.
      validate_every: iterations between two validations, as the test is made, on classes that are
        in neither; the checkpoint of the best is kept. None validates never.
      validation_episodes: of each of them, 2 or more.
      checkpoint_every: iterations between two checkpoints: a run that is killed loses no more.
      dispatch: the most iterations between two reports, see `metajax.train`.
      place: where images are, see `metajax.data.image_episodes`.
      progress: whether a bar, or now and then a line, is shown.
      on_dispatch: see `metajax.train`.

    Returns:
      The run, with `stopped` of this training; `"finished"` too where there was nothing to do.

    Raises:
      FileExistsError: the folder holds another run, in words what differs, or other files, or is
        a run's that is alive.
      FileNotFoundError: the data set, or the folder of pictures, is not there.
      OSError: the folder cannot be written.
      TypeError: an argument is of another kind.
      ValueError: a number is out of range, the pictures have too few classes or too few of a class,
        for the training or the test, or the recipe leaves no classes to validate on.
    """
    check_instance(
        recipe, Recipe, "recipe", 'a metajax.recipes.Recipe, such as recipes.named("maml-glyphs")'
    )
    check_paths(folder=folder)
    check_optional_paths(data_dir=data_dir, pictures=pictures)
    check_seeds(seed=seed)
    check_optional_integers(1, validate_every=validate_every)
    check_integers(2, validation_episodes=validation_episodes)
    check_integers(1, checkpoint_every=checkpoint_every, dispatch=dispatch)
    check_words(Place.__args__, place=place)
    check_flags(progress=progress)
    check_optional_functions(on_dispatch=on_dispatch)
    if validate_every is not None and pictures is None:
        _check_unseen_classes(recipe)
    recipe = recipe if pictures is None else on_own_pictures(recipe)
    where = Path(os.path.abspath(folder))
    known = load_run(where) if (where / FILE).exists() else None
    asked = None if validate_every is None else validation_episodes
    classes = _classes(known, pictures, recipe, seed, validated=validate_every is not None)
    settings = Settings(recipe, (), seed, validate_every, asked, classes)
    if known is not None:  # Before anything of the data is read.
        check_same(known, dataclasses.replace(settings, shape=known.shape))
    reads = classes is None and recipe.training.data not in WITHOUT_FILES
    root = folder_of_data(data_dir) if reads else None
    sampler_of = partial(episodes_of, recipe, classes=classes, data_dir=root, place=place)
    sample = sampler_of("train")
    shape = jax.eval_shape(sample, jax.random.key(0)).support.inputs.shape[1:]
    settings = dataclasses.replace(settings, shape=tuple(shape))
    if known is None:
        _check_test(recipe.name, sampler_of)
    run = known or begin_run(where, settings, data_dir=root)
    check_same(run, settings)
    run = dataclasses.replace(run, classes=classes)
    validate = None if validate_every is None else _validation(run, sampler_of("validation"))
    stopped = _trained(
        run,
        checkpoint_every,
        sample=sample,
        validate=validate,
        dispatch=min(dispatch, checkpoint_every, validate_every or dispatch),
        progress=progress,
        on_dispatch=on_dispatch,
    )
    return dataclasses.replace(run, stopped=stopped)


def _trained(run: Run, checkpoint_every: int, *, dispatch: int, **given: Any) -> Stopped:
    """Trains from the newest checkpoint on; why the training ended."""
    learner, _, optimizer = run.built()
    training = run.recipe.training
    with Checkpoints(
        run.checkpoints,
        options=run.options,
        every=checkpoint_every,
        mode="min" if run.validated_on == "query_loss" else "max",
    ) as checkpoints:
        state = checkpoints.restore(run.first_state())
        if int(state.step) >= training.iterations:
            return "finished"
        return train(
            learner,
            optimizer,
            state,
            iterations=training.iterations,
            meta_batch=training.meta_batch,
            dispatch=min(dispatch, training.iterations),
            validate_every=run.validate_every,
            checkpoints=checkpoints,
            metrics_file=run.metrics,
            **given,
        ).stopped


def _classes(
    known: Run | None,
    pictures: str | os.PathLike[str] | None,
    recipe: Recipe,
    seed: int,
    *,
    validated: bool,
) -> OwnClasses | None:
    """The own classes of a run: those it began with, from where they are now, or new ones.

    Raises:
      FileExistsError: a run began with own classes and there are no pictures, or the reverse.
    """
    if known is None:
        if pictures is None:
            return None
        found = read_pictures(pictures, recipe.training)
        return split_classes(found, pictures, recipe, seed, validated=validated)
    if (pictures is None) != (known.classes is None):
        there = "none" if known.classes is None else repr(known.classes.folder)
        here = "none" if pictures is None else repr(os.fspath(pictures))
        raise FileExistsError(
            f"{str(known.folder)!r} holds another run: its own pictures are {there} there and "
            f"{here} here; expected the same, to go on with it, or another folder"
        )
    if known.classes is None or pictures is None:
        return None
    return known.classes._replace(folder=os.path.abspath(pictures))


def _check_test(name: str, sampler_of: Callable[..., object]) -> None:
    """Raises where what is trained for long could not be tested in the end."""
    try:
        sampler_of("test", place="host")
    except FileNotFoundError:  # It may be there later, or elsewhere.
        return
    except ValueError as error:
        raise ValueError(f"{name} could be trained, and not be tested: {error}") from error


def _check_unseen_classes(recipe: Recipe) -> None:
    """Raises where the recipe trains on the classes that it would be validated on."""
    part = recipe.training.drawing.split.part
    if "validation" in part:
        raise ValueError(
            f"{recipe.name} trains on the part {part!r}, so that no class is left to validate on; "
            "expected validate_every=None"
        )


def _validation(run: Run, sample: Sample) -> Callable[[TrainState], np.ndarray]:
    """The score of a state on the validation classes."""
    tester = run.built().tester

    def validate(state: TrainState) -> np.ndarray:
        scores = evaluate(tester, state, sample, episodes=run.validation_episodes, seed=run.seed)
        return scores.mean(run.validated_on)

    return validate
