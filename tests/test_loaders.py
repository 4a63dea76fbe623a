"""Other people's loaders in `train`: stopped and resumed, the tasks that come next."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj

TASKS = 40
OPTIMIZER = optax.adam(1e-2)
LEARNER = mj.maml(mj.models.mlp((8, 3)), inner=optax.sgd(0.1), num_steps=1)


class Tasks:
    """A data set as Grain and PyTorch know them."""

    def __len__(self) -> int:
        return TASKS

    def __getitem__(self, index: int) -> Any:
        rng = np.random.default_rng(index)
        inputs = rng.normal(size=(9, 2)).astype(np.float32)
        labels = np.arange(9) % 3
        return (inputs[:3], labels[:3]), (inputs[3:], labels[3:])

    def __repr__(self) -> str:
        return "Tasks()"  # By which Grain's loader knows a data set again.


def grain_map() -> Any:
    import grain

    return grain.MapDataset.source(Tasks()).shuffle(seed=0).repeat()


def grain_batches() -> Any:
    return grain_map().batch(3).to_iter_dataset()


def grain_loader() -> Any:
    import grain

    sampler = grain.samplers.IndexSampler(TASKS, shuffle=True, seed=0)
    return grain.DataLoader(data_source=Tasks(), sampler=sampler, operations=[])


def torch_loader(**options: Any) -> Any:
    from torch.utils.data import DataLoader

    return DataLoader(Tasks(), batch_size=3, **options)  # type: ignore[arg-type]


def torch_repeatable() -> Any:
    return mj.data.from_iterable(torch_loader(), repeatable=True)


def torch_padded() -> Any:
    loader = torch_loader(collate_fn=mj.data.pad_episodes)
    return mj.data.from_iterable(loader, batched=True, pad=mj.data.pad_episodes, repeatable=True)


def torch_stateful() -> Any:
    from torchdata.stateful_dataloader import StatefulDataLoader

    return StatefulDataLoader(Tasks(), batch_size=3)  # type: ignore[arg-type]


def rows() -> Any:
    import datasets

    columns = {"x": 0, "y": 1}, {"asked": 0, "answers": 1}
    each = [Tasks()[index] for index in range(TASKS)]
    table = {
        name: [task[part][field].tolist() for task in each]
        for part, fields in enumerate(columns)
        for name, field in fields.items()
    }
    return datasets.Dataset.from_dict(table).with_format("numpy")


def to_episode(row: Any) -> Any:
    return (row["x"], row["y"]), (row["asked"], row["answers"])


def hugging_face() -> Any:
    return mj.data.from_iterable(rows(), to_episode=to_episode, repeatable=True)


def hugging_face_iterable() -> Any:
    table = rows().to_iterable_dataset(num_shards=4).with_format("numpy")
    return mj.data.from_iterable(table, to_episode=to_episode)


LOADERS = {
    grain_map: "grain",
    grain_batches: "grain",
    grain_loader: "grain",
    torch_repeatable: "torch",
    torch_padded: "torch",
    torch_stateful: "torchdata",
    hugging_face: "datasets",
    hugging_face_iterable: "datasets",
}


def train(sample: Any, iterations: int, state: mj.TrainState, **options: Any) -> mj.TrainResult:
    options = {"meta_batch": 4, "dispatch": 4, "progress": False, **options}
    return mj.train(LEARNER, OPTIMIZER, state, sample, iterations=iterations, **options)


@pytest.mark.slow
@pytest.mark.exact
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # Of torchdata.
@pytest.mark.parametrize("make", LOADERS, ids=lambda make: make.__name__)
def test_a_run_that_is_stopped_goes_on(make: Callable[[], Any], tmp_path: Path) -> None:
    package = LOADERS[make]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    params = LEARNER.init(jax.random.key(0), jnp.zeros((1, 2)))
    start = mj.init_state(params, OPTIMIZER, jax.random.key(1))
    whole = train(make(), 16, start)  # 64 tasks: into the second epoch.
    assert whole.stopped == "finished"
    for iterations in (8, 16):
        with mj.Checkpoints(tmp_path, options={}) as checkpoints:
            state = checkpoints.restore(start)
            assert int(state.step) == iterations - 8
            cut = train(make(), iterations, state, checkpoints=checkpoints)
    chex.assert_trees_all_equal(cut.state.params, whole.state.params)
    scores = mj.evaluate(LEARNER, whole.state.params, make(), episodes=20)
    assert scores.episodes == 20


@pytest.mark.slow
def test_a_loader_without_a_state_says_so() -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    params = LEARNER.init(jax.random.key(0), jnp.zeros((1, 2)))
    state = mj.init_state(params, OPTIMIZER, jax.random.key(1))
    half = train(torch_loader(shuffle=True), 4, state).state
    with pytest.warns(RuntimeWarning, match="goes on at step 4, and its iterator cannot be set"):
        train(torch_loader(shuffle=True), 8, half)
