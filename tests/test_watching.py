"""One of two processes fails, and the other one does not wait for it."""

from pathlib import Path

import pytest
from process_pairs import ends_of_two

_PROCESS = """
import os, signal, sys
import jax
jax.config.update("jax_platforms", "cpu")
import jax.numpy as jnp, optax
import metajax as mj

mj.parallel.start_processes(sys.argv[1], 2, int(sys.argv[2]))
mesh = mj.parallel.task_mesh()
learner = mj.maml(
    mj.models.mlp((4, 1)), inner=optax.sgd(0.01), num_steps=1, loss_fn=mj.squared_error
)
optimizer = optax.adam(1e-3)
params = learner.init(jax.random.key(0), jnp.zeros((1, 1)))
state = mj.init_state(params, optimizer, jax.random.key(1))
sample = mj.data.sinusoid_episodes(shots=2, queries=2)

def fail(number):
    if number == 20 and jax.process_index() == 1:
        FAILURE

def train():
    mj.train(learner, optimizer, state, sample, iterations=10**7, meta_batch=2, dispatch=10,
             mesh=mesh, progress=False, on_dispatch=lambda state, record: fail(record["step"]))

def by_hand():
    placed = mj.parallel.place_state(state, mesh)
    step = mj.parallel.mesh_step(mj.train_step(learner, optimizer, axis_name="tasks"), mesh)
    for number in range(10**7):
        fail(number)
        episodes = jax.vmap(sample)(jax.random.split(jax.random.key(number), 1))
        placed, _ = step(placed, mj.parallel.place_episodes(episodes, mesh))

LOOP()
"""


def _ends(loop: str, failure: str) -> tuple[tuple[int, str], tuple[int, str]]:
    program = _PROCESS.replace("FAILURE", failure).replace("LOOP", loop)
    # JAX would wait for five minutes, or for 100 seconds where one was killed.
    whole, failed = ends_of_two(program, "", seconds=90)
    return whole, failed


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["train", "by_hand"])
def test_an_exception_in_one_ends_the_other(loop: str) -> None:
    other, failed = _ends(loop, "raise OSError('the disk of process 1')")
    assert failed[0] == 1
    assert failed[1].endswith("OSError: the disk of process 1\n")
    assert other[0] == 1, other[1]
    told = "process 1 of 2 failed with OSError: the disk of process 1; process 0 cannot go on "
    assert told in other[1]


@pytest.mark.slow
def test_where_one_only_leaves_the_training_of_the_other_ends() -> None:
    other, left = _ends("train", "sys.exit(7)")
    assert left[0] == 7, left[1]
    assert other[0] == 1, other[1]
    assert "process 1 of 2 ended; process 0 cannot go on without it, and exits" in other[1]


@pytest.mark.slow
def test_one_that_is_killed_ends_the_other() -> None:
    other, killed = _ends("train", "os.kill(os.getpid(), signal.SIGKILL)")
    assert killed[0] == -9
    assert other[0] == 1, other[1]
    assert "by peer" in other[1]  # Gloo: a connection closed, or reset, by peer.


@pytest.mark.slow
def test_one_that_is_killed_is_missed_outside_of_collectives_too() -> None:
    program = """
import os, signal, sys, time
import metajax as mj
mj.parallel.start_processes(sys.argv[1], 2, int(sys.argv[2]), heartbeat=5)
if sys.argv[2] == "1":
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(80)
print("done")
"""
    other, killed = ends_of_two(program, "")
    assert killed[0] == -9
    assert other[0] != 0
    assert "done" not in other[1]


@pytest.mark.slow
def test_one_that_has_finished_lets_the_other_go_on(tmp_path: Path) -> None:
    """It does not wait at JAX's barrier, where all are aborted after five minutes."""
    program = """
import pathlib, sys, time
from jax._src import distributed
import metajax as mj
mj.parallel.start_processes(sys.argv[1], 2, int(sys.argv[2]))
done = pathlib.Path(sys.argv[3], "done")
shutdown = distributed.State.shutdown
def told(state):
    print("done" if done.exists() else "alone")
    shutdown(state)
distributed.State.shutdown = told
if sys.argv[2] == "0":
    time.sleep(8)
    done.touch()
"""
    assert ends_of_two(program, tmp_path) == [(0, "done\n"), (0, "done\n")]


@pytest.mark.slow
def test_the_end_of_a_forked_child_is_not_that_of_its_process() -> None:
    program = """
import os, sys, time
import metajax as mj
from metajax.parallel.watching import needing_all_processes
mj.parallel.start_processes(sys.argv[1], 2, int(sys.argv[2]))
with needing_all_processes():
    if sys.argv[2] == "1" and not os.fork():
        sys.excepthook(ValueError, ValueError("of a child"), None)
        os._exit(0)
    time.sleep(8)
"""
    assert [status for status, _ in ends_of_two(program, "")] == [0, 0]
