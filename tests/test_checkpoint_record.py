"""What the record of a checkpoint tells apart, and what is refused for it."""

import json
import os
import shutil
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from checkpoint_states import (
    OPTIMIZER,
    OPTIONS,
    names,
    open_checkpoints,
    same,
    save_steps,
    state_of,
)

import metajax as mj
from metajax.checkpoint import record_file
from metajax.checkpoint.record_file import sealed

FIXTURE = Path(__file__).parent / "fixtures" / "checkpoint_format_2"


def test_another_state_is_refused(tmp_path: Path) -> None:
    save_steps(tmp_path, 3)
    state = state_of()
    adamw = optax.chain(optax.scale_by_adam(), optax.trace(0.9))
    cases = {
        r"parameters differ: 'params/w' is float32\[4\] in the checkpoint and float32\[5\] here": (
            state_of(width=5)
        ),
        r"parameters differ: 'params/half' is missing here|'params/more' is missing in the check": (
            mj.init_state({"w": jnp.ones(4), "more": jnp.ones(1)}, OPTIMIZER, state.key)
        ),
        r"another run. the optimiser state differs: 'opt_state/0/count' is int32\[\] in the .* and "
        r"missing here": mj.init_state(state.params, optax.sgd(0.1), state.key),
        r"optimiser state differs: 'opt_state/1/trace/half' is missing in the .* and bfloat16": (
            mj.init_state(state.params, adamw, state.key)
        ),
        r"parameters differ: 'params/half' is bfloat16\[2\] in .* and float32\[2\] here": (
            state._replace(params={**state.params, "half": jnp.ones(2)})
        ),
        r"another run. the key differs: 'key' is key<fry>\[\] in .* and key<rbg>\[\] here": (
            state._replace(key=jax.random.key(7, impl="rbg"))
        ),
        r"the key differs: 'key' is key<fry>\[\] in .* and uint32\[2\] here": (
            state._replace(key=jax.random.key_data(state.key))
        ),
    }
    for message, like in cases.items():
        for restore in (
            open_checkpoints(tmp_path).restore,
            lambda x: mj.restore_state(tmp_path, x),
        ):
            with pytest.raises(ValueError, match=message):
                restore(like)
    assert names(tmp_path) == ["3"]


def test_another_precision_is_refused(tmp_path: Path, float64: None) -> None:
    del float64
    save_steps(tmp_path, 3)
    with pytest.raises(ValueError, match=r"'params/w' is float32\[4\] in .* and float64\[4\] here"):
        mj.restore_state(tmp_path, state_of(dtype=np.float64))


def test_other_options_are_refused(tmp_path: Path) -> None:
    save_steps(tmp_path, 3)
    other = {"algorithm": "reptile", "rates": (0.1, 0.2), "seed": 0}
    with pytest.raises(
        ValueError,
        match=r"options differ: 'algorithm' is 'maml' in the checkpoint and 'reptile' here; 'seed' "
        r"is missing in the checkpoint and 0 here. Give",
    ):
        open_checkpoints(tmp_path, other).restore(state_of())
    with pytest.raises(ValueError, match=r"'rates' is \[0.1, 0.2\] in the checkpoint and missing"):
        mj.restore_state(tmp_path, state_of(), options={"algorithm": "maml"})
    tuples = {**OPTIONS, "rates": (0.1, 0.2)}
    assert same(open_checkpoints(tmp_path, tuples).restore(state_of()), state_of(3))


def _nested() -> list[Any]:
    out: list[Any] = []
    for _ in range(100_000):
        out = [out]
    return out


@pytest.mark.parametrize("value", [Path("x"), np.float32(1), {"a": {1}}, float("nan"), _nested()])
def test_options_that_json_cannot_hold(value: object) -> None:
    with pytest.raises(TypeError, match=r"options\['rate'\] is .*; expected what JSON can hold"):
        open_checkpoints(Path("unused"), {"rate": value})


def _rewrite(folder: Path, change: Mapping[str, Any], without: str = "") -> None:
    """Another record in a checkpoint, which proves itself."""
    file = folder / "record" / "metadata"
    record = {**json.loads(file.read_text()), **change}
    for name in ("digest", without):
        record.pop(name, None)
    file.write_text(json.dumps(sealed(record)))


@pytest.mark.parametrize(("version", "age"), [(3, "newer"), (1, "older")])
def test_an_unknown_format_is_refused(tmp_path: Path, version: int, age: str) -> None:
    save_steps(tmp_path, 3, 4)
    _rewrite(tmp_path / "4", {"format": version})
    with pytest.raises(ValueError, match=rf"format {version}, and .* format 2: .* {age} metajax"):
        open_checkpoints(tmp_path).restore(state_of())
    with pytest.raises(FileExistsError, match="a checkpoint of step 4"):
        open_checkpoints(tmp_path).begin(state_of(5))
    assert names(tmp_path) == ["3", "4"]


_NO_RECORDS: list[dict[str, Any]] = [
    {"format": "2"},
    {"format": True},
    {"step": 4.0},
    {"step": -4},
    {"step": 3},
    {"options": [1]},
    {"score": "0.5"},
    {"score": True},
    {"mode": "most"},
    {"positions": None},
    {"classes": {"opt_state/0": 1}},
    {"leaves": ["step"]},
    {"leaves": {"step": "int32[]"}},
    {"arrays": {}},
    {"arrays": {"step": "int32"}},
    {"arrays": {"step": {"dtype": "int32", "shape": [2**70], "digest": 0}}},
    {"arrays": {"step": {"dtype": "int32", "shape": [-1], "digest": 0}}},
    {"arrays": {"step": {"dtype": "int32", "shape": [], "digest": True}}},
    {"arrays": {"step": {"dtype": "O", "shape": [], "digest": 0}}},
    {"more": 1},
]


def test_a_record_of_another_form_is_damaged(tmp_path: Path) -> None:
    save_steps(tmp_path, 3, 4)
    file = tmp_path / "4" / "record" / "metadata"
    text = file.read_text()
    for change in _NO_RECORDS:
        file.write_text(text)
        _rewrite(tmp_path / "4", change)
        with pytest.warns(RuntimeWarning, match=r"4 is damaged: its record: .*restored step 3"):
            mj.restore_state(tmp_path, state_of())


def test_a_record_that_lacks_a_field_is_damaged(tmp_path: Path) -> None:
    save_steps(tmp_path, 3, 4)
    text = (tmp_path / "4" / "record" / "metadata").read_text()
    for name in json.loads(text):
        (tmp_path / "4" / "record" / "metadata").write_text(text)
        _rewrite(tmp_path / "4", {}, without=name)
        if name != "digest":  # Which is made anew.
            with pytest.warns(RuntimeWarning, match="step 4 is damaged: its record"):
                mj.restore_state(tmp_path, state_of())


_NO_JSON = [
    "[" * 100_000,
    '{"a":' * 100_000,
    '{"digest": Infinity}',
    '{"digest": NaN}',
    '{"digest": 0, "format": 1e999}',
    '{"digest": 0, "format": ' + "9" * 5000 + "}",
    '{"digest": 0, "format": "\\ud800"}',
    "\ud800",
    "null",
    "7",
]


def test_json_that_is_no_record_is_damaged(tmp_path: Path) -> None:
    save_steps(tmp_path, 3, 4)
    for text in _NO_JSON:
        file = tmp_path / "4" / "record" / "metadata"
        file.write_bytes(text.encode(errors="surrogatepass"))
        with pytest.warns(RuntimeWarning, match=r"4 is damaged: its record: .*restored step 3"):
            mj.restore_state(tmp_path, state_of())


def test_a_record_too_large_is_neither_read_nor_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_steps(tmp_path, 3, 4)
    os.truncate(tmp_path / "4" / "record" / "metadata", 2**40)
    with pytest.warns(RuntimeWarning, match="its record: it has 1099511627776 bytes; expected at"):
        mj.restore_state(tmp_path, state_of())
    monkeypatch.setattr(record_file, "LARGEST", 3000)
    with open_checkpoints(tmp_path / "run") as checkpoints:
        with pytest.raises(ValueError, match="expected at most 3000: make the options smaller"):
            checkpoints.save(state_of(1), position="x" * 3000)
        checkpoints.save(state_of(1), position="x")
    assert same(mj.restore_state(tmp_path / "run", state_of()), state_of(1))


def test_the_folders_name_is_the_step(tmp_path: Path) -> None:
    save_steps(tmp_path, 3, 4)
    for name in ("007", "+7", "\uff17", "7" * 30, "\u00b2"):
        shutil.copytree(tmp_path / "4", tmp_path / name)
    assert same(mj.restore_state(tmp_path, state_of()), state_of(4))
    shutil.copytree(tmp_path / "4", tmp_path / "7")
    with pytest.warns(RuntimeWarning, match=r"7 is damaged: its record: it is of step 4; restored"):
        assert same(mj.restore_state(tmp_path, state_of()), state_of(4))


@pytest.mark.parametrize(
    ("stored", "here", "classes"),
    [
        (optax.adam(0.1), optax.adabelief(0.1), ("ScaleByAdamState", "ScaleByBeliefState")),
        (optax.adam(0.1), optax.radam(0.1), None),
        (optax.adam(0.1), optax.nadam(0.2), None),
        (optax.adamw(0.1), optax.adam(0.1), ("EmptyState", "missing")),
    ],
)
def test_another_optimizer_with_arrays_of_the_same_names(
    tmp_path: Path,
    stored: optax.GradientTransformation,
    here: optax.GradientTransformation,
    classes: tuple[str, str] | None,
) -> None:
    """Without different classes the checkpoint is restored, as the documentation says."""
    params = {"w": jnp.ones(3)}
    begun, like = (mj.init_state(params, each, jax.random.key(0)) for each in (stored, here))
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save(begun)
    if classes is None:
        assert same(mj.restore_state(tmp_path, like), like)
        return
    was, now = classes
    with pytest.raises(ValueError, match=rf"another: '.*' is {was} in the .* and {now} here"):
        open_checkpoints(tmp_path).restore(like)


def test_parameters_may_lie_in_another_class_of_dictionary(tmp_path: Path) -> None:
    params = {"a": {"w": jnp.ones(3)}, "b": jnp.zeros(2)}
    ordered = OrderedDict(a=OrderedDict(w=jnp.ones(3)), b=jnp.zeros(2))
    begun, like = (mj.init_state(each, OPTIMIZER, jax.random.key(0)) for each in (params, ordered))
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save(begun)
    assert same(mj.restore_state(tmp_path, like), like)


def test_scores_and_positions_are_what_json_can_hold(tmp_path: Path) -> None:
    with open_checkpoints(tmp_path, keep=9) as checkpoints:
        for step, score in enumerate((0.5, float("nan"), float("inf"), -float("inf"), None)):
            checkpoints.save(state_of(step), score=score)
        with pytest.raises(TypeError, match="position is nan; expected what JSON can hold"):
            checkpoints.save(state_of(9), position=float("nan"))
    assert same(mj.restore_state(tmp_path, state_of(), which="best"), state_of(0))


# Made by: with mj.Checkpoints(FIXTURE, options=OPTIONS) as c: c.save(_format_2_state(1), score=0.5)
def test_a_checkpoint_of_format_2_stays_readable() -> None:
    restored = mj.restore_state(FIXTURE, _format_2_state(0), which="best", options=OPTIONS)
    assert same(restored, _format_2_state(1))
    assert np.asarray(restored.params["Dense_0"]["bias"]).tolist() == [x / 4 for x in range(8)]


def _format_2_state(scale: int) -> mj.TrainState:
    """The sinusoid's small network with Adam; leaf i holds i, i + 1/4, i + 2/4, ..."""
    params = mj.models.mlp((8, 1)).init(jax.random.key(0), jnp.zeros((1, 1)))
    state = mj.init_state(params, OPTIMIZER, jax.random.key(scale))
    leaves, structure = jax.tree.flatten(state[:3])
    filled = [
        jnp.asarray(((np.arange(x.size).reshape(x.shape) / 4 + i) * scale).astype(x.dtype))
        for i, x in enumerate(leaves)
    ]
    return mj.TrainState(*jax.tree.unflatten(structure, filled), state.key)
