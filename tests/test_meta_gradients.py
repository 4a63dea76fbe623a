"""A meta-batch: cut where nobody says how, its tasks' gradients transformed, its tasks weighed."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj
from metajax import meta_gradients

TASKS = 3
KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("width", "backend", "devices", "scanned"),
    [
        (1, "cpu", 1, False),
        (9_000, "cpu", 1, True),
        (9_000, "cpu", 4, False),
        (9_000, "gpu", 1, False),
    ],
)
def test_a_task_at_a_time_for_large_models_on_cpu(
    width: int, backend: str, devices: int, scanned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meta_gradients.jax, "default_backend", lambda: backend)
    monkeypatch.setattr(meta_gradients.jax, "device_count", lambda: devices)

    def loss(params: jax.Array, episode: jax.Array, key: jax.Array) -> tuple[jax.Array, mj.Aux]:
        del key
        return (params * episode).sum(), mj.Aux(metrics={}, outputs=jnp.zeros(()))

    program = jax.make_jaxpr(lambda *args: mj.meta_gradient(loss, *args))(
        jnp.ones(width), jnp.ones((TASKS, 1)), mj.task_keys(jax.random.key(0), TASKS)
    )
    lengths = [e.params["length"] for e in program.jaxpr.eqns if e.primitive.name == "scan"]
    assert lengths == ([TASKS] if scanned else [])


def _quadratic(params: dict, center: jax.Array, key: jax.Array) -> tuple[jax.Array, mj.Aux]:
    """Half the squared distance to a task's centre: its gradient is the difference."""
    del key
    difference = params["w"] - center
    metrics = {"query_loss": (difference**2).sum() / 2, "each_per_step": difference}
    return metrics["query_loss"], mj.Aux(None, metrics)


def _rooted(params: dict, center: jax.Array, key: jax.Array) -> tuple[jax.Array, mj.Aux]:
    """At a centre of 1 finite, and without a slope."""
    value, aux = _quadratic(params, center, key)
    return value + jnp.sqrt(jnp.abs(params["w"] - center)).sum(), aux


PARAMS = {"w": np.array([1.0, -2.0])}
CENTERS = np.array([[40.0, 1.0], [-3.0, 5.0], [2.0, 2.0], [0.5, -30.0]])
GRADIENTS = PARAMS["w"] - CENTERS
WEIGHTS = np.array([2, 0, 3, 1])
CLIP = optax.clip(10.0)
CLIP_NORM = optax.clip_by_global_norm(7.0)


@functools.partial(
    jax.jit, static_argnames=("loss", "chunk_size", "task_transform", "axis_name", "devices")
)
def _run(params, centers, weights=None, *, loss=_quadratic, devices=1, **options):
    keys = mj.task_keys(jax.random.key(0), len(centers))

    def part(centers, keys, weights):
        return mj.meta_gradient(loss, params, centers, keys, task_weights=weights, **options)

    if devices == 1:
        return part(centers, keys, weights)
    cut = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), (centers, keys, weights))
    return jax.vmap(part, axis_name=options["axis_name"])(*cut)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("chunk_size", [4, 2, 1])
def test_gradients_are_clipped_before_they_are_averaged(chunk_size: int) -> None:
    clipped = np.clip(GRADIENTS, -10, 10)
    gradient, (loss, _) = _run(PARAMS, CENTERS, chunk_size=chunk_size, task_transform=CLIP)
    np.testing.assert_allclose(gradient["w"], clipped.mean(0), rtol=1e-12)
    assert np.abs(clipped.mean(0) - np.clip(GRADIENTS.mean(0), -10, 10)).max() > 1
    np.testing.assert_allclose(loss, (GRADIENTS**2).sum(1).mean() / 2, rtol=1e-12)

    gradient, _ = _run(PARAMS, CENTERS, WEIGHTS, chunk_size=chunk_size, task_transform=CLIP)
    np.testing.assert_allclose(gradient["w"], WEIGHTS @ clipped / 6, rtol=1e-12)


@pytest.mark.usefixtures("float64")
def test_a_transformation_is_of_one_task_alone() -> None:
    norms = np.linalg.norm(GRADIENTS, axis=1, keepdims=True)
    gradient, _ = _run(PARAMS, CENTERS, task_transform=CLIP_NORM)
    expected = (GRADIENTS * np.minimum(1, 7 / norms)).mean(0)
    np.testing.assert_allclose(gradient["w"], expected, rtol=1e-12)
    # A momentum that went from task to task would add up; parameters decay into each gradient.
    stateful = optax.chain(optax.trace(0.9), optax.add_decayed_weights(0.1))
    for chunk_size in (1, 4):
        gradient, _ = _run(PARAMS, CENTERS, chunk_size=chunk_size, task_transform=stateful)
        expected = GRADIENTS.mean(0) + 0.1 * PARAMS["w"]
        np.testing.assert_allclose(gradient["w"], expected, rtol=1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("chunk_size", [4, 2, 1])
def test_whole_weights_are_tasks_more_than_once(chunk_size: int) -> None:
    weighed = _run(PARAMS, CENTERS, WEIGHTS, chunk_size=chunk_size)
    repeated = _run(PARAMS, np.repeat(CENTERS, WEIGHTS, axis=0))
    chex.assert_trees_all_close(weighed, repeated, rtol=1e-12)
    alike = _run(PARAMS, CENTERS, np.full(4, 0.3), chunk_size=chunk_size)
    chex.assert_trees_all_close(alike, _run(PARAMS, CENTERS), rtol=1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("transform", [None, CLIP])
def test_weights_count_over_all_devices(transform: optax.GradientTransformation | None) -> None:
    weights = np.array([0, 0, 3, 1])
    alone = _run(PARAMS, CENTERS, weights, task_transform=transform)
    options = {"devices": 2, "axis_name": "tasks", "task_transform": transform}
    twice = jax.tree.map(lambda x: jnp.stack([x, x]), alone)
    chex.assert_trees_all_close(_run(PARAMS, CENTERS, weights, **options), twice, rtol=1e-12)

    alone = _run(PARAMS, CENTERS, task_transform=transform)
    twice = jax.tree.map(lambda x: jnp.stack([x, x]), alone)
    chex.assert_trees_all_close(_run(PARAMS, CENTERS, **options), twice, rtol=1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("chunk_size", [4, 1])
@pytest.mark.parametrize("transform", [None, CLIP_NORM])
@pytest.mark.parametrize("junk", [np.nan, np.inf, 1.0])
def test_a_task_of_weight_0_does_not_count(
    chunk_size: int, transform: optax.GradientTransformation | None, junk: float
) -> None:
    options = {"chunk_size": chunk_size, "task_transform": transform, "loss": _rooted}
    spoilt = CENTERS.copy()
    spoilt[1] = junk
    result = _run(PARAMS, spoilt, WEIGHTS, **options)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result))
    chex.assert_trees_all_close(result, _run(PARAMS, CENTERS, WEIGHTS, **options), rtol=1e-12)
    assert not np.isfinite(_run(PARAMS, spoilt, np.ones(4), **options)[0]["w"]).all()


@pytest.mark.parametrize("weights", [np.zeros(4), np.array([1.0, -1.0, 3.0, 1.0])])
def test_weights_that_are_not_known_give_no_number(weights: np.ndarray) -> None:
    gradient, (loss, metrics) = _run(PARAMS, CENTERS, weights)
    for leaf in (gradient["w"], loss, *metrics.values()):
        assert np.isnan(leaf).all()


def test_half_precision_does_not_overflow_by_weights() -> None:
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float16), PARAMS)
    centers = jnp.asarray(CENTERS, jnp.float16)
    gradient, (loss, _) = _run(params, centers, np.full(4, 60_000, np.int32), chunk_size=2)
    assert gradient["w"].dtype == jnp.float16
    np.testing.assert_allclose(gradient["w"], GRADIENTS.mean(0), rtol=1e-3)
    np.testing.assert_allclose(loss, (GRADIENTS**2).sum(1).mean() / 2, rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"task_transform": 10.0},
            TypeError,
            r"task_transform is 10.0; .* such as optax.clip\(10.0\)",
        ),
        (
            {"task_weights": np.ones(3)},
            ValueError,
            r"task_weights have shape \(3,\); expected \(4,\), one number a task, 0 where",
        ),
        ({"task_weights": [1, 2, 3, -4]}, ValueError, r"task_weights hold -4; expected finite"),
        ({"task_weights": np.full(4, np.nan)}, ValueError, r"task_weights hold nan; expected fin"),
        ({"task_weights": jnp.zeros(4)}, ValueError, r"task_weights are all 0.*one above 0"),
    ],
)
def test_bad_options(options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        mj.meta_gradient(_quadratic, PARAMS, CENTERS, jax.random.split(KEY, 4), **options)


@pytest.mark.parametrize("options", [{}, {"chunk_size": 1}, {"task_weights": np.ones(4)}])
def test_a_meta_loss_is_a_scalar(options: dict) -> None:
    def loss(params: dict, center: jax.Array, key: jax.Array) -> tuple[jax.Array, mj.Aux]:
        del key
        return params["w"] - center, mj.Aux(None, {})

    with pytest.raises(ValueError, match=r"the meta-loss has shape \(2,\); expected a scalar"):
        mj.meta_gradient(loss, PARAMS, CENTERS, jax.random.split(KEY, 4), **options)


@pytest.mark.parametrize("chunk_size", [1, 2, 4])
def test_a_metric_that_is_no_float_is_averaged_too(chunk_size: int) -> None:
    def loss(params: dict, center: jax.Array, key: jax.Array) -> tuple[jax.Array, mj.Aux]:
        value, _ = _quadratic(params, center, key)
        return value, mj.Aux(None, {"far": center[0] > 1, "count": jnp.int32(3)})

    keys = mj.task_keys(KEY, 4)
    _, (_, metrics) = mj.meta_gradient(loss, PARAMS, CENTERS, keys, chunk_size=chunk_size)
    assert (float(metrics["far"]), float(metrics["count"])) == (0.5, 3.0)
