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
        ("[h]ead", r"adapt='\[h\]ead' fits no parameter"),
        ("hea?", r"adapt='hea\?' fits no parameter"),
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
        ({"head"}, TypeError, r"adapt=\{'head'\}; expected a path .*, a list or tuple of paths"),
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


def test_a_predicate_may_answer_by_numpy() -> None:
    part, _ = select(_params(), lambda path, leaf: np.bool_(path == "head/1"))
    assert _paths(part) == {"head/1"}


def test_a_single_array_has_no_part() -> None:
    with pytest.raises(ValueError, match=r"every parameter; .* there are \(the only leaf\)"):
        select(jnp.ones(2), "*")


def test_a_score_that_is_a_number_is_recorded() -> None:
    model = mj.models.mlp((3, 2))
    learner = mj.maml(
        model,
        inner=optax.sgd(0.1),
        num_steps=1,
        adapt="Dense_1",
        record_steps=True,
        metrics={"count": lambda outputs, targets, weights: jnp.asarray(1.0 * len(outputs))},
    )
    items = mj.Examples(jnp.ones((4, 3)), jnp.arange(4) % 2)
    params = model.init(jax.random.key(0), items.inputs)
    _, aux = learner.loss(params, mj.Episode(items, items))
    assert aux.metrics["count_per_step"].tolist() == [4.0, 4.0]


def test_under_a_checked_shard_map() -> None:
    mesh = mj.parallel.task_mesh(jax.devices()[:2])
    axes = jax.sharding.PartitionSpec("tasks")
    keys = jax.random.split(jax.random.key(0), (2, 3))

    def meta(scale: Any, params: Any, keys: Any, adapt: Any) -> Any:
        def loss(params: Any, key: Any) -> Any:
            return params["body"] * (params["head"] - jax.random.normal(key)) ** 2

        loop = mj.InnerLoop(optax.sgd(0.1), 3, adapt=adapt)
        phi, _ = loop.run(loss, jax.tree.map(lambda x: x * scale, params), per_step=keys)
        return phi["head"]

    def run(adapt: Any, *, mapped: bool) -> Any:
        params = {"body": jnp.ones(()), "head": jnp.ones(())}

        def own(scales: Any, keys: Any) -> Any:
            return jax.vmap(lambda scale, keys: meta(scale, params, keys, adapt))(scales, keys)

        if mapped:
            own = jax.shard_map(own, mesh=mesh, in_specs=(axes, axes), out_specs=axes)
        return jax.jit(own)(jnp.array([1.0, 2.0]), keys)

    np.testing.assert_allclose(run("head", mapped=True), run("head", mapped=False), rtol=1e-6)
