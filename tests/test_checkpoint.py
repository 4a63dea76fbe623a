"""Checkpoints: what was saved comes back bit for bit, or is refused, or is known to be damaged."""

import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import metajax as mj

OPTIMIZER = optax.adam(1e-2)
LEARNER = mj.maml(
    mj.models.mlp((8, 1)), inner=optax.sgd(0.01), num_steps=1, loss_fn=mj.squared_error
)
SAMPLE = mj.data.sinusoid_episodes(shots=5, queries=5)
OPTIONS = {"algorithm": "maml", "rates": [0.1, 0.2]}
FIXTURE = Path(__file__).parent / "fixtures" / "checkpoint_format_1"


def _state(step: int = 0, *, width: int = 4, dtype: Any = np.float32) -> mj.TrainState:
    """A state of a few numbers, which are others at every step."""
    params = {"w": np.arange(width, dtype=dtype) + step, "half": jnp.full(2, step, jnp.bfloat16)}
    state = mj.init_state(jax.tree.map(jnp.asarray, params), OPTIMIZER, jax.random.key(7))
    return state._replace(step=jnp.asarray(np.int32(step)))


def _checkpoints(folder: Path, options: Mapping[str, Any] = OPTIONS, **kwargs: Any) -> Any:
    return mj.Checkpoints(folder, options=options, **kwargs)


def _save(folder: Path, *steps: int, **kwargs: Any) -> None:
    with _checkpoints(folder, **kwargs) as checkpoints:
        for step in steps:
            checkpoints.save(_state(step))


def _leaves(state: mj.TrainState) -> list[np.ndarray]:
    return [np.asarray(x) for x in jax.tree.leaves((state[:3], jax.random.key_data(state.key)))]


def _same(one: mj.TrainState, other: mj.TrainState) -> bool:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    assert one.key.dtype == other.key.dtype
    pairs = zip(_leaves(one), _leaves(other), strict=True)
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _train(state: mj.TrainState, iterations: int) -> mj.TrainState:
    return mj.train(
        LEARNER,
        OPTIMIZER,
        state,
        SAMPLE,
        iterations=iterations,
        meta_batch=2,
        dispatch=5,
        progress=False,
    ).state


@pytest.mark.exact
def test_resuming_from_a_checkpoint_is_the_same_run(tmp_path: Path) -> None:
    params = mj.models.mlp((8, 1)).init(jax.random.key(0), jnp.zeros((1, 1)))
    start = mj.init_state(params, OPTIMIZER, jax.random.key(1))
    half = _train(start, 5)
    with _checkpoints(tmp_path / "a folder") as checkpoints:
        checkpoints.begin(start)
        checkpoints.save(half)
    restored = _checkpoints(tmp_path / "a folder").restore(start)
    assert _same(restored, half)
    assert _same(_train(restored, 10), _train(half, 10))


def test_a_run_without_checkpoints_begins_where_it_is(tmp_path: Path) -> None:
    like = _state()
    assert _checkpoints(tmp_path / "nowhere").restore(like) is like
    assert not (tmp_path / "nowhere").exists()


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    scores = {1: 0.1, 2: 0.9, 3: None, 4: float("nan"), 5: 0.9, 6: 0.5, 7: 0.2}
    with _checkpoints(tmp_path, keep=2, best=1) as checkpoints:
        for step in (1, 2, 3, 4):
            checkpoints.save(_state(step), score=scores[step])
    assert _names(tmp_path) == ["2", "3", "4"]
    with _checkpoints(tmp_path, keep=2, best=1) as checkpoints:
        checkpoints.restore(_state())
        for step in (5, 6, 7):
            checkpoints.save(_state(step), score=scores[step])
    assert _names(tmp_path) == ["5", "6", "7"]  # Of equal scores the newer stays.
    assert _same(mj.restore_state(tmp_path, _state(), which="best"), _state(5))
    assert _same(mj.restore_state(tmp_path, _state()), _state(7))
    assert _same(mj.restore_state(tmp_path, _state(), which=6), _state(6))


def test_the_best_may_be_the_lowest(tmp_path: Path) -> None:
    with _checkpoints(tmp_path, keep=1, best=2, mode="min") as checkpoints:
        for step, score in enumerate((0.4, 0.1, 0.3, 0.2, 0.5), start=1):
            checkpoints.save(_state(step), score=score)
    assert _names(tmp_path) == ["2", "4", "5"]
    assert _same(mj.restore_state(tmp_path, _state(), which="best"), _state(2))


def test_due() -> None:
    checkpoints = _checkpoints(Path("unused"), every=10)
    assert [checkpoints.due(step) for step in (0, 9, 10, 25)] == [False, False, True, True]


def test_due_counts_from_the_last_save(tmp_path: Path) -> None:
    with _checkpoints(tmp_path, every=10) as checkpoints:
        checkpoints.begin(_state(13))
        assert [checkpoints.due(step) for step in (13, 19, 20)] == [False, False, True]
        checkpoints.save(_state(27))
        assert [checkpoints.due(step) for step in (29, 30)] == [False, True]
    resumed = _checkpoints(tmp_path, every=10)
    resumed.restore(_state())
    assert [resumed.due(step) for step in (29, 30)] == [False, True]


def test_saving_a_state_twice_is_nothing_new(tmp_path: Path) -> None:
    _save(tmp_path, 3, 3)
    assert _names(tmp_path) == ["3"]
    with _checkpoints(tmp_path) as checkpoints:
        checkpoints.save(checkpoints.restore(_state()))
    assert _names(tmp_path) == ["3"]


def test_another_runs_folder_is_refused(tmp_path: Path) -> None:
    _save(tmp_path, 5)
    for step in (0, 5, 9):
        with pytest.raises(FileExistsError, match=rf"step 5, and this run begins at step {step} "):
            _checkpoints(tmp_path).begin(_state(step))
        with pytest.raises(FileExistsError), _checkpoints(tmp_path) as checkpoints:
            checkpoints.save(_state(step))
    with _checkpoints(tmp_path) as checkpoints:
        checkpoints.restore(_state())
        with pytest.raises(FileExistsError, match=r"go on from what Checkpoints.restore returns"):
            checkpoints.begin(_state(0))
        checkpoints.begin(_state(5))
        checkpoints.save(_state(8))
        with pytest.raises(FileExistsError):
            checkpoints.save(_state(7))
        checkpoints.begin(_state(8))
    assert _names(tmp_path) == ["5", "8"]
    assert _same(mj.restore_state(tmp_path, _state()), _state(8))


def test_a_folder_that_cannot_be_made_is_told_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        _checkpoints(tmp_path / "file" / "run").begin(_state())


def test_missing_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere holds no checkpoint; expected a folder"):
        mj.restore_state(tmp_path / "nowhere", _state())
    with pytest.raises(FileNotFoundError, match=r"holds no checkpoint; expected a folder"):
        mj.restore_state(tmp_path, _state())
    _save(tmp_path, 3)
    with pytest.raises(FileNotFoundError, match=r"holds no checkpoint of step 4, but of \[3\]"):
        mj.restore_state(tmp_path, _state(), which=4)
    with pytest.raises(FileNotFoundError, match=r"holds no checkpoint with a score"):
        mj.restore_state(tmp_path, _state(), which="best")
    with pytest.raises(ValueError, match=r"which='last'; expected"):
        mj.restore_state(tmp_path, _state(), which="last")  # type: ignore[arg-type]


def test_another_state_is_refused(tmp_path: Path) -> None:
    _save(tmp_path, 3)
    state = _state()
    adamw = optax.chain(optax.scale_by_adam(), optax.trace(0.9))
    cases = {
        r"parameters differ: 'params/w' is float32\[4\] in the checkpoint and float32\[5\] here": (
            _state(width=5)
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
        for restore in (_checkpoints(tmp_path).restore, lambda x: mj.restore_state(tmp_path, x)):
            with pytest.raises(ValueError, match=message):
                restore(like)
    assert _names(tmp_path) == ["3"]


def test_another_precision_is_refused(tmp_path: Path, float64: None) -> None:
    del float64
    _save(tmp_path, 3)
    with pytest.raises(ValueError, match=r"'params/w' is float32\[4\] in .* and float64\[4\] here"):
        mj.restore_state(tmp_path, _state(dtype=np.float64))


def test_other_options_are_refused(tmp_path: Path) -> None:
    _save(tmp_path, 3)
    other = {"algorithm": "reptile", "rates": (0.1, 0.2), "seed": 0}
    with pytest.raises(
        ValueError,
        match=r"options differ: 'algorithm' is 'maml' in the checkpoint and 'reptile' here; 'seed' "
        r"is missing in the checkpoint and 0 here. Give",
    ):
        _checkpoints(tmp_path, other).restore(_state())
    with pytest.raises(ValueError, match=r"'rates' is \[0.1, 0.2\] in the checkpoint and missing"):
        mj.restore_state(tmp_path, _state(), options={"algorithm": "maml"})
    tuples = {**OPTIONS, "rates": (0.1, 0.2)}
    assert _same(_checkpoints(tmp_path, tuples).restore(_state()), _state(3))


@pytest.mark.parametrize("value", [Path("x"), np.float32(1), {"a": {1}}, float("nan")])
def test_options_that_json_cannot_hold(value: object) -> None:
    with pytest.raises(TypeError, match=r"options\['rate'\] is .*; expected what JSON can hold"):
        _checkpoints(Path("unused"), {"rate": value})


@pytest.mark.parametrize(("version", "age"), [(2, "newer"), (0, "older")])
def test_an_unknown_format_is_refused(tmp_path: Path, version: int, age: str) -> None:
    _save(tmp_path, 3, 4)
    file = tmp_path / "4" / "record" / "metadata"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": version}))
    with pytest.raises(ValueError, match=rf"format {version}, and .* format 1: .* {age} metajax"):
        _checkpoints(tmp_path).restore(_state())


def test_what_cannot_be_read_is_never_deleted(tmp_path: Path) -> None:
    with _checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(_state(1), score=0.9)
        checkpoints.save(_state(2), score=0.1)
    record = next((tmp_path / "1" / "record").glob("*"))
    record.write_bytes(record.read_bytes()[:20])
    with _checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.restore(_state())
        checkpoints.save(_state(3), score=0.2)
    assert _names(tmp_path) == ["1", "3"]


def test_empty_arrays_are_kept(tmp_path: Path) -> None:
    state = mj.init_state({"a": jnp.ones(2), "b": jnp.zeros((0, 4))}, OPTIMIZER, jax.random.key(7))
    with _checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state)
    assert _same(mj.restore_state(tmp_path, state), state)


def test_a_save_that_ctrl_c_cut_off_can_be_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = ocp.CheckpointManager.save

    def interrupted(*args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(ocp.CheckpointManager, "save", save)
        raise KeyboardInterrupt

    with _checkpoints(tmp_path) as checkpoints:
        checkpoints.save(_state(1))
        monkeypatch.setattr(ocp.CheckpointManager, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(_state(2))
        checkpoints.save(_state(2))
    assert _names(tmp_path) == ["1", "2"]
    assert _same(mj.restore_state(tmp_path, _state()), _state(2))


def test_numbers() -> None:
    for name, value in (("keep", 0), ("every", 0), ("best", -1)):
        with pytest.raises(ValueError, match=rf"{name}={value}; expected"):
            _checkpoints(Path("unused"), **{name: value})
    with pytest.raises(ValueError, match=r'mode=\'most\'; expected "max" or "min"'):
        _checkpoints(Path("unused"), mode="most")


def test_leaves_of_one_name(tmp_path: Path) -> None:
    params = {"a/b": jnp.ones(1), "a": {"b": jnp.zeros(1)}}
    with _checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError, match="one name a leaf"):
        checkpoints.save(mj.init_state(params, optax.sgd(0.1), jax.random.key(0)))


def _damages(data: bytes) -> dict[str, bytes | None]:
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :] if data else b"x"
    return {
        "deleted": None,
        "emptied": b"",
        "halved": data[:middle],
        "flipped": flipped,
        "garbage": b'{"format',
        "a list": b"[1, 2]",
        "an object": b"{}",
    }


def test_damage_to_any_file_is_noticed(tmp_path: Path) -> None:
    """What is restored is the newest checkpoint, bit for bit, or the one before and a warning."""
    noise = np.random.default_rng(0).normal(size=512)  # Long enough for a file of its own.
    like = mj.init_state({"w": jnp.asarray(noise)}, OPTIMIZER, jax.random.key(0))
    older, newer = (like._replace(step=jnp.asarray(np.int32(step))) for step in (1, 2))
    with _checkpoints(tmp_path) as checkpoints:
        checkpoints.save(older)
        checkpoints.save(newer)
    noticed = set()
    files = [path for path in (tmp_path / "2").rglob("*") if path.is_file()]
    for path in files:
        data = path.read_bytes()
        for damage, changed in _damages(data).items():
            path.unlink() if changed is None else path.write_bytes(changed)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                restored = mj.restore_state(tmp_path, like)
            if caught:
                assert "that of step 2 is damaged: its" in str(caught[0].message), damage
                assert "; restored step 1 instead" in str(caught[0].message), damage
                noticed.add(damage)
            assert _same(restored, older if caught else newer), (path, damage)
            path.write_bytes(data)
    assert noticed == _damages(b"").keys()
    assert _same(mj.restore_state(tmp_path, like), newer)


def test_a_run_goes_on_before_a_damaged_checkpoint(tmp_path: Path) -> None:
    """The damaged folder is moved aside, so that its step can be saved again."""
    for expected in (["1", "2.damaged"], ["1", "2.damaged", "2.damaged-2"]):
        with _checkpoints(tmp_path) as checkpoints:
            checkpoints.restore(_state())
            checkpoints.save(_state(1))
            checkpoints.save(_state(2))
        for path in (tmp_path / "2").rglob("*"):
            if path.is_file():
                path.unlink()
        with _checkpoints(tmp_path) as checkpoints:
            with pytest.warns(RuntimeWarning, match=r"step 2 is damaged.*restored step 1 instead"):
                assert _same(checkpoints.restore(_state()), _state(1))
            assert _names(tmp_path) == expected
    _checkpoints(tmp_path).restore(_state())


def test_all_damaged_is_an_error(tmp_path: Path) -> None:
    _save(tmp_path, 1, 2)
    for step in ("1", "2"):
        (tmp_path / step / "record" / "metadata").write_text("")
    for restore in (_checkpoints(tmp_path).restore, lambda x: mj.restore_state(tmp_path, x)):
        with pytest.raises(OSError, match=r"no good checkpoint: .* step 2 is damaged.* step 1 is"):
            restore(_state())
    assert _names(tmp_path) == ["1", "2"]


def test_a_best_of_unknown_score_is_told(tmp_path: Path) -> None:
    with _checkpoints(tmp_path) as checkpoints:
        checkpoints.save(_state(1), score=0.9)
        checkpoints.save(_state(2), score=0.1)
    (tmp_path / "1" / "record" / "metadata").write_text("")
    with pytest.warns(RuntimeWarning, match=r"step 1 is damaged.*restored step 2 instead"):
        mj.restore_state(tmp_path, _state(), which="best")


def test_what_a_killed_write_left_is_cleared(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    shutil.copytree(tmp_path / "1", tmp_path / "2.orbax-checkpoint-tmp")
    assert _same(mj.restore_state(tmp_path, _state()), _state(1))
    with _checkpoints(tmp_path) as checkpoints:
        checkpoints.begin(checkpoints.restore(_state()))
        assert _names(tmp_path) == ["1"]
        checkpoints.save(_state(2))
    assert _names(tmp_path) == ["1", "2"]


_FULL_DISK = """
import resource, signal, sys, warnings
sys.path.insert(0, {tests!r})
from test_checkpoint import _checkpoints, _names, _save, _state, Path

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

warnings.simplefilter("always")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = Path({folder!r})
told = []
warnings.showwarning = lambda message, *rest: told.append(str(message))
with _checkpoints(folder, keep=1) as checkpoints:
    for step, size in enumerate((0, -1, 0, 60, 700, -1, 400), start=1):
        limit(size)
        checkpoints.save(_state(step))
        checkpoints.wait()
        print(step, [name for name in _names(folder) if name.isdecimal()], told)
        told.clear()
    checkpoints.save(_state(9))
print(9, [name for name in _names(folder) if name.isdecimal()], told)
"""


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(tmp_path: Path) -> None:
    script = _FULL_DISK.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "run"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    lines = done.stdout.splitlines()
    failed = "['the checkpoint of step {} could not be written: "
    for line, (step, kept, newest) in zip(
        lines,
        [
            (1, [], "there is none yet"),
            (2, ["2"], None),
            (3, ["2"], "it is of step 2"),
            (4, ["2"], "it is of step 2"),
            (5, ["2"], "it is of step 2"),
            (6, ["6"], None),
            (7, ["6"], "it is of step 6"),
            (9, ["6"], "it is of step 6"),
        ],
        strict=True,
    ):
        told = "[]" if newest is None else failed.format(step)
        assert line.startswith(f"{step} {kept} {told}"), line
        assert newest is None or line.endswith(f"; the newest good one: {newest}']"), line
    with _checkpoints(tmp_path / "run") as checkpoints:
        restored = checkpoints.restore(_state())
        checkpoints.begin(restored)
    assert _same(restored, _state(6))
    assert _names(tmp_path / "run") == ["6"]


def test_arrays_go_where_those_of_like_are(tmp_path: Path) -> None:
    mesh = Mesh(np.array(jax.devices()), ("data",))
    everywhere, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
    single = _state(3)
    meshed = jax.device_put(single, everywhere)
    params = {**meshed.params, "w": jax.device_put(single.params["w"], split)}
    meshed = meshed._replace(params=params)
    assert not meshed.params["w"].is_fully_replicated
    for saved, like in ((single, meshed), (meshed, single), (meshed, meshed)):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        with _checkpoints(folder) as checkpoints:
            checkpoints.save(saved)
        restored = mj.restore_state(folder, like)
        assert _same(restored, single)
        for got, wanted in zip(jax.tree.leaves(restored), jax.tree.leaves(like), strict=True):
            assert got.sharding == wanted.sharding
            assert got.committed == wanted.committed


# Made by: with mj.Checkpoints(FIXTURE, options=OPTIONS) as c: c.save(_format_1_state(1), score=0.5)
def test_a_checkpoint_of_format_1_stays_readable() -> None:
    restored = mj.restore_state(FIXTURE, _format_1_state(0), which="best", options=OPTIONS)
    assert _same(restored, _format_1_state(1))
    assert np.asarray(restored.params["Dense_0"]["bias"]).tolist() == [x / 4 for x in range(8)]


def _format_1_state(scale: int) -> mj.TrainState:
    """The sinusoid's small network with Adam; leaf i holds i, i + 1/4, i + 2/4, ..."""
    params = mj.models.mlp((8, 1)).init(jax.random.key(0), jnp.zeros((1, 1)))
    state = mj.init_state(params, OPTIMIZER, jax.random.key(scale))
    leaves, structure = jax.tree.flatten(state[:3])
    filled = [
        jnp.asarray(((np.arange(x.size).reshape(x.shape) / 4 + i) * scale).astype(x.dtype))
        for i, x in enumerate(leaves)
    ]
    return mj.TrainState(*jax.tree.unflatten(structure, filled), state.key)
