"""Damaged checkpoints: restored bit for bit all the same, passed over, or refused."""

import shutil
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore
from checkpoint_states import OPTIMIZER, names, open_checkpoints, same, save_steps, state_of
from irregular_files import irregular

import metajax as mj


def test_what_cannot_be_read_is_never_deleted(tmp_path: Path) -> None:
    with open_checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(state_of(1), score=0.9)
        checkpoints.save(state_of(2), score=0.1)
    record = next((tmp_path / "1" / "record").glob("*"))
    record.write_bytes(record.read_bytes()[:20])
    with open_checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.restore(state_of())
        checkpoints.save(state_of(3), score=0.2)
    assert names(tmp_path) == ["1", "3"]


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
    with open_checkpoints(tmp_path) as checkpoints:
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
            assert same(restored, older if caught else newer), (path, damage)
            path.write_bytes(data)
    assert noticed == _damages(b"").keys()
    assert same(mj.restore_state(tmp_path, like), newer)


def test_a_run_goes_on_before_a_damaged_checkpoint(tmp_path: Path) -> None:
    """The damaged folder is moved aside, so that its step can be saved again."""
    for expected in (["1", "2.damaged"], ["1", "2.damaged", "2.damaged-2"]):
        with open_checkpoints(tmp_path) as checkpoints:
            checkpoints.restore(state_of())
            checkpoints.save(state_of(1))
            checkpoints.save(state_of(2))
        for path in (tmp_path / "2").rglob("*"):
            if path.is_file():
                path.unlink()
        with open_checkpoints(tmp_path) as checkpoints:
            with pytest.warns(RuntimeWarning, match=r"step 2 is damaged.*restored step 1 instead"):
                restored = checkpoints.restore(state_of())
            assert "2" in names(tmp_path)
            checkpoints.begin(restored)
        assert same(restored, state_of(1))
        assert names(tmp_path) == expected
    open_checkpoints(tmp_path).restore(state_of())


def test_all_damaged_is_an_error(tmp_path: Path) -> None:
    save_steps(tmp_path, 1, 2)
    for step in ("1", "2"):
        (tmp_path / step / "record" / "metadata").write_text("")
    for restore in (open_checkpoints(tmp_path).restore, lambda x: mj.restore_state(tmp_path, x)):
        with pytest.raises(OSError, match=r"no good checkpoint: .* step 2 is damaged.* step 1 is"):
            restore(state_of())
    assert names(tmp_path) == ["1", "2"]


def test_a_best_of_unknown_score_is_told(tmp_path: Path) -> None:
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state_of(1), score=0.9)
        checkpoints.save(state_of(2), score=0.1)
    (tmp_path / "1" / "record" / "metadata").write_text("")
    with pytest.warns(RuntimeWarning, match=r"step 1 is damaged.*restored step 2 instead"):
        mj.restore_state(tmp_path, state_of(), which="best")


def _without_arrays(folder: Path) -> None:
    for path in (folder / "state").rglob("d/*"):
        path.unlink()


def test_a_damaged_one_does_not_count_among_those_that_are_kept(tmp_path: Path) -> None:
    save_steps(tmp_path, 1, 2, 3, keep=3)
    _without_arrays(tmp_path / "2")
    with open_checkpoints(tmp_path, keep=3) as checkpoints:
        checkpoints.begin(checkpoints.restore(state_of()))
        checkpoints.save(state_of(4))
        checkpoints.wait()
        assert names(tmp_path) == ["1", "2", "3", "4", "writer.lock"]
        checkpoints.save(state_of(5))
    assert names(tmp_path) == ["2", "3", "4", "5"]


def test_a_damaged_one_does_not_count_among_the_best(tmp_path: Path) -> None:
    with open_checkpoints(tmp_path, keep=1, best=2) as checkpoints:
        for step, score in enumerate((0.9, 0.8, 0.1), start=1):
            checkpoints.save(state_of(step), score=score)
    _without_arrays(tmp_path / "1")
    with open_checkpoints(tmp_path, keep=1, best=1) as checkpoints:
        checkpoints.begin(checkpoints.restore(state_of()))
        checkpoints.save(state_of(4), score=0.2)
    assert names(tmp_path) == ["1", "2", "4"]


@pytest.mark.parametrize(("shape", "chunk"), [([2**60], [4]), ([5], [5]), ([4], [2**60])])
def test_arrays_of_another_shape_are_not_read(
    tmp_path: Path, shape: list[int], chunk: list[int]
) -> None:
    """Room would be made for what orbax's own files say."""
    save_steps(tmp_path, 3, 4)
    stored = {
        "driver": "zarr",
        "kvstore": {"driver": "ocdbt", "base": (tmp_path / "4" / "state").as_uri() + "/"},
        "path": "params/w/",
        "metadata": {"shape": shape, "chunks": chunk, "dtype": "<f4"},
    }
    tensorstore.open(stored, create=True, delete_existing=True).result()
    with pytest.warns(RuntimeWarning, match=r"its arrays: params/w is .*; restored step 3"):
        assert same(mj.restore_state(tmp_path, state_of()), state_of(3))


@pytest.mark.parametrize("place", ["state/more", "record/metadata"])
def test_nothing_that_is_no_regular_file_is_opened(tmp_path: Path, place: str) -> None:
    """Even where nobody would open it: orbax puts none there."""
    run, others = tmp_path / "run", tmp_path / "others"
    others.mkdir()
    save_steps(run, 3, 4)
    path = run / "4" / place
    for kind, aim in irregular(others).items():
        path.unlink(missing_ok=True)
        path.symlink_to(aim)
        with pytest.warns(RuntimeWarning, match=rf"4 is damaged: its .* is {kind}; expected a reg"):
            assert same(mj.restore_state(run, state_of()), state_of(3))
    path.unlink()
    path.symlink_to("nowhere")
    with pytest.warns(RuntimeWarning, match="step 4 is damaged: its"):
        mj.restore_state(run, state_of())


def test_arrays_of_another_type_are_not_read(tmp_path: Path) -> None:
    save_steps(tmp_path, 3, 4)
    with open_checkpoints(tmp_path / "other") as checkpoints:
        checkpoints.save(state_of(4, dtype=np.float16))
    shutil.rmtree(tmp_path / "4" / "state")
    shutil.copytree(tmp_path / "other" / "4" / "state", tmp_path / "4" / "state")
    with pytest.warns(RuntimeWarning, match=r"arrays: .*/w is float16 of shape \(4,\); rest"):
        mj.restore_state(tmp_path, state_of())


@pytest.mark.slow
def test_damaged_checkpoints_are_restored_or_passed_over() -> None:
    pytest.importorskip("rich", reason="the benchmarks need metajax[bench]")
    import damage

    rows = damage.run(damage.parser().parse_args([]))
    assert sum(row["checkpoints"] for row in rows if row["damage"] in damage.CHANGES) == 550
    for row in rows[1:]:
        assert row["passed over"] > 0, row
