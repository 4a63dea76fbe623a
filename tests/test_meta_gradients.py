"""How a meta-batch is cut where nobody says how."""

import jax
import jax.numpy as jnp
import pytest

import metajax as mj
from metajax import meta_gradients

TASKS = 3


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
