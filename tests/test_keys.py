"""The streams of random numbers, as numbers: a run of the past is drawn again to the bit."""

import jax
import pytest
from jax import export

from metajax import keys

KEY = jax.random.key(5)

STREAMS = {
    "learner": (
        lambda: keys.learner_keys(KEY, 3, 2, first=1),
        [[626509434, 2912031311], [189339284, 3564884309]],
    ),
    "episode": (
        lambda: keys.episode_keys(KEY, 3, 2, first=1),
        [[227618858, 3690559033], [2629546835, 2445579384]],
    ),
    "evaluation, episode": (
        lambda: keys.evaluation_keys(4, 2)[0],
        [[790831124, 2766039447], [1171141403, 3867618381]],
    ),
    "evaluation, learner": (
        lambda: keys.evaluation_keys(4, 2)[1],
        [[603487872, 4092817842], [3556823455, 1079767805]],
    ),
    "fit": (lambda: keys.fit_key(KEY), [2724472204, 3573582090]),
    "query": (lambda: keys.query_key(KEY), [202567368, 3886822060]),
    "steps": (
        lambda: keys.step_keys(KEY, 2),
        [[2724472204, 3573582090], [202567368, 3886822060]],
    ),
    "steps beside batches": (
        lambda: keys.step_keys(KEY, 2, batches=True),
        [[1476913942, 4047406665], [3482370469, 797982963]],
    ),
    "batches": (lambda: keys.batches_key(KEY), [202567368, 3886822060]),
    "augmentation": (lambda: keys.augmentation_key(KEY), [468105222, 1396761561]),
}


@pytest.mark.parametrize("name", STREAMS)
def test_streams_are_what_they_were(name: str) -> None:
    draw, expected = STREAMS[name]
    assert jax.random.key_data(draw()).tolist() == expected


def test_no_key_draws_nothing() -> None:
    assert keys.fit_key(None) is keys.query_key(None) is keys.step_keys(None, 3) is None


def test_streams_of_one_key_are_apart() -> None:
    """Those that are drawn from the same key at the same time."""
    together = (
        [*keys.learner_keys(KEY, 0, 3), *keys.episode_keys(KEY, 0, 3)],
        [keys.fit_key(KEY), keys.query_key(KEY)],
        [*keys.step_keys(KEY, 3, batches=True), keys.batches_key(KEY)],
        [*jax.random.split(KEY, 5), keys.augmentation_key(KEY)],
    )
    for streams in together:
        drawn = {tuple(jax.random.key_data(key).tolist()) for key in streams}
        assert len(drawn) == len(streams)


def test_a_program_for_any_number_of_tasks() -> None:
    (tasks,) = export.symbolic_shape("tasks")
    several = jax.ShapeDtypeStruct((tasks,), float)

    def draw(several: jax.Array) -> jax.Array:
        return jax.random.key_data(keys.task_keys(KEY, several.shape[0]))

    drawn = export.export(jax.jit(draw))(several).call(jax.numpy.zeros(3))
    assert drawn.tolist() == jax.random.key_data(keys.task_keys(KEY, 3)).tolist()
