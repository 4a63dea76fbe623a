"""Images that stay on the host: the same key, the same episode; read ahead, in order."""

import dataclasses
import functools
import gc
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from data.numbered import numbered

import metajax as mj
from metajax.streaming import _finished, run_ahead

COUNTS = [6, 9, 7, 8, 12, 6]
KEYS = jax.random.split(jax.random.key(0), 4)
ENCODER = mj.Model(
    lambda key, x: jax.random.normal(key, (16, 3)) / 4,
    lambda params, x: x.reshape(len(x), 16) @ params,
)
LEARNER = mj.prototypical_network(ENCODER, ways=4)
OPTIMIZER = optax.sgd(0.1)


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> mj.data.ImageClasses:
    """A memory-mapped data set of noise."""
    data = numbered(COUNTS)
    path = tmp_path_factory.mktemp("gemappt ü") / "images.npy"
    noise = np.random.default_rng(0).integers(0, 256, (sum(COUNTS), 4, 4, 1), np.uint8)
    np.save(path, noise)
    images = np.lib.format.open_memmap(path, mode="r")
    groups = ("a", "b", "a", "b", "a", "b")
    return mj.data.ImageClasses(images, data.starts, data.counts, data.names, groups)


def _mixed(key: jax.Array, images: jax.Array) -> jax.Array:
    """An augmentation through which padding would be seen."""
    return images - images.mean() + jax.random.normal(key, images.shape)


def _pair(
    data: mj.data.ImageClasses, kind: str
) -> tuple[mj.data.ImageEpisodes, mj.data.HostEpisodes]:
    """The same sampler on the device and on the host."""
    if kind == "varying":
        return tuple(
            mj.data.varying_episodes(
                data, min_ways=2, max_ways=4, max_queries=3, augment=_mixed, place=place
            )
            for place in ("device", "host")
        )
    if kind == "listed":
        drawn = jax.vmap(mj.data.image_episodes(data, ways=3, shots=1, queries=2).draw)(KEYS)
        return tuple(
            mj.data.listed_episodes(data, drawn, place=place) for place in ("device", "host")
        )
    options = {"groups": True, "rotations": "classes"} if kind == "groups" else {}
    options["augment"] = _mixed
    return tuple(
        mj.data.image_episodes(data, ways=3, shots=2, queries=2, place=place, **options)
        for place in ("device", "host")
    )


@pytest.mark.parametrize(
    "kind", ["fixed", "groups", "listed", pytest.param("varying", marks=pytest.mark.slow)]
)
def test_the_same_keys_give_the_same_episodes(mapped: mj.data.ImageClasses, kind: str) -> None:
    device, host = _pair(mapped, kind)
    expected = jax.jit(jax.vmap(device))(KEYS)
    batches = list(mj.data.stream_episodes(host, [KEYS, KEYS[:2], KEYS[::-1]], ahead=1))
    # The same images in the same places; other programs scale and augment them.
    close = functools.partial(chex.assert_trees_all_close, rtol=1e-6, atol=1e-6)
    close(batches[0], expected)
    close(batches[1], jax.tree.map(lambda x: x[:2], expected))
    close(batches[2], jax.tree.map(lambda x: x[::-1], expected))
    close(host(KEYS[2]), jax.tree.map(lambda x: x[2], expected))


def _run(sample: object, **options: object) -> mj.TrainResult:
    params = ENCODER.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
    state = mj.init_state(params, OPTIMIZER, jax.random.key(1))
    options = {"iterations": 4, "meta_batch": 4, "dispatch": 2, "progress": False, **options}
    return mj.train(LEARNER, OPTIMIZER, state, sample, **options)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["groups", "varying"])
def test_training_is_the_same_run(mapped: mj.data.ImageClasses, kind: str) -> None:
    device, host = _pair(mapped, kind)
    expected, got = _run(device), _run(host)
    chex.assert_trees_all_close(got.state.params, expected.state.params, rtol=1e-5, atol=1e-6)
    assert [r["step"] for r in got.history] == [r["step"] for r in expected.history] == [2, 4]


def test_training_goes_on_from_a_state_and_runs_on_a_mesh(mapped: mj.data.ImageClasses) -> None:
    device, host = _pair(mapped, "fixed")
    expected = _run(device).state.params
    half = _run(host, iterations=1).state
    rest = mj.train(
        LEARNER, OPTIMIZER, half, host, iterations=4, meta_batch=4, dispatch=2, progress=False
    )
    chex.assert_trees_all_close(rest.state.params, expected, rtol=1e-5, atol=1e-6)
    assert [record["step"] for record in rest.history] == [2, 4]
    result = _run(host, mesh=mj.parallel.task_mesh(jax.devices()[:2]))
    chex.assert_trees_all_close(result.state.params, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["fixed", "listed"])
def test_evaluation_is_the_same(mapped: mj.data.ImageClasses, kind: str) -> None:
    device, host = _pair(mapped, kind)
    params = ENCODER.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
    episodes = None if kind == "listed" else 19
    expected, got = (
        mj.evaluate(LEARNER, params, sample, episodes=episodes) for sample in (device, host)
    )
    assert got.episodes == expected.episodes == (episodes or 4)
    chex.assert_trees_all_close(got.scores, expected.scores, rtol=1e-5)


def test_episodes_are_read_while_others_are_used(mapped: mj.data.ImageClasses) -> None:
    _, host = _pair(mapped, "fixed")
    began = threading.Semaphore(0)

    class Watched:
        finish = staticmethod(host.finish)
        __call__ = staticmethod(host.__call__)

        def fetch(self, keys: jax.Array, indices: np.ndarray | None = None) -> object:
            began.release()
            return host.fetch(keys, indices)

    batches = mj.data.stream_episodes(Watched(), [KEYS] * 6, ahead=3)
    next(batches)
    for _ in range(4):
        assert began.acquire(timeout=20)
    assert not began.acquire(blocking=False)
    batches.close()


def test_an_error_while_reading_reaches_the_caller(mapped: mj.data.ImageClasses) -> None:
    class Broken:
        shape, dtype = mapped.images.shape, mapped.images.dtype

        def __getitem__(self, rows: np.ndarray) -> np.ndarray:
            raise OSError("the disk is gone")

    data = mj.data.ImageClasses(Broken(), mapped.starts, mapped.counts, mapped.names)
    sample = mj.data.image_episodes(data, ways=2, shots=1, queries=1, place="host")
    with pytest.raises(OSError, match="the disk is gone"):
        next(mj.data.stream_episodes(sample, [KEYS]))


@pytest.mark.exact
def test_doubles_stay_doubles(float64: None, mapped: mj.data.ImageClasses) -> None:
    data = mj.data.ImageClasses(mapped.images / 7.0, mapped.starts, mapped.counts, mapped.names)
    device, host = (
        mj.data.image_episodes(data, ways=3, shots=1, queries=1, place=place)
        for place in ("device", "host")
    )
    episodes = next(mj.data.stream_episodes(host, [KEYS]))
    assert episodes.support.inputs.dtype == np.float64
    chex.assert_trees_all_equal(episodes, jax.jit(jax.vmap(device))(KEYS))


def test_nobody_waits_for_what_nobody_wants() -> None:
    begun, go_on, ended = (threading.Event() for _ in range(3))

    def slow() -> None:
        begun.set()
        go_on.wait(timeout=20)
        ended.set()

    results = run_ahead(iter([lambda: None, slow, slow]))
    next(results)
    assert begun.wait(timeout=20)
    results.close()
    assert not ended.is_set()
    go_on.set()


def test_streams_of_like_samplers_compile_once(mapped: mj.data.ImageClasses) -> None:
    sizes = []
    for _ in range(2):
        sample = mj.data.image_episodes(mapped, ways=2, shots=1, queries=1, place="host")
        next(mj.data.stream_episodes(sample, [KEYS]))
        sizes.append(_finished._cache_size())
    assert sizes[0] == sizes[1]


def test_evaluation_lets_go_of_the_data(mapped: mj.data.ImageClasses) -> None:
    host = mj.data.image_episodes(mapped, ways=2, shots=1, queries=1, place="host")
    params = ENCODER.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
    mj.evaluate(LEARNER, params, host, episodes=3)
    gone = weakref.ref(host)
    del host
    gc.collect()
    assert gone() is None


def test_keys_of_every_form(mapped: mj.data.ImageClasses) -> None:
    device, host = _pair(mapped, "fixed")
    chex.assert_trees_all_close(
        host(jax.random.PRNGKey(3)), device(jax.random.key(3)), rtol=1e-6, atol=1e-6
    )
    with pytest.raises(ValueError, match=r"keys of shape \(\); expected an iterable of \[tasks\]"):
        next(mj.data.stream_episodes(host, KEYS))
    with pytest.raises(TypeError, match="which has no fetch and finish; expected a sam"):
        mj.data.stream_episodes(device, [KEYS])


def test_episodes_come_on_the_device_that_is_asked_for(mapped: mj.data.ImageClasses) -> None:
    _, host = _pair(mapped, "fixed")
    device = jax.devices()[1]
    with jax.default_device(device):
        keys = jax.random.split(jax.random.key(0), 2)
        for episode in (host(keys[0]), next(mj.data.stream_episodes(host, [keys]))):
            assert all(leaf.devices() == {device} for leaf in jax.tree.leaves(episode))


def test_a_part_that_skips_images_is_not_copied_by_accident(mapped: mj.data.ImageClasses) -> None:
    images = np.asarray(mapped.images)[:40].reshape(5, 8, 4, 4, 1)
    path = Path(mapped.images.filename).with_name("fives.npy")
    np.save(path, images)
    whole = np.lib.format.open_memmap(path, mode="r")
    mj.data.image_episodes(whole[1:], ways=2, shots=1, queries=1, place="host")
    with pytest.raises(ValueError, match=r"\(5, 4, 4, 4, 1\) are a part of a larger array"):
        mj.data.image_episodes(whole[:, :4], ways=2, shots=1, queries=1, place="host")


def test_a_compiled_program_cannot_draw_from_the_host(mapped: mj.data.ImageClasses) -> None:
    _, host = _pair(mapped, "fixed")
    message = r"cannot be drawn inside a compiled program \(jit, vmap, scan\); expected train"
    with pytest.raises(ValueError, match=message):
        jax.vmap(host)(KEYS)
    with pytest.raises(ValueError, match="ahead=0; expected an integer of 1 or more"):
        mj.data.stream_episodes(host, [KEYS], ahead=0)


def test_joined_data_sets_are_read_where_they_lie(
    mapped: mj.data.ImageClasses, tmp_path: Path
) -> None:
    other = mj.data.image_classes(
        np.random.default_rng(1).integers(0, 256, (3, 7, 4, 4, 1), np.uint8)
    )
    joined = mj.data.join_classes({"mapped": mapped, "other": other})
    assert joined.names[0] == "mapped/0"
    assert joined.groups == ("mapped",) * 6 + ("other",) * 3
    for name, part in (("mapped", mapped), ("other", other)):
        for label in part.names:
            np.testing.assert_array_equal(joined[f"{name}/{label}"], part[label])
    device, host = (
        mj.data.image_episodes(
            joined, ways=3, shots=1, queries=1, groups={"mapped": 1, "other": 3}, place=place
        )
        for place in ("device", "host")
    )
    for key in KEYS:
        chex.assert_trees_all_close(host(key), device(key), rtol=1e-6)
    kept = mj.data.join_classes({"mapped": mapped, "other": other}, keep_groups=True)
    assert set(kept.groups) == {"mapped/a", "mapped/b", "other"}


def test_what_cannot_be_joined(mapped: mj.data.ImageClasses) -> None:
    with pytest.raises(ValueError, match="there is no data set to join"):
        mj.data.join_classes({})
    message = r"different kinds: 'a' uint8 \(4, 4, 1\), 'b' float32 \(4, 4, 1\); expected one shape"
    with pytest.raises(ValueError, match=message):
        mj.data.join_classes({"a": mapped, "b": numbered([2, 2])})
    with pytest.raises(TypeError, match=r"data\['a'\] is \[\]; expected metajax.data.ImageClasses"):
        mj.data.join_classes({"a": []})
    deep = dataclasses.replace(mapped, groups=("b/c",) * 6)
    other = mj.data.image_classes(np.zeros((1, 2, 4, 4, 1), np.uint8), groups=["c"])
    mj.data.join_classes({"a": deep, "a/b": other})
    message = r"data\['a'\] and data\['a/b'\] would both have the group 'a/b/c'; expected names"
    with pytest.raises(ValueError, match=message):
        mj.data.join_classes({"a": deep, "a/b": other}, keep_groups=True)


@pytest.mark.parametrize("place", ["device", "host"])
@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda images: images[0], r"uint8 of shape \(4, 4, 1\)"),
        (lambda images: images[:1], r"uint8 of shape \(1, 4, 4, 1\)"),
        (lambda images: images / 255, r"float64 of shape \(\d+, 4, 4, 1\)"),
        (lambda images: None, r"NoneType of shape \(\)"),
    ],
)
def test_sources_that_hold_other_images_than_they_say(
    mapped: mj.data.ImageClasses, place: str, change: Callable, found: str
) -> None:
    class Changed:
        shape, dtype = mapped.images.shape, mapped.images.dtype

        def __getitem__(self, rows: np.ndarray) -> np.ndarray:
            return change(np.asarray(mapped.images[rows]))

    data = dataclasses.replace(mapped, images=Changed())
    said = rf"images\[rows\] of \d+ rows is {found}; expected uint8 of shape \(\d+, 4, 4, 1\), as"
    with pytest.raises(ValueError, match=said):
        mj.data.image_episodes(data, ways=2, shots=1, queries=1, place=place)(KEYS[0])
    with pytest.raises(ValueError, match=said):
        data["1"]


def test_a_class_that_two_data_sets_hold() -> None:
    images = np.zeros((4, 3, 2, 2, 1), np.uint8)
    whole, again = mj.data.image_classes(images), mj.data.image_classes(images)
    one, other = whole.select(["0", "2"]), whole.select(["1", "3"])
    joined = mj.data.join_classes({"a": one, "b": other, "c": mj.data.image_classes(images.copy())})
    assert joined.images.shape == (24, 2, 2, 1)
    for second in (whole, again, other):
        with pytest.raises(
            ValueError, match="the classes 'a/1' and 'b/1' share the image in row 3"
        ):
            mj.data.join_classes({"a": whole, "b": second.select(["1"])})
