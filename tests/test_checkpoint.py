"""Checkpoints: what was saved comes back bit for bit, or is refused, or is known to be damaged."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from checkpoint_states import OPTIMIZER, names, open_checkpoints, same, save_steps, state_of
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import metajax as mj

LEARNER = mj.maml(
    mj.models.mlp((8, 1)), inner=optax.sgd(0.01), num_steps=1, loss_fn=mj.squared_error
)
SAMPLE = mj.data.sinusoid_episodes(shots=5, queries=5)


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
    with open_checkpoints(tmp_path / "a folder") as checkpoints:
        checkpoints.begin(start)
        checkpoints.save(half)
    restored = open_checkpoints(tmp_path / "a folder").restore(start)
    assert same(restored, half)
    assert same(_train(restored, 10), _train(half, 10))


def test_a_run_without_checkpoints_begins_where_it_is(tmp_path: Path) -> None:
    like = state_of()
    assert open_checkpoints(tmp_path / "nowhere").restore(like) is like
    assert not (tmp_path / "nowhere").exists()


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    scores = {1: 0.1, 2: 0.9, 3: None, 4: float("nan"), 5: 0.9, 6: 0.5, 7: 0.2}
    with open_checkpoints(tmp_path, keep=2, best=1) as checkpoints:
        for step in (1, 2, 3, 4):
            checkpoints.save(state_of(step), score=scores[step])
    assert names(tmp_path) == ["2", "3", "4"]
    with open_checkpoints(tmp_path, keep=2, best=1) as checkpoints:
        checkpoints.restore(state_of())
        for step in (5, 6, 7):
            checkpoints.save(state_of(step), score=scores[step])
    assert names(tmp_path) == ["5", "6", "7"]  # Of equal scores the newer stays.
    assert same(mj.restore_state(tmp_path, state_of(), which="best"), state_of(5))
    assert same(mj.restore_state(tmp_path, state_of()), state_of(7))
    assert same(mj.restore_state(tmp_path, state_of(), which=6), state_of(6))


def test_the_best_may_be_the_lowest(tmp_path: Path) -> None:
    with open_checkpoints(tmp_path, keep=1, best=2, mode="min") as checkpoints:
        for step, score in enumerate((0.4, 0.1, 0.3, 0.2, 0.5), start=1):
            checkpoints.save(state_of(step), score=score)
    assert names(tmp_path) == ["2", "4", "5"]
    assert same(mj.restore_state(tmp_path, state_of(), which="best"), state_of(2))


def test_due() -> None:
    checkpoints = open_checkpoints(Path("unused"), every=10)
    assert [checkpoints.due(step) for step in (0, 9, 10, 25)] == [False, False, True, True]


def test_due_counts_from_the_last_save(tmp_path: Path) -> None:
    with open_checkpoints(tmp_path, every=10) as checkpoints:
        checkpoints.begin(state_of(13))
        assert [checkpoints.due(step) for step in (13, 19, 20)] == [False, False, True]
        checkpoints.save(state_of(27))
        assert [checkpoints.due(step) for step in (29, 30)] == [False, True]
    resumed = open_checkpoints(tmp_path, every=10)
    resumed.restore(state_of())
    assert [resumed.due(step) for step in (29, 30)] == [False, True]


def test_saving_a_state_twice_is_nothing_new(tmp_path: Path) -> None:
    save_steps(tmp_path, 3, 3)
    assert names(tmp_path) == ["3"]
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save(checkpoints.restore(state_of()))
    assert names(tmp_path) == ["3"]


def test_another_runs_folder_is_refused(tmp_path: Path) -> None:
    save_steps(tmp_path, 5)
    for step in (0, 5, 9):
        with pytest.raises(FileExistsError, match=rf"step 5, and this run begins at step {step} "):
            open_checkpoints(tmp_path).begin(state_of(step))
        with pytest.raises(FileExistsError), open_checkpoints(tmp_path) as checkpoints:
            checkpoints.save(state_of(step))
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.restore(state_of())
        with pytest.raises(FileExistsError, match=r"go on from what Checkpoints.restore returns"):
            checkpoints.begin(state_of(0))
        checkpoints.begin(state_of(5))
        checkpoints.save(state_of(8))
        with pytest.raises(FileExistsError):
            checkpoints.save(state_of(7))
        checkpoints.begin(state_of(8))
    assert names(tmp_path) == ["5", "8"]
    assert same(mj.restore_state(tmp_path, state_of()), state_of(8))


def test_a_folder_that_cannot_be_made_is_told_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        open_checkpoints(tmp_path / "file" / "run").begin(state_of())


def test_missing_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere holds no checkpoint; expected a folder"):
        mj.restore_state(tmp_path / "nowhere", state_of())
    with pytest.raises(FileNotFoundError, match=r"holds no checkpoint; expected a folder"):
        mj.restore_state(tmp_path, state_of())
    save_steps(tmp_path, 3)
    with pytest.raises(FileNotFoundError, match=r"holds no checkpoint of step 4, but of \[3\]"):
        mj.restore_state(tmp_path, state_of(), which=4)
    with pytest.raises(FileNotFoundError, match=r"holds no checkpoint with a score"):
        mj.restore_state(tmp_path, state_of(), which="best")
    with pytest.raises(ValueError, match=r"which='last'; expected"):
        mj.restore_state(tmp_path, state_of(), which="last")  # type: ignore[arg-type]


def test_empty_arrays_are_kept(tmp_path: Path) -> None:
    state = mj.init_state({"a": jnp.ones(2), "b": jnp.zeros((0, 4))}, OPTIMIZER, jax.random.key(7))
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state)
    assert same(mj.restore_state(tmp_path, state), state)


def test_names_and_types_of_arrays(tmp_path: Path) -> None:
    names = ("mlp/~/a", "a b", "\u00fc", ".", "..", "", "%20", "c//d", "0", "x.y", "\\", "a:b|c")
    types = (bool, np.int8, np.uint16, np.float16, jnp.bfloat16, np.complex64, jnp.float8_e4m3fn)
    params = {name: jnp.full((2,), number, jnp.float32) for number, name in enumerate(names)}
    for dtype in types:
        for shape in ((), (1,), (0,), (3, 1, 2)):
            params[f"{np.dtype(dtype)} {shape}"] = jnp.ones(shape, dtype)
    state = mj.init_state({"w": jnp.ones(2)}, optax.sgd(0.1), jax.random.key(7))
    state = state._replace(params=params)  # Which it would refuse: not all are floats.
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state)
    assert same(mj.restore_state(tmp_path, state), state)


def test_a_save_that_ctrl_c_cut_off_can_be_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = ocp.CheckpointManager.save

    def interrupted(*args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(ocp.CheckpointManager, "save", save)
        raise KeyboardInterrupt

    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state_of(1))
        monkeypatch.setattr(ocp.CheckpointManager, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(state_of(2))
        checkpoints.save(state_of(2))
    assert names(tmp_path) == ["1", "2"]
    assert same(mj.restore_state(tmp_path, state_of()), state_of(2))


_FORGETFUL = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from checkpoint_states import open_checkpoints, state_of

checkpoints = open_checkpoints(Path(sys.argv[1]))
checkpoints.save(state_of(1, width=2_000_000))
raise SystemExit(3)
"""


def test_a_program_that_ends_without_close_ends_its_write_first(tmp_path: Path) -> None:
    program = _FORGETFUL.format(tests=str(Path(__file__).parent))
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 3
    if sys.version_info < (3, 12):
        assert (done.stderr, names(tmp_path)) == ("", ["1"])
    else:  # Python starts no thread by then.
        assert "the checkpoint of step 1 could not be written" in done.stderr
        assert "Traceback" not in done.stderr
        assert "1" not in names(tmp_path)


def test_a_write_is_ended_before_its_checkpoints_are_forgotten(tmp_path: Path) -> None:
    checkpoints = open_checkpoints(tmp_path)
    checkpoints.save(state_of(1, width=2_000_000))
    assert "1" not in names(tmp_path)
    del checkpoints
    assert names(tmp_path) == ["1"]


def test_numbers() -> None:
    for name, value in (("keep", 0), ("every", 0), ("best", -1)):
        with pytest.raises(ValueError, match=rf"{name}={value}; expected"):
            open_checkpoints(Path("unused"), **{name: value})
    with pytest.raises(ValueError, match=r'mode=\'most\'; expected "max" or "min"'):
        open_checkpoints(Path("unused"), mode="most")


def test_leaves_of_one_name(tmp_path: Path) -> None:
    params = {"a/b": jnp.ones(1), "a": {"b": jnp.zeros(1)}}
    with (
        open_checkpoints(tmp_path) as checkpoints,
        pytest.raises(ValueError, match="one name a leaf"),
    ):
        checkpoints.save(mj.init_state(params, optax.sgd(0.1), jax.random.key(0)))


def test_what_a_killed_write_left_is_cleared(tmp_path: Path) -> None:
    save_steps(tmp_path, 1)
    shutil.copytree(tmp_path / "1", tmp_path / "2.orbax-checkpoint-tmp")
    shutil.copytree(tmp_path / "1", tmp_path / "deleted.orbax-checkpoint-tmp" / "0")
    assert same(mj.restore_state(tmp_path, state_of()), state_of(1))
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.begin(checkpoints.restore(state_of()))
        assert names(tmp_path) == ["1", "writer.lock"]
        checkpoints.save(state_of(2))
    assert names(tmp_path) == ["1", "2"]


def test_a_run_killed_while_it_deletes_leaves_no_half_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda path, ignore_errors: None)
        save_steps(tmp_path, 1, 2, 3, keep=1)
    assert names(tmp_path) == ["3", "deleted.orbax-checkpoint-tmp"]
    assert names(tmp_path / "deleted.orbax-checkpoint-tmp") == ["1", "2"]
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.begin(checkpoints.restore(state_of()))
    assert names(tmp_path) == ["3"]


_FULL_DISK = """
import resource, signal, sys, warnings
import subprocess
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from checkpoint_states import names, open_checkpoints, state_of

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

warnings.simplefilter("always")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = Path({folder!r})
told = []
warnings.showwarning = lambda message, *rest: told.append(str(message))
with open_checkpoints(folder, keep=1) as checkpoints:
    for step, size in enumerate((0, -1, 0, 60, 700, -1, 400), start=1):
        limit(size)
        checkpoints.save(state_of(step))
        checkpoints.wait()
        print(step, [name for name in names(folder) if name.isdecimal()], told)
        told.clear()
    checkpoints.save(state_of(9))
print(9, [name for name in names(folder) if name.isdecimal()], told)
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
    with open_checkpoints(tmp_path / "run") as checkpoints:
        restored = checkpoints.restore(state_of())
        checkpoints.begin(restored)
    assert same(restored, state_of(6))
    assert names(tmp_path / "run") == ["6"]


def test_arrays_go_where_those_of_like_are(tmp_path: Path) -> None:
    mesh = Mesh(np.array(jax.devices()), ("data",))
    everywhere, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
    single = state_of(3)
    meshed = jax.device_put(single, everywhere)
    params = {**meshed.params, "w": jax.device_put(single.params["w"], split)}
    meshed = meshed._replace(params=params)
    assert not meshed.params["w"].is_fully_replicated
    for saved, like in ((single, meshed), (meshed, single), (meshed, meshed)):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        with open_checkpoints(folder) as checkpoints:
            checkpoints.save(saved)
        restored = mj.restore_state(folder, like)
        assert same(restored, single)
        for got, wanted in zip(jax.tree.leaves(restored), jax.tree.leaves(like), strict=True):
            assert got.sharding == wanted.sharding
            assert got.committed == wanted.committed
