"""Iterators of episodes in two processes, each of which gives its own tasks."""

from pathlib import Path

import pytest
from process_pairs import run_twice

_PROCESS = """
import functools, sys, warnings
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np, optax
import metajax as mj

process, folder = int(sys.argv[2]), Path(sys.argv[3])
mj.parallel.start_processes(sys.argv[1], 2, process)
mesh = mj.parallel.task_mesh()
optimizer = optax.adam(1e-2)
learner = mj.maml(mj.models.mlp((8, 1)), inner=optax.sgd(0.01), num_steps=1,
                  loss_fn=mj.squared_error)
params = learner.init(jax.random.key(0), jnp.zeros((1, 1)))

def start():
    return mj.init_state(params, optimizer, jax.random.key(1))

class Own:
    # Every second pair of tasks is this process's.
    def __init__(self, items=5, most=10**6):
        self.index, self.items, self.most = 0, items, most

    def __iter__(self):
        return self

    def __next__(self):
        if self.index == self.most:
            raise StopIteration
        number = self.index // 2 * 4 + 2 * process + self.index % 2
        self.index += 1
        return task(number, self.items)

    def get_state(self):
        return {"index": self.index}

    def set_state(self, state):
        self.index = state["index"]

def task(number, items=5):
    x = np.random.default_rng(number).uniform(-5, 5, (2, items, 1)).astype(np.float32)
    return (x[0], np.sin(x[0])), (x[1], np.sin(x[1]))

def train(sample, iterations=6, state=None, **options):
    return mj.train(learner, optimizer, state or start(), sample, iterations=iterations,
                    meta_batch=4, dispatch=3, mesh=mesh, progress=False, **options)

step, state = jax.jit(mj.train_step(learner, optimizer)), start()
for number in range(6):
    each = [mj.Episode(*map(lambda s: mj.Examples(*s), task(4 * number + i))) for i in range(4)]
    state, _ = step(state, jax.tree.map(lambda *x: np.stack(x), *each))
whole = train(Own())
for ours, theirs in zip(*map(jax.tree.leaves, (whole.state.params, state.params)), strict=True):
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=1e-4, atol=1e-6)

for iterations in (3, 6):
    with mj.Checkpoints(folder / "run", options={}) as checkpoints:
        begun = checkpoints.restore(mj.parallel.place_state(start(), mesh))
        assert int(begun.step) == iterations - 3
        cut = train(Own(), iterations, begun, checkpoints=checkpoints)
for ours, theirs in zip(*map(jax.tree.leaves, (cut.state.params, whole.state.params)), strict=True):
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))

ended = train(Own(most=12 if process else 9))
assert (ended.stopped, int(ended.state.step)) == ("exhausted", 4), ended
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    train([task(number) for number in range(12)])
assert "all processes read the same episodes" in str(caught[0].message), caught
warnings.simplefilter("error")
pad = functools.partial(mj.data.pad_episodes, support=8, query=8)
train(mj.data.from_iterable(Own(items=5 + process), pad=pad))
try:
    train(Own(items=5 + process))
except ValueError as error:
    assert "the processes read episodes of different sizes" in str(error), error
else:
    raise AssertionError("episodes of different sizes were taken")
"""


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    run_twice(_PROCESS, tmp_path)
