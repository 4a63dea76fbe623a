"""Augmentation against numpy and scipy: right, uniform, reproducible, the same everywhere."""

import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from metajax.data.augmentations import augmentation, resample

HEIGHT, WIDTH, CHANNELS = 6, 7, 2
EVERYTHING = {"shift": 2, "flip": True, "rotation": 20, "crop": 0.6, "noise": 0.1}
AUGMENT = {per: augmentation(**EVERYTHING, per=per) for per in ("item", "episode")}
QUIET = augmentation(**{**EVERYTHING, "noise": 0})


# By the generator of loops that users have: the older one, which tests take, computes the
# coordinates twice, in two roundings, for pixels and for weights, and is one pixel off at
# whole numbers.
_OLDER = "xla_cpu_use_fusion_emitters" in os.environ["XLA_FLAGS"]
resampled = jax.jit(
    resample,
    static_argnums=4,
    compiler_options={"xla_cpu_use_fusion_emitters": True} if _OLDER else None,
)


def random_images(items: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    shape = (items, height, width, CHANNELS)
    return np.random.default_rng(0).uniform(0.1, 1, shape).astype(np.float32)


def forced(image, *, degrees=0.0, area=1.0, place=(0.5, 0.5), fill=0.0) -> np.ndarray:
    numbers = (np.float32(degrees), np.float32(area), np.array(place, np.float32))
    return np.asarray(resampled(image, *numbers, fill))


def shifted(image: np.ndarray, down: int, right: int, fill: float) -> np.ndarray:
    result = np.full_like(image, fill)
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            if 0 <= row - down < image.shape[0] and 0 <= column - right < image.shape[1]:
                result[row, column] = image[row - down, column - right]
    return result


def assert_uniform(counts: list[int]) -> None:
    """Chi-squared statistic within four standard deviations of its mean."""
    observed = np.array(counts)
    expected = observed.sum() / len(observed)
    statistic = ((observed - expected) ** 2 / expected).sum()
    freedom = len(observed) - 1
    assert statistic < freedom + 4 * np.sqrt(2 * freedom)


# Whole pixels: shift and flip


@pytest.mark.exact
def test_shifts_and_flips_are_those_of_loops_exact_and_uniform():
    most, fill, items = 2, -1.5, 4000
    image = random_images(1)[0]
    images = np.broadcast_to(image, (items, *image.shape))
    augment = augmentation(shift=most, flip=True, fill=fill)
    result = np.asarray(augment(jax.random.key(0), images))
    moves = range(-most, most + 1)
    places = {}
    for down in moves:
        for right in moves:
            moved = shifted(image, down, right, fill)
            places[moved.tobytes()] = (down, right, False)
            places[moved[:, ::-1].tobytes()] = (down, right, True)
    # Every result is one of them to the bit, or this raises KeyError.
    drawn = [places[one.tobytes()] for one in result]
    assert_uniform([drawn.count(place) for place in places.values()])


@pytest.mark.exact
def test_shift_alone_never_flips_and_flip_alone_never_shifts():
    image, most = random_images(1)[0], HEIGHT - 1
    images, key = np.broadcast_to(image, (64, *image.shape)), jax.random.key(1)
    flips = {one.tobytes() for one in np.asarray(augmentation(flip=True)(key, images))}
    assert flips == {image.tobytes(), image[:, ::-1].tobytes()}
    shifts = {one.tobytes() for one in np.asarray(augmentation(shift=most)(key, images))}
    moves = range(-most, most + 1)
    assert len(shifts) > 20
    assert shifts <= {shifted(image, i, j, 0.0).tobytes() for i in moves for j in moves}


# Rotation and crop


@pytest.mark.parametrize("quarters", [-1, 1, 2])
def test_quarter_turns_are_rot90(quarters):
    for side in (6, 7):
        image = random_images(1, side, side)[0]
        turned = forced(image, degrees=90 * quarters, fill=9.0)
        np.testing.assert_allclose(turned, np.rot90(image, quarters), atol=1e-6)


def test_half_turn_of_an_image_that_is_not_square():
    image = random_images(1)[0]
    np.testing.assert_allclose(forced(image, degrees=180, fill=9.0), image[::-1, ::-1], atol=2e-6)


def test_no_turn_and_no_crop_change_nothing():
    image = random_images(1)[0]
    np.testing.assert_allclose(forced(image, fill=9.0), image, rtol=1e-6)


@pytest.mark.parametrize("degrees", [-35.0, 12.0])
def test_rotation_is_that_of_scipy_and_fill_lies_beyond_the_edge(degrees):
    image = random_images(1)[0]
    turned = forced(image, degrees=degrees, fill=9.0)
    filled = (turned == 9).all(-1)
    expected = ndimage.rotate(image, degrees, reshape=False, order=1, mode="nearest")
    np.testing.assert_allclose(turned[~filled], expected[~filled], atol=2e-6)
    # Turned back, the centres of the pixels that were filled fall outside of the image.
    turn = np.exp(1j * math.radians(degrees))
    down, right = np.mgrid[:HEIGHT, :WIDTH] - np.array([HEIGHT - 1, WIDTH - 1])[:, None, None] / 2
    source = (right + 1j * down) * turn
    beyond = (abs(source.imag) > HEIGHT / 2) | (abs(source.real) > WIDTH / 2)
    np.testing.assert_array_equal(filled, beyond)
    assert 0 < beyond.sum() < HEIGHT * WIDTH / 3


@pytest.mark.parametrize("place", [(0.0, 0.0), (1.0, 1.0), (0.3, 0.8)])
def test_crop_is_that_of_scipy(place):
    image, side = random_images(1)[0], 0.6
    corner = np.array(place) * (HEIGHT, WIDTH) * (1 - side)
    # Pixels have their centres at a half.
    where = (np.mgrid[:HEIGHT, :WIDTH] + 0.5) * side + corner[:, None, None] - 0.5
    expected = [
        ndimage.map_coordinates(image[..., channel], where, order=1, mode="nearest")
        for channel in range(CHANNELS)
    ]
    cropped = forced(image, area=side**2, place=place, fill=9.0)
    np.testing.assert_allclose(cropped, np.stack(expected, -1), atol=2e-6)


def test_crop_turns_about_its_own_centre():
    image = random_images(1, 12, 12)[0]
    # The middle quarter, turned: the crop's surroundings are in the image, so nothing is filled.
    both = forced(image, degrees=90, area=0.25, fill=9.0)
    np.testing.assert_allclose(both, np.rot90(forced(image, area=0.25)), atol=2e-6)
    assert (forced(image, degrees=45, area=0.25, fill=9.0) < 1).all()


def test_angles_and_areas_stay_in_their_range_and_fill_it():
    # Of an image that is its own coordinates, two neighbours tell the angle and the scale.
    items = 1000
    grid = np.stack(np.mgrid[:9, :9], -1).astype(np.float32)
    images = np.broadcast_to(grid, (items, *grid.shape))
    augment = augmentation(rotation=30, crop=0.25, fill=-100.0)
    result = np.asarray(augment(jax.random.key(0), images))
    right = result[:, 4, 5] - result[:, 4, 4]  # (rows, columns) by a pixel to the right
    degrees = np.rad2deg(np.arctan2(right[:, 0], right[:, 1]))
    area = (right**2).sum(-1)
    assert abs(degrees).max() < 30.1
    assert area.min() > 0.249
    assert area.max() < 1.001
    assert_uniform(np.histogram(degrees, 10, (-30.1, 30.1))[0].tolist())
    assert_uniform(np.histogram(area, 10, (0.249, 1.001))[0].tolist())
    # The centre of a crop is uniform in the room that its size leaves.
    room = 9 * (1 - np.sqrt(area))[:, None]
    place = ((result[:, 4, 4] - 4) / room + 0.5)[room[:, 0] > 0.5]
    for axis in range(2):
        assert_uniform(np.histogram(place[:, axis], 10, (-0.001, 1.001))[0].tolist())


# Noise


def test_noise_has_its_mean_and_deviation_and_is_not_clipped():
    images = np.full((1500, HEIGHT, WIDTH, CHANNELS), 0.9, np.float32)
    augment = augmentation(noise=0.2)
    noise = np.asarray(augment(jax.random.key(0), images)) - 0.9
    error = 0.2 / math.sqrt(noise.size)
    assert abs(noise.mean()) < 4 * error
    assert abs(noise.std() - 0.2) < 4 * error
    assert noise.max() > 0.3


# One draw an episode, or one an item


def test_per_episode_all_images_change_alike_and_per_item_differently():
    images = np.broadcast_to(random_images(1), (5, HEIGHT, WIDTH, CHANNELS))
    # That every kind of change differs between items is in the tests of what is uniform.
    own = np.asarray(AUGMENT["item"](jax.random.key(0), images))
    assert len({one.tobytes() for one in own}) == 5
    alike = [np.asarray(AUGMENT["episode"](jax.random.key(seed), images)) for seed in range(5)]
    for result in alike:
        # Rounding may depend on where in the program's vectors a pixel lies.
        np.testing.assert_allclose(result, np.broadcast_to(result[:1], result.shape), atol=1e-5)
    assert len({result.tobytes() for result in alike}) == 5


def test_more_items_leave_the_draws_of_the_first_alone():
    images, key = random_images(8), jax.random.key(3)
    few, many = AUGMENT["item"](key, images[:5]), AUGMENT["item"](key, images)
    np.testing.assert_allclose(few, many[:5], atol=1e-6)


def test_switching_one_change_on_leaves_the_draws_of_the_others_alone():
    images, key = random_images(5), jax.random.key(4)
    noise = augmentation(noise=EVERYTHING["noise"])(key, np.zeros_like(images))
    np.testing.assert_allclose(AUGMENT["item"](key, images), QUIET(key, images) + noise, atol=2e-6)


# However it is called


@pytest.mark.parametrize("per", ["item", "episode"])
def test_compiled_eager_and_over_tasks_agree(per):
    images = random_images(10).reshape(2, 5, HEIGHT, WIDTH, CHANNELS)
    keys = jax.random.split(jax.random.key(5), 2)
    tasks = jax.jit(jax.vmap(AUGMENT[per]))(keys, images)
    for key, task, result in zip(keys, images, tasks, strict=True):
        np.testing.assert_allclose(AUGMENT[per](key, task), result, atol=2e-6)


@pytest.mark.slow
def test_without_compilation_at_all():
    images, key = random_images(5), jax.random.key(6)
    with jax.disable_jit():
        plain = AUGMENT["episode"](key, images)
    np.testing.assert_allclose(plain, AUGMENT["episode"](key, images), atol=2e-6)


def test_double_precision_makes_the_same_draws():
    images, key = random_images(5), jax.random.key(0)
    result = QUIET(key, images)
    with jax.enable_x64(True):
        doubles = QUIET(key, images.astype(np.float64))
        assert doubles.dtype == jnp.float64
        np.testing.assert_allclose(doubles, result, atol=1e-5)


@pytest.mark.exact
def test_all_off_gives_the_images_back_and_draws_nothing():
    images = random_images(3)
    for per in ("item", "episode"):
        augment = augmentation(per=per)
        np.testing.assert_array_equal(augment(jax.random.key(0), images), images)
        assert not jax.make_jaxpr(augment)(jax.random.key(0), images).eqns


def test_equal_settings_are_compiled_once():
    traces = []

    def program(augment, key, images):
        traces.append(augment)
        return augment(key, images)

    images, key = random_images(2), jax.random.key(0)
    for compiled in (jax.jit(program), jax.jit(program, static_argnums=0)):
        traces.clear()
        compiled(augmentation(fill=1), key, images)
        compiled(augmentation(shift=np.int64(0), fill=np.float32(1)), key, images)
        assert len(traces) == 1
        compiled(augmentation(fill=2), key, images)
        assert len(traces) == 2
    assert not jax.tree.leaves(AUGMENT["item"])


def test_half_precision_is_rounded_only_at_the_end():
    dtype = jnp.bfloat16
    images = jnp.asarray(random_images(5), dtype)
    result = AUGMENT["item"](jax.random.key(0), images)
    assert result.dtype == dtype
    expected = AUGMENT["item"](jax.random.key(0), images.astype(jnp.float32))
    precision = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(result.astype(jnp.float32), expected, rtol=precision, atol=1e-6)


def test_gradients_with_respect_to_the_images():
    images, key = jnp.asarray(random_images(5)), jax.random.key(0)
    augment = AUGMENT["item"]
    gradient = jax.jit(jax.grad(lambda images: augment(key, images).sum()))(images)
    assert np.isfinite(gradient).all()
    # The result is linear in the images but for the noise, so this is exact.
    change = augment(key, images) - augment(key, jnp.zeros_like(images))
    np.testing.assert_allclose((gradient * images).sum(), change.sum(), rtol=1e-4)


# Bad input


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"shift": -1}, ValueError, "shift=-1; expected an integer of 0 or more"),
        ({"shift": 1.5}, TypeError, "shift=1.5; expected an integer"),
        ({"shift": True}, TypeError, "shift=True; expected an integer"),
        ({"flip": 0.5}, TypeError, "flip=0.5; expected True or False"),
        ({"rotation": -1}, ValueError, "rotation=-1; expected degrees, 0 to 180"),
        ({"rotation": 181}, ValueError, "rotation=181; expected degrees, 0 to 180"),
        ({"crop": 0.0}, ValueError, "crop=0.0; expected a share of the area, above 0 to 1"),
        ({"crop": 1.2}, ValueError, "crop=1.2; expected a share of the area, above 0 to 1"),
        ({"noise": -0.1}, ValueError, "noise=-0.1; expected a finite standard deviation, 0 or"),
        ({"noise": math.nan}, ValueError, "noise=nan; expected a finite standard deviation"),
        ({"fill": math.inf}, ValueError, "fill=inf; expected a finite pixel value"),
        ({"per": "task"}, ValueError, 'per=\'task\'; expected "item" or "episode"'),
    ],
)
def test_bad_settings(settings, error, message):
    with pytest.raises(error, match=message):
        augmentation(**settings)


@pytest.mark.parametrize("augment", [augmentation(), augmentation(flip=True)])
def test_bad_images(augment):
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"shape \(6, 7, 2\); expected floats \[items"):
        augment(key, random_images(1)[0])
    with pytest.raises(ValueError, match=r"shape \(0, 6, 7, 2\); .* none of them 0"):
        augment(key, random_images(1)[:0])
    with pytest.raises(ValueError, match=r"images are uint8 of shape .* scale integers first"):
        augment(key, random_images(1).astype(np.uint8))


def test_shift_of_a_whole_image():
    with pytest.raises(ValueError, match="shift=6 of images 6x7; expected less than height and"):
        augmentation(shift=HEIGHT)(jax.random.key(0), random_images(1))
