"""Which parameters an inner loop adapts."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

import metajax as mj
from metajax.inner.selection import select

ADAM = optax.adam(0.1, eps_root=1e-8)


class Net(NamedTuple):
    body: Any
    head: Any


def _params() -> Net:
    layer = {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}
    return Net({"Dense_0": layer, "Dense_1": layer, "steps": jnp.array(3)}, [jnp.ones(3)] * 2)


def _paths(part: Any) -> set[str]:
    leaves = jax.tree_util.tree_leaves_with_path(part)
    return {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves}


@pytest.mark.parametrize(
    ("adapt", "expected"),
    [
        ("head", {"head/0", "head/1"}),
        ("head/1", {"head/1"}),
        ("body/Dense_1", {"body/Dense_1/kernel", "body/Dense_1/bias"}),
        ("*/bias", {"body/Dense_0/bias", "body/Dense_1/bias"}),
        ("body/*_1/kernel", {"body/Dense_1/kernel"}),
        (("*Dense_1", "head/0"), {"body/Dense_1/kernel", "body/Dense_1/bias", "head/0"}),
        (lambda path, leaf: leaf.shape == (2, 3), {"body/Dense_0/kernel", "body/Dense_1/kernel"}),
        (
            lambda path, leaf: path.startswith("body") and jnp.issubdtype(leaf.dtype, jnp.floating),
            {f"body/Dense_{i}/{name}" for i in (0, 1) for name in ("kernel", "bias")},
        ),
    ],
)
def test_paths(adapt: Any, expected: set[str]) -> None:
    part, whole = select(_params(), adapt)
    assert _paths(part) == expected
    changed = whole(jax.tree.map(lambda x: x + 1, part))
    for (path, new), old in zip(
        jax.tree_util.tree_leaves_with_path(changed), jax.tree.leaves(_params()), strict=True
    ):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        np.testing.assert_array_equal(new, old + (name in expected))


@pytest.mark.parametrize(
    ("adapt", "message"),
    [
        (
            "haed",
            r"adapt='haed' fits no parameter; there are body/Dense_0/bias, .*, head/0, head/1",
        ),
        (("head", "body/scale"), r"adapt='body/scale' fits no parameter; there are body/Dense_0"),
        ("hea", r"adapt='hea' fits no parameter"),
        ("*", r"adapt='\*' selects every parameter; expected a part of them, or None"),
        (("body", "head"), r"selects every parameter; .* there are body/Dense_0/bias"),
        (lambda path, leaf: False, r"selects no parameter; .* there are body/Dense_0/bias"),
        ("body", r"adapt='body' selects body/steps, which holds int\d\d; expected floats alone"),
    ],
)
def test_what_does_not_fit(adapt: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select(_params(), adapt)


def test_a_predicate_that_answers_no_bool() -> None:
    with pytest.raises(TypeError, match=r"returned 'bias' for body/Dense_0/bias; expected True or"):
        select(_params(), lambda path, leaf: path[-4:])


@pytest.mark.parametrize(
    ("adapt", "error", "message"),
    [
        (3, TypeError, r"adapt=3; expected a path such as 'head'"),
        ([True], TypeError, r"adapt=\[True\]; expected a path"),
        ((), ValueError, r"adapt=\(\) names nothing"),
        ("", ValueError, r"adapt='' names nothing"),
        (["head", ""], ValueError, r"names nothing"),
    ],
)
def test_no_selection(adapt: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        mj.InnerLoop(optax.sgd(0.1), 1, adapt=adapt)


def test_many_paths_are_cut() -> None:
    with pytest.raises(ValueError, match=r"there are 0, 1, .*, 29, \.\.\. \(50 in all\)"):
        select([jnp.ones(1)] * 50, "kernel")


def _meta(params: Any, adapt: Any, inner: Any, **options: Any) -> Any:
    inputs, targets = oracles.normals(3, (6, 4), (6, 2))

    def loss(params: Any, key: Any) -> Any:
        hidden = jnp.tanh(inputs @ params["body"] + params["shift"][None])
        return jnp.mean((hidden @ params["head"] - targets) ** 2)

    def observe(params: Any) -> Any:
        return loss(params, None)

    loop = mj.InnerLoop(inner, 3, adapt=adapt, **options)
    _, seen = loop.run(loss, params, observe=observe)
    return seen[-1] + seen.sum()


_STOPPED = optax.set_to_zero()
_LABELS = {"body": "stopped", "head": "moved", "shift": "moved"}


_MOMENTUM = optax.sgd(0.1, momentum=0.9)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("inner", "options"),
    [
        pytest.param(optax.sgd(0.2), {}, id="sgd"),
        pytest.param(ADAM, {}, id="adam"),
        pytest.param(_MOMENTUM, {"first_order": True}, id="first order"),
        pytest.param(_MOMENTUM, {"backward": mj.Backward(mixed=True)}, id="mixed"),
        pytest.param(
            _MOMENTUM, {"backward": mj.Backward(checkpoint="nested", last_steps=2)}, id="nested"
        ),
        pytest.param(_MOMENTUM, {"backward": mj.Backward(unroll=True)}, id="unrolled"),
    ],
)
def test_equals_a_partition_that_stops_the_others(inner: Any, options: dict) -> None:
    body, head, shift = oracles.normals(1, (4, 3), (3, 2), (3,))
    params = {"body": body, "head": head, "shift": shift}
    both = optax.partition({"moved": inner, "stopped": _STOPPED}, _LABELS)
    got, expected = (
        jax.jit(jax.value_and_grad(lambda params, a=adapt, o=rule: _meta(params, a, o, **options)))(
            params
        )
        for adapt, rule in ((("head", "shift"), inner), (None, both))
    )
    oracles.assert_close(got, expected)


@pytest.mark.usefixtures("float64")
def test_what_follows_a_steps_key_is_drawn_at_every_step() -> None:
    inputs, body, head = oracles.normals(3, (6, 4), (4, 3), (3, 2))
    keys = jax.random.split(jax.random.key(0), 3)

    def loss(params: Any, key: Any) -> Any:
        noisy = inputs + jax.random.normal(key, inputs.shape)
        return jnp.mean((jnp.tanh(noisy @ params["body"]) @ params["head"]) ** 2)

    def meta(params: Any, adapt: Any, inner: Any) -> Any:
        loop = mj.InnerLoop(inner, 3, adapt=adapt)
        phi, _ = loop.run(loss, params, per_step=keys)
        return loss(phi, keys[0])

    stopped = optax.partition(
        {"moved": optax.sgd(0.2), "stopped": _STOPPED}, {"body": "stopped", "head": "moved"}
    )
    got, expected = (
        jax.jit(jax.value_and_grad(lambda params, a=adapt, i=inner: meta(params, a, i)))(
            {"body": body, "head": head}
        )
        for adapt, inner in (("head", optax.sgd(0.2)), (None, stopped))
    )
    oracles.assert_close(got, expected)
