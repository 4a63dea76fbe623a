"""Vision transformers give what Transformers' own code gave: see make_references.py."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from models.pretrained.make_references import pictures
from safetensors.numpy import load_file, save_file

from metajax.models.pretrained import Backbone, vision_transformer
from metajax.models.pretrained.vision_configs import read_settings
from metajax.regular_files import IrregularFileError

SAVED = Path(__file__).parent / "saved"
FAMILIES = ("vit", "dinov2", "clip", "siglip")
IMAGES = jnp.asarray(pictures(3, 8) / 255, jnp.float32)


def _tensors(family: str) -> dict[str, np.ndarray]:
    return load_file(SAVED / family / "model.safetensors")


def _changed(folder: Path, name: str, **values: Any) -> None:
    """Other values in a file of JSON."""
    found = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**found, **values}))


def _copy(family: str, folder: Path) -> Path:
    return Path(shutil.copytree(SAVED / family, folder / family))


def _features(backbone: Backbone, images: jax.Array = IMAGES) -> jax.Array:
    with jax.default_matmul_precision("highest"):
        return jax.jit(backbone.model.apply)(backbone.params, images)


def _assert_near(got: jax.Array, family: str, tolerance: float = 1e-5) -> None:
    expected = np.load(SAVED / family / "features.npy")
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() < tolerance * np.abs(expected).max()


def _assert_loaded(folder: Path, family: str) -> None:
    """The parameters are those of the family's own folder."""
    got, expected = (vision_transformer(each).params for each in (folder, SAVED / family))
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, got, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_those_of_transformers(family: str) -> None:
    backbone = vision_transformer(SAVED / family)
    _assert_near(_features(backbone), family)
    assert list(backbone.parts) == ["embeddings", "block1", "block2", "pooling"]
    kernel = backbone.params["block2"]["attention"]["query"]["kernel"]
    assert kernel.shape == (16, 16)


def test_tokens_far_from_0_are_normalised() -> None:
    """As some tokens of large networks are; the variance of 32 bits would be lost in the mean."""
    model, params = vision_transformer(SAVED / "vit").parts["pooling"]
    (tokens,) = oracles.normals(0, (2, 3, 16))
    tokens = (100 + 0.1 * tokens).astype(np.float32)
    first = np.asarray(tokens[:, 0], np.float64)
    spread = (first - first.mean(-1, keepdims=True)) / first.std(-1, keepdims=True)
    scale, bias = (np.asarray(params["norm"][name]) for name in ("scale", "bias"))
    expected = spread * scale + bias
    np.testing.assert_allclose(model.apply(params, tokens), expected, rtol=0, atol=2e-3)


def test_images_of_other_sides_are_brought_to_the_networks() -> None:
    seen = vision_transformer(SAVED / "clip").preprocessing
    assert seen is not None
    large = jnp.asarray(pictures(3, 12) / 255, jnp.float32)
    small = jax.image.resize(large, (3, 8, 8, 3), "bicubic")
    np.testing.assert_array_equal(seen(large), seen(small))


@pytest.mark.parametrize(
    ("family", "patch", "activation", "epsilon"),
    [
        ("vit", 16, "gelu", 1e-12),
        ("dinov2", 14, "gelu", 1e-6),
        ("clip", 32, "quick_gelu", 1e-5),
        ("siglip", 16, "gelu_pytorch_tanh", 1e-6),
    ],
)
def test_what_a_configuration_leaves_out(
    family: str, patch: int, activation: str, epsilon: float, tmp_path: Path
) -> None:
    """It is a base model, with the family's own constants: published files rely on them."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    base = (family, 224, patch, 768, 12, 12, 3072, activation, epsilon, True, None)
    assert read_settings(tmp_path / "config.json") == base


@pytest.mark.parametrize("family", ["dinov2", "clip", "siglip"])
def test_without_its_file_the_preprocessing_is_the_familys(family: str, tmp_path: Path) -> None:
    folder = _copy(family, tmp_path)
    (folder / "preprocessor_config.json").unlink()
    there = vision_transformer(SAVED / family).preprocessing
    assert vision_transformer(folder).preprocessing == there


def test_the_preprocessing_that_a_file_says(tmp_path: Path) -> None:
    folder = _copy("clip", tmp_path)
    changed = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3], "resample": 2}
    _changed(folder, "preprocessor_config.json", **changed)
    seen = vision_transformer(folder).preprocessing
    assert seen is not None
    assert (seen.mean, seen.std) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    assert (seen.size, seen.resizing) == (8, "bilinear")


@pytest.mark.parametrize(("family", "image"), [("clip", "vision_model."), ("siglip", "vision_m")])
def test_the_half_of_the_images_alone(family: str, image: str, tmp_path: Path) -> None:
    folder = _copy(family, tmp_path)
    own = {name: x for name, x in _tensors(family).items() if name.startswith(("visual", image))}
    if family == "siglip":  # Saved alone, it has no prefix.
        own = {name.removeprefix("vision_model."): x for name, x in own.items()}
    save_file(own, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())["vision_config"]
    assert config["model_type"] == f"{family}_vision_model"
    (folder / "config.json").write_text(json.dumps(config))
    _assert_loaded(folder, family)


def test_a_vit_without_its_classifier(tmp_path: Path) -> None:
    folder = _copy("vit", tmp_path)
    own = {name.removeprefix("vit."): x for name, x in _tensors("vit").items()}
    own["pooler.dense.weight"] = own.pop("classifier.weight")
    save_file(own, folder / "model.safetensors")
    _assert_loaded(folder, "vit")


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
def test_weights_of_half_precision_become_floats(dtype: Any, tmp_path: Path) -> None:
    folder = _copy("dinov2", tmp_path)
    halves = {name: x.astype(dtype) for name, x in _tensors("dinov2").items()}
    also = {"encoder.vision_position_ids": np.arange(5)}  # As jax-image-models saves.
    save_file({**halves, **also}, folder / "model.safetensors")
    backbone = vision_transformer(folder)
    assert {x.dtype for x in jax.tree.leaves(backbone.params)} == {jnp.dtype("float32")}
    whole = vision_transformer(SAVED / "dinov2").params
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 0.01), backbone.params, whole)


def test_what_weights_do_not_tell_is_in_the_name_and_so_in_the_digest(tmp_path: Path) -> None:
    folder = _copy("dinov2", tmp_path)
    names = [vision_transformer(folder).name]
    for change in ({"num_attention_heads": 4}, {"hidden_act": "quick_gelu"}):
        _changed(folder, "config.json", **change)
        names.append(vision_transformer(folder).name)
    assert len(set(names)) == 3


@pytest.mark.slow
def test_a_digest_is_the_same_in_every_load() -> None:
    digests = {vision_transformer(SAVED / "vit").digest((8, 8, 3)) for _ in range(2)}
    assert len(digests) == 1


def test_a_cut_and_gradients_of_a_block() -> None:
    backbone = vision_transformer(SAVED / "siglip")
    trunk, tail = backbone.cut("block2")

    @jax.jit
    def run(params: Any) -> Any:
        tokens = trunk.model.apply(trunk.params, IMAGES)
        return tail.model.apply(params, tokens), jax.grad(
            lambda params: tail.model.apply(params, tokens).sum()
        )(params)

    features, gradients = run(tail.params)
    _assert_near(features, "siglip", 1e-4)
    norms = jax.tree.map(lambda x: float(jnp.abs(x).max()), gradients["block2"])
    assert min(x for x in jax.tree.leaves(norms["mlp"])) > 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layernorm.bias": None}, "lacks layernorm.bias; expected the 42 tensors"),
        (
            {"encoder.layer.2.norm1.bias": np.zeros(16)},
            "holds as well encoder.layer.2.norm1.bias; expected the 42",
        ),
        (
            {"encoder.layer.1.mlp.fc1.weight": np.zeros((8, 16))},
            r"has encoder.layer.1.mlp.fc1.weight of shape \(8, 16\) .* floats of \(16, 32\)",
        ),
        ({"layernorm.bias": np.full(16, np.nan)}, "has NaN or inf in layernorm.bias"),
    ],
)
def test_weights_that_do_not_fit(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = _copy("dinov2", tmp_path)
    changed = {name: x for name, x in {**_tensors("dinov2"), **change}.items() if x is not None}
    save_file(changed, folder / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        vision_transformer(folder)


def test_weights_of_another_network(tmp_path: Path) -> None:
    folder = _copy("dinov2", tmp_path)
    shutil.copy(SAVED / "vit" / "model.safetensors", folder)
    with pytest.raises(ValueError, match=r"lacks vit.encoder.layer.0.layer_scale1.lambda1"):
        vision_transformer(folder)
    whole = {name: x.astype(np.int32) for name, x in _tensors("dinov2").items()}
    save_file(whole, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"int32, of which .* expected floats"):
        vision_transformer(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "resnet"}, "model_type resnet; expected one of vit, dinov2, clip, siglip"),
        ({"model_type": None}, "model_type None; expected one of"),
        ({"num_hidden_layers": 3}, "lacks encoder.layer.2"),
        ({"num_hidden_layers": 1}, r"holds as well encoder.layer.1.* and 15 more"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers 2; expected a positive integer"),
        ({"num_attention_heads": 3}, "hidden_size 16 for 3 heads"),
        ({"image_size": 3}, "patches of 4 of 3 pixels"),
        ({"image_size": 12}, r"embeddings of shape .*expected floats of \(10, 16\)"),
        ({"hidden_act": "relu"}, "hidden_act relu; expected one of gelu, gelu_new"),
        ({"layer_norm_eps": 0}, "layer_norm_eps 0; expected a positive number"),
        ({"num_channels": 1}, "num_channels 1; expected 3, since no other is supported"),
        ({"use_swiglu_ffn": True}, "use_swiglu_ffn True; expected false"),
        ({"qkv_bias": 1}, "qkv_bias 1; expected true or false"),
        ({"qkv_bias": False}, "holds as well encoder.layer.0.attention.attention.key.bias"),
        ({"vision_config": 3}, "vision_config that is no object"),
    ],
)
def test_configurations_that_are_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = _copy("dinov2", tmp_path)
    _changed(folder, "config.json", **change)
    with pytest.raises(ValueError, match=message):
        vision_transformer(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_mean": 0.5}, "image_mean 0.5; expected three numbers"),
        ({"image_std": [1, 1, 0]}, "expected three numbers above 0"),
        ({"resample": 1}, r"resample 1; expected 2 \(bilinear\) or 3 \(bicubic\)"),
        ({"rescale_factor": 1}, "rescale_factor 1; expected 1 / 255"),
        ({"do_normalize": False}, "do_normalize False; expected true"),
    ],
)
def test_preprocessing_that_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = _copy("clip", tmp_path)
    _changed(folder, "preprocessor_config.json", **change)
    with pytest.raises(ValueError, match=message):
        vision_transformer(folder)


_EIGHT_BITS = {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}


def test_damaged_files(tmp_path: Path) -> None:
    folder = _copy("vit", tmp_path)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for damaged in (b"", whole[:5], whole[:100], whole[:-1], whole + b"\0", b"\xff" * 8 + whole):
        weights.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"is damaged, or no file of safetensors"):
            vision_transformer(folder)
    header = json.dumps({"layernorm.bias": _EIGHT_BITS}).encode()
    weights.write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    with pytest.raises(ValueError, match=r"float8_e4m3fn.*; expected floats of 64, 32 or 16 bits"):
        vision_transformer(folder)
    for content in ("", "[1]", "{"):
        (folder / "config.json").write_text(content)
        with pytest.raises(ValueError, match=r"config.json' is (no JSON|a list in JSON)"):
            vision_transformer(folder)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no config.json and no model.safetensors"):
        vision_transformer(tmp_path / "facebook/dinov2-small")
    folder = _copy("vit", tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"has no model.safetensors; expected a folder"):
        vision_transformer(folder)
    (folder / "model.safetensors").mkdir()
    with pytest.raises(IrregularFileError, match=r"model.safetensors' is a folder"):
        vision_transformer(folder)


def test_without_safetensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match=r'safetensors, .*pip install "metajax\[pretrained\]"'):
        vision_transformer(SAVED / "vit")
