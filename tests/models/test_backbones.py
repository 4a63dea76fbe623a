"""Pre-trained networks: their preprocessing by hand, their parts, and what is refused."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import metajax as mj
from metajax.models.pretrained import Backbone, Part, Preprocessing

KEY = jax.random.key(0)
MEAN, STD = (0.5, 0.25, 0.1), (0.2, 0.5, 4.0)


def layer(width: int, seed: int) -> Part:
    model = mj.Model(
        lambda key, x: {"w": jax.random.normal(key, (x.shape[-1], width))},
        lambda params, x: jnp.tanh(x @ params["w"]),
    )
    width_before = 3 if seed == 0 else 4
    return Part(model, oracles.normal_like(seed, {"w": jnp.zeros((width_before, width))}))


def backbone() -> Backbone:
    parts = {name: layer(4, seed) for seed, name in enumerate(("stem", "stage", "head"))}
    return Backbone("three", parts, Preprocessing(4, MEAN, STD))


@pytest.mark.usefixtures("float64")
def test_images_of_the_networks_size_are_normalised_by_channel() -> None:
    images = np.random.default_rng(0).uniform(size=(2, 4, 4, 3))
    expected = np.stack([(images[..., c] - MEAN[c]) / STD[c] for c in range(3)], axis=-1)
    oracles.assert_close(Preprocessing(4, MEAN, STD)(jnp.asarray(images)), expected, 1e-14)


@pytest.mark.usefixtures("float64")
def test_images_of_other_sizes_are_resized_before() -> None:
    seen = Preprocessing(4, (0.0,), (1.0,))
    small = np.array([[0.0, 1.0], [0.0, 1.0]])
    # Bilinear, by pixels' centres: at 1/4, 3/4, 5/4 and 7/4 of the two, which lie at 1/2 and 3/2.
    row = np.array([0.0, 0.25, 0.75, 1.0])
    enlarged = seen(jnp.asarray(small)[None, :, :, None])[0, :, :, 0]
    oracles.assert_close(enlarged, np.tile(row, (4, 1)), 1e-14)
    large = np.zeros((1, 16, 16, 1))
    large[:, ::2] = 1  # Stripes of one pixel, which sampling without antialiasing would lose.
    reduced = seen(jnp.asarray(large))
    assert np.abs(np.asarray(reduced)[0, 1:-1] - 0.5).max() < 0.07
    cubic = Preprocessing(4, (0.0,), (1.0,), "bicubic")(jnp.asarray(small)[None, :, :, None])
    assert np.abs(np.asarray(cubic[0, :, :, 0]) - row).max() > 1e-3


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            np.zeros((2, 4, 4, 1)),
            r"shape \(2, 4, 4, 1\); expected .* by np.repeat\(images, 3, axis",
        ),
        (np.zeros((2, 4, 5, 3)), r"shape \(2, 4, 5, 3\); expected square ones of 3 channels"),
        (np.zeros((4, 4, 3)), r"shape \(4, 4, 3\); expected square ones"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"images are uint8; expected floats in \[0, 1\]"),
    ],
)
def test_images_that_a_network_was_not_trained_to_see(images: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        backbone().model.apply(backbone().params, images)


@pytest.mark.usefixtures("float64")
def test_a_network_is_its_parts_one_after_the_other() -> None:
    net = backbone()
    images = jnp.asarray(np.random.default_rng(1).uniform(size=(2, 4, 4, 3)))
    values = (np.asarray(images) - MEAN) / STD
    for name in ("stem", "stage", "head"):
        values = np.tanh(values @ np.asarray(net.params[name]["w"]))
    whole = net.model.apply(net.params, images)
    oracles.assert_close(whole, values, 1e-13)
    for seed in (0, 1):
        params = net.model.init(jax.random.key(seed), images)
        oracles.assert_close(params, net.params, 0.0)
    assert net.model.sharing(net.params, images) == "none"
    for name in ("stage", "head"):
        trunk, tail = net.cut(name)
        assert [*trunk.parts, *tail.parts] == [*net.parts]
        assert tail.preprocessing is None
        features = trunk.model.apply(trunk.params, images)
        oracles.assert_close(tail.model.apply(tail.params, features), whole, 0.0)


def test_parts_draw_from_keys_of_their_own() -> None:
    noise = mj.Model(
        lambda key: {"w": jnp.ones(1)},
        lambda params, x, key: x if key is None else x + jax.random.normal(key, x.shape),
    )
    part = Part(noise, {"w": jnp.ones(1)})
    net = Backbone("noise", {"a": part, "b": part}, None)
    zeros = jnp.zeros((2, 3))
    drawn = net.model.apply(net.params, zeros, key=KEY)
    own = [jax.random.normal(jax.random.fold_in(KEY, index), (2, 3)) for index in (0, 1)]
    np.testing.assert_allclose(drawn, own[0] + own[1], rtol=1e-6)
    np.testing.assert_array_equal(net.model.apply(net.params, zeros), zeros)


def test_a_network_shares_what_its_parts_share() -> None:
    params = {"w": jnp.ones(1)}
    whole = mj.Model(lambda key: params, lambda p, x: x - x.mean(0, keepdims=True), sharing="batch")
    weighted = mj.Model(lambda key: params, lambda p, x, weights: x)
    plain = mj.Model(lambda key: params, lambda p, x: x)
    for models, sharing in (
        ((plain, plain), "none"),
        ((plain, weighted), "weighted"),
        ((weighted, whole), "batch"),
    ):
        parts = {str(index): Part(model, params) for index, model in enumerate(models)}
        net = Backbone("net", parts, None)
        assert net.model.sharing(net.params, jnp.ones((2, 3))) == sharing


def test_whoever_donates_the_parameters_keeps_the_network() -> None:
    net = backbone()
    params = net.model.init(KEY, jnp.ones((1, 4, 4, 3)))
    jax.tree.map(lambda x: x.delete(), params)
    assert net.model.apply(net.params, jnp.ones((1, 4, 4, 3))).shape == (1, 4, 4, 4)


def test_a_part_of_a_network_is_learned_and_the_others_are_frozen() -> None:
    net, images = backbone(), jnp.ones((1, 4, 4, 3))
    model = mj.models.frozen(net.model, net.params, learn="head")
    own = model.init(KEY, images)
    assert jax.tree.map(jnp.shape, own) == {
        "stem": {"w": None},
        "stage": {"w": None},
        "head": {"w": (4, 4)},
    }
    np.testing.assert_array_equal(model.apply(own, images), net.model.apply(net.params, images))


PART = layer(4, 0)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"parts": {}}, ValueError, "parts is empty; expected"),
        ({"parts": {"a": PART.model}}, TypeError, r"parts\['a'\] is .*; expected a Part"),
        ({"parts": {"a": Part(3, {})}}, TypeError, r"parts\['a'\].model is 3; expected a metajax"),
        ({"parts": {"a": PART._replace(params={"w": 1})}}, TypeError, "parameter w is 1; expected"),
        ({"preprocessing": 224}, TypeError, "preprocessing is 224; expected a Preprocessing"),
        ({"name": 3}, TypeError, "name=3; expected a string"),
    ],
)
def test_what_is_no_backbone(changes: dict, error: type[Exception], message: str) -> None:
    given: dict[str, Any] = {"name": "a", "parts": {"a": PART}, "preprocessing": None} | changes
    with pytest.raises(error, match=message):
        Backbone(**given)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ((0, MEAN, STD), ValueError, "size=0; expected an integer of 1"),
        ((4, MEAN, STD[:2]), ValueError, "mean has 3 numbers and std 2; expected one of each"),
        ((4, (), ()), ValueError, "mean has 0 numbers"),
        ((4, MEAN, (1.0, 0.0, 1.0)), ValueError, r"std\[1\]=0.0; expected a number above 0"),
        ((4, (0.1, float("nan"), 0.1), STD), ValueError, r"mean\[1\]=nan; expected a number"),
        ((4, 0.5, STD), TypeError, "mean is 0.5; expected a number a channel"),
        ((4, MEAN, STD, "nearest"), ValueError, "resizing='nearest'; expected \"bilinear\""),
    ],
)
def test_what_is_no_preprocessing(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Preprocessing(*given)


@pytest.mark.parametrize("name", ["tail", "stem", ""])
def test_where_a_network_cannot_be_cut(name: str) -> None:
    with pytest.raises(ValueError, match="expected a part after the first, of stem, stage, head"):
        backbone().cut(name)
