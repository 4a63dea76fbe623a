"""Features of images by a network: computed once, kept by all that decides them."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax as mj
from metajax import data
from metajax.models import from_linen
from metajax.models.pretrained import Backbone, Part, Preprocessing

KEY = jax.random.key(0)
COUNTS = (3, 5, 4)
SEEN = Preprocessing(8, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


class Trunk(nn.Module):
    """A convolution, normalised by averages that it is given."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.BatchNorm(use_running_average=True)(nn.Conv(4, (3, 3), (2, 2))(x))


VARIABLES = Trunk().init(KEY, jnp.zeros((1, 8, 8, 3)))


def linear() -> mj.Model:
    return mj.Model(
        lambda key, x: {"w": jax.random.normal(key, (x.shape[-1], 5))},
        lambda params, x: jnp.tanh(x).mean(axis=(1, 2)) @ params["w"],
    )


def trunk(change: float = 0.0) -> Part:
    averages = jax.tree.map(lambda x: x + change, VARIABLES["batch_stats"])
    return Part(from_linen(Trunk(), frozen={"batch_stats": averages}), VARIABLES["params"])


def backbone(counted: Callable[..., Any] | None = None, **changes: Any) -> Backbone:
    head = linear()
    if counted is not None:

        def apply(params: Any, x: jax.Array) -> jax.Array:
            jax.debug.callback(counted)
            return linear().apply(params, x)

        head = mj.Model(head.init, apply)
    params = linear().init(KEY, jnp.zeros((1, 4, 4, 4)))
    parts = {"trunk": trunk(), "head": Part(head, params)}
    return dataclasses.replace(Backbone("net", parts, SEEN), **changes)


def pictures(dtype: Any = np.uint8, side: int = 12, channels: int = 3) -> data.ImageClasses:
    """Classes of several sizes, out of order and with images of no class between."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, side, side, channels)).astype(np.uint8)
    if dtype != np.uint8:
        images = (images / 255).astype(dtype)
    return data.ImageClasses(
        images,
        np.array([10, 0, 16]),
        np.array(COUNTS),
        ("a", "b", "c"),
        ("x", "y", "x"),
        np.arange(20) % 3,
    )


@pytest.mark.parametrize(("dtype", "batch_size"), [(np.uint8, 5), (np.float32, 32)])
def test_features_are_what_the_network_makes_of_every_image(
    tmp_path: Path, dtype: Any, batch_size: int
) -> None:
    given, net = pictures(dtype), backbone()
    made = data.features(net, given, cache=tmp_path, batch_size=batch_size)
    assert isinstance(made.images, np.memmap)
    assert (made.images.shape, made.images.dtype) == ((12, 5), np.float32)
    assert (made.names, made.groups) == (given.names, given.groups)
    assert made.counts.tolist() == [*COUNTS]
    for name in given.names:
        images = given[name] / np.float32(255) if dtype == np.uint8 else given[name]
        expected = net.model.apply(net.params, jnp.asarray(images, jnp.float32))
        np.testing.assert_allclose(made[name], expected, rtol=1e-5, atol=1e-6)
    assert made.sources is not None
    np.testing.assert_array_equal(
        made.sources, [*range(10, 13), *range(5), *range(16, 20)] % np.array(3)
    )


def test_the_network_runs_once(tmp_path: Path) -> None:
    batches = []
    net = backbone(lambda: batches.append(1))
    first = data.features(net, pictures(), cache=tmp_path, batch_size=5)
    jax.effects_barrier()
    assert len(batches) == 3
    again = data.features(net, pictures(), cache=tmp_path, batch_size=7)
    jax.effects_barrier()
    assert len(batches) == 3
    np.testing.assert_array_equal(first.images, again.images)
    kept = np.array(first.images)  # What is mapped would be damaged with its file.
    (folder,) = tmp_path.iterdir()
    (folder / "images.npy").write_bytes(b"damaged")
    with pytest.warns(RuntimeWarning, match="made again: its images.npy has 7 bytes"):
        mended = data.features(net, pictures(), cache=tmp_path, batch_size=5)
    jax.effects_barrier()
    assert len(batches) == 6
    np.testing.assert_array_equal(kept, mended.images)


def test_an_episode_is_of_the_features_of_the_images_own(tmp_path: Path) -> None:
    given, net = pictures(), backbone()
    made = data.features(net, given, cache=tmp_path)
    kept: dict = {"ways": 2, "shots": 1, "queries": 1, "across_sources": True}
    draw = data.image_episodes(given, **kept)
    for place in ("device", "host"):
        sample = data.image_episodes(made, place=place, **kept)
        for seed in range(3):
            of_images, of_features = draw(jax.random.key(seed)), sample(jax.random.key(seed))
            for images, features in zip(of_images, of_features, strict=True):
                expected = net.model.apply(net.params, images.inputs)
                np.testing.assert_allclose(features.inputs, expected, rtol=1e-5, atol=1e-6)
                np.testing.assert_array_equal(features.targets, images.targets)


def test_a_cut_network_gives_maps_and_its_other_part_takes_them(tmp_path: Path) -> None:
    net = backbone()
    trunk, tail = net.cut("head")
    maps = data.features(trunk, pictures(), cache=tmp_path)
    assert maps.images.shape == (12, 4, 4, 4)
    whole = data.features(net, pictures(), cache=tmp_path)
    np.testing.assert_allclose(
        data.features(tail, maps, cache=tmp_path).images, whole.images, rtol=1e-5, atol=1e-6
    )
    assert len(os.listdir(tmp_path)) == 3
    halves = dataclasses.replace(maps, images=maps.images.astype(jnp.bfloat16))
    found = data.features(tail, halves, cache=tmp_path).images
    np.testing.assert_allclose(found, whole.images, rtol=0.1, atol=0.02)


def _compiled(change: float = 0.0) -> Part:
    """A part whose own averages are closed over by a compiled function."""
    plain = trunk(change)
    inner = jax.jit(plain.model.apply)
    return Part(mj.Model(plain.model.init, lambda p, x: inner(p, x)), plain.params)


def _of(**parts: Part) -> dict:
    return {"parts": {**backbone().parts, **parts}}


def test_a_digest_changes_with_all_that_decides_features() -> None:
    head = backbone().parts["head"]
    other = mj.Model(head.model.init, lambda p, x: jnp.sin(x).mean(axis=(1, 2)) @ p["w"])
    changes = (
        {},
        _of(head=Part(head.model, {"w": head.params["w"].at[0, 0].add(1e-6)})),
        _of(head=Part(other, head.params)),
        _of(trunk=trunk(1e-6)),
        _of(trunk=_compiled()),
        _of(trunk=_compiled(1e-6)),
        {"name": "other"},
        *(
            {"preprocessing": dataclasses.replace(SEEN, **change)}
            for change in (
                {"size": 9},
                {"mean": (0.5, 0.4, 0.31)},
                {"std": (0.2, 0.3, 0.41)},
                {"resizing": "bicubic"},
            )
        ),
        {"preprocessing": None},
    )
    digests = [backbone(**change).digest((8, 8, 3)) for change in changes]
    assert len({*digests}) == len(changes)
    assert digests == [backbone(**change).digest((8, 8, 3)) for change in changes]


@pytest.mark.parametrize("simplified", [False, True])
def test_a_digest_changes_with_what_is_closed_over(simplified: bool) -> None:
    """However deep, and however JAX keeps constants in programs."""

    def digest(where: Callable, change: float) -> str:
        held = jnp.full((5, 5), 1 + change)
        model = mj.Model(lambda key: {"w": jnp.ones(1)}, lambda p, x: where(lambda x: x @ held)(x))
        return Backbone("net", {"a": Part(model, {"w": jnp.ones(1)})}, None).digest((5,))

    def scanned(f: Callable) -> Callable:
        return lambda x: jax.lax.scan(lambda h, _: (f(h), None), x, None, length=2)[0]

    before = jax.config.jax_use_simplified_jaxpr_constants
    jax.config.update("jax_use_simplified_jaxpr_constants", simplified)
    try:
        for where in (jax.checkpoint, scanned, lambda f: jax.checkpoint(scanned(jax.jit(f)))):
            digests = [digest(where, change) for change in (0.0, 1e-6, 0.0)]
            assert digests[0] != digests[1]
            assert digests[0] == digests[2]
    finally:
        jax.config.update("jax_use_simplified_jaxpr_constants", before)


def test_features_of_other_weights_or_images_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metajax.data.backbone_features._BLOCK", 5)
    given = pictures()
    first = data.features(backbone(), given, cache=tmp_path)
    moved = data.features(backbone(**_of(trunk=trunk(0.5))), given, cache=tmp_path)
    assert np.abs(first.images - moved.images).max() > 1e-3
    changed = [given.images.copy() for _ in range(2)]
    changed[0][10] += 1
    changed[1][19] += 1  # The last.
    others = (
        *(dataclasses.replace(given, images=images) for images in changed),
        given.select(["b", "a", "c"]),
        dataclasses.replace(given, sources=given.sources[::-1]),
        dataclasses.replace(given, groups=None),
        dataclasses.replace(given, names=("d", "b", "c")),
    )
    for number, other in enumerate(others):
        made = data.features(backbone(), other, cache=tmp_path)
        assert (made.names, made.groups) == (other.names, other.groups)
        assert len(os.listdir(tmp_path)) == 3 + number
    unused = given.images.copy()
    unused[15] += 1  # It is of no class.
    data.features(backbone(), dataclasses.replace(given, images=unused), cache=tmp_path)
    assert len(os.listdir(tmp_path)) == 2 + len(others)


def test_nothing_is_left_where_it_is_interrupted_or_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    head = backbone().parts["head"]
    poles = mj.Model(
        head.model.init, lambda p, x: 1 / (x.mean(axis=(1, 2, 3)) - p["w"][:1, 0])[:, None]
    )
    given = np.zeros((2, 3, 8, 8, 1), np.float32)
    given[1, 1] = 0.5
    params = {"w": jnp.full((1, 1), 0.5)}
    net = Backbone("net", {"all": Part(poles, params)}, Preprocessing(8, (0.0,), (1.0,)))
    with pytest.raises(ValueError, match="the features of image 1 of '1' are not finite"):
        data.features(net, given, cache=tmp_path, batch_size=4)
    assert os.listdir(tmp_path) == []
    monkeypatch.setattr("metajax.data.backbone_features.tqdm.update", lambda *given: stop())
    with pytest.raises(KeyboardInterrupt):
        data.features(backbone(), pictures(), cache=tmp_path, batch_size=4)
    assert os.listdir(tmp_path) == []


def _with(value: float) -> data.ImageClasses:
    images = pictures(np.float32).images
    images[2, 0, 0, 0] = value
    return dataclasses.replace(pictures(), images=images)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (pictures(channels=1), r"images have shape .*12, 1\); .* become RGB by np.repeat"),
        (pictures(channels=4), r"images have shape .*12, 4\); expected square ones of 3"),
        (np.zeros((2, 2, 8, 9, 3), np.uint8), r"images have shape .*8, 9, 3\); .* square"),
        (np.zeros((2, 2, 5), np.float32), r"images have shape \(1, 5\); expected square"),
        (np.zeros((2, 2, 8, 8, 3), ">f4"), r"images are >f4; expected .*newbyteorder\('='\)"),
        (_with(np.nan), r"image 2 of 'b' holds nan; expected floats in \[0, 1\]"),
        (_with(1.5), r"image 2 of 'b' holds 1.5; expected floats in \[0, 1\]"),
        (_with(255.0), r"image 2 of 'b' holds 255.0; expected floats in \[0, 1\]"),
        (_with(-0.1), r"image 2 of 'b' holds -0.1.*; expected floats in \[0, 1\]"),
    ],
)
def test_images_that_the_network_does_not_take(tmp_path: Path, images: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.features(backbone(), images, cache=tmp_path)
    assert os.listdir(tmp_path) == []


def test_networks_whose_outputs_are_no_features(tmp_path: Path) -> None:
    params = {"w": jnp.ones(1)}
    tokens = mj.Model(
        lambda key: params, lambda p, x: x.reshape(len(x), -1, 3) * p["w"][None, None]
    )
    with pytest.raises(
        ValueError, match=r"gives \[\(1, 64, 3\)\] of one image; expected one array"
    ):
        data.features(
            Backbone("net", {"a": Part(tokens, params)}, SEEN), pictures(), cache=tmp_path
        )
    batch = from_linen(nn.BatchNorm(use_running_average=False))
    part = Part(batch, batch.init(KEY, jnp.zeros((1, 8, 8, 3))))
    with pytest.raises(ValueError, match=r"depend on the others of its batch \('weighted'\)"):
        data.features(Backbone("net", {"a": part}, SEEN), pictures(), cache=tmp_path)
    tail = backbone().cut("head")[1]
    with pytest.raises(ValueError, match="images are uint8; the backbone has no preprocessing"):
        data.features(tail, np.zeros((2, 2, 4, 4, 4), np.uint8), cache=tmp_path)
    with pytest.raises(ValueError, match="image 0 of '0' holds inf; expected finite floats"):
        data.features(tail, np.full((2, 2, 4, 4, 4), np.inf, np.float32), cache=tmp_path)
    assert os.listdir(tmp_path) == []


def test_the_mean_of_some_classes() -> None:
    on_device = data.image_classes(jnp.array([[[1e8, 1.0], [1.0, 3.0]], [[1.0, 1.0], [1.0, 3.0]]]))
    np.testing.assert_array_equal(on_device.mean(), np.float32([(1e8 + 3) / 4, 2.0]))
    given = pictures(np.float32).select(["c", "a"])
    expected = np.concatenate([given["c"], given["a"]]).mean(axis=0)
    np.testing.assert_allclose(given.mean(), expected, rtol=1e-6)
    assert given.mean().dtype == np.float32
    assert pictures().mean().dtype == np.float32
