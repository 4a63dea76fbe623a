"""Checkpoints of a run of two processes, of which each holds half of an array."""

from pathlib import Path

import pytest
from checkpoint_states import names, open_checkpoints, state_of
from process_pairs import run_twice

_PROCESS = """
import sys, warnings
from pathlib import Path
import jax, numpy as np
from jax.experimental.multihost_utils import sync_global_devices
from jax.sharding import Mesh, NamedSharding, PartitionSpec
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
import metajax as mj

folder = Path(sys.argv[3])
mesh = Mesh(np.array(jax.devices()), ("data",))
everywhere, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))

def put(array, sharding):
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

def state(step):
    params = {"w": put(np.arange(4.0) + step, everywhere), "s": put(np.arange(8.0) * step, split)}
    key = jax.random.wrap_key_data(put(np.array([0, 7], np.uint32), everywhere))
    return mj.TrainState(params, (), put(np.array(step, np.int32), everywhere), key)

def check(restored, step):
    wanted = state(step)
    for got, want in zip(jax.tree.leaves(restored[:3]), jax.tree.leaves(wanted[:3]), strict=True):
        assert got.sharding == want.sharding
        for one, other in zip(got.addressable_shards, want.addressable_shards, strict=True):
            assert np.array_equal(one.data, other.data)
    assert restored.key.sharding.is_fully_replicated

with mj.Checkpoints(folder, options={}) as checkpoints:
    checkpoints.begin(checkpoints.restore(state(0)))
    for step in (1, 2, 3):
        checkpoints.save(state(step))
check(mj.restore_state(folder, state(0)), 3)
sync_global_devices("read")
if jax.process_index() == 0:
    for path in (folder / "3" / "state").rglob("d/*"):
        path.unlink()
sync_global_devices("damaged")
with mj.Checkpoints(folder, options={}) as checkpoints:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        restored = checkpoints.restore(state(0))
    assert "step 3 is damaged" in str(caught[0].message)
    check(restored, 2)
    checkpoints.save(state(3))
check(mj.restore_state(folder, state(0)), 3)
"""


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    run_twice(_PROCESS, tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["2", "3", "3.damaged"]


_REFUSED = """
import sys
from pathlib import Path
import jax
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
import metajax as mj

state = mj.TrainState({"w": jax.numpy.ones(3)}, (), jax.numpy.int32(0), jax.random.key(0))
checkpoints = mj.Checkpoints(Path(sys.argv[3]) / "held", options={})
try:
    checkpoints.begin(state)
except FileExistsError as error:
    assert "belongs to a run that is alive: process" in str(error), error
else:
    raise SystemExit("expected to be refused")
checkpoints = mj.Checkpoints(Path(sys.argv[3]) / "file" / "run", options={})
try:
    checkpoints.begin(state)
except OSError as error:
    assert "file" in str(error), error
else:
    raise SystemExit("expected to be refused")
with mj.Checkpoints(Path(sys.argv[3]) / "free", options={}) as checkpoints:
    checkpoints.begin(state)
    held = (Path(sys.argv[3]) / "free" / "writer.lock").exists()
    assert held or jax.process_index()  # Process 0 may have ended.
"""


@pytest.mark.slow
def test_both_processes_of_a_second_run_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with open_checkpoints(tmp_path / "held") as checkpoints:
        checkpoints.save(state_of(1))
        run_twice(_REFUSED, tmp_path)
    assert names(tmp_path / "held") == ["1"]
    assert names(tmp_path / "free") == []
