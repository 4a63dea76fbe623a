"""Small valid arguments, made once: what a call is given where nothing is wrong."""

import functools
import tempfile
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import metajax as mj

WAYS, WIDTH = 3, 4
KEY = jax.random.key(0)
RAW_KEY = np.array([0, 7], np.uint32)
INNER, OUTER = optax.sgd(0.1), optax.adam(1e-3)


def made_once(function: Callable[[], Any]) -> Callable[[], Any]:
    return functools.cache(function)


def sample(rng: jax.Array) -> mj.Episode:
    """Two items a class, of which one is asked. What it calls its key is its own business."""
    inputs = jax.random.normal(rng, (2 * WAYS, WIDTH))
    targets = jnp.arange(WAYS)
    return mj.Episode(mj.Examples(inputs[:WAYS], targets), mj.Examples(inputs[WAYS:], targets))


@made_once
def model() -> mj.Model:
    return mj.models.mlp((WAYS,))


@made_once
def encoder() -> mj.Model:
    return mj.models.mlp((2,))


@made_once
def learner() -> mj.Learner:
    return mj.maml(model(), inner=INNER, num_steps=1)


@made_once
def metric_learner() -> mj.Learner:
    return mj.prototypical_network(encoder())


@made_once
def backbone() -> mj.models.pretrained.Backbone:
    """Of two parts, for grey images of any side."""
    net = mj.models.mlp((2,))
    head = {"Dense_0": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
    parts = {
        "body": mj.models.pretrained.Part(net, net.init(KEY, jnp.ones((1, 2, 2, 1)))),
        "head": mj.models.pretrained.Part(net, head),
    }
    return mj.models.pretrained.Backbone("mine", parts, seen())


@made_once
def seen() -> mj.models.pretrained.Preprocessing:
    return mj.models.pretrained.Preprocessing(2, (0.5,), (0.5,))


@made_once
def small_recipe() -> mj.recipes.Recipe:
    recipe = mj.recipes.named("maml-sinusoids-5s")
    return mj.recipes.changed(recipe, iterations=1, meta_batch=1, test_steps=1)


_RUNS = tempfile.TemporaryDirectory(prefix="metajax-tests-", ignore_cleanup_errors=True)


@made_once
def run() -> mj.runs.Run:
    return mj.runs.train_run(small_recipe(), _RUNS.name, progress=False)


@made_once
def objective() -> mj.Objective:
    return mj.supervised(model())


@made_once
def episode() -> mj.Episode:
    return sample(KEY)


@made_once
def episodes() -> mj.Episode:
    return jax.tree.map(lambda x: jnp.stack([x, x, x, x]), episode())


@made_once
def params() -> Any:
    return learner().init(KEY, episode().support.inputs)


@made_once
def metric_params() -> Any:
    return metric_learner().init(KEY, episode().support.inputs)


@made_once
def task() -> Any:
    return learner().adapt(params(), episode().support)


@made_once
def metric_task() -> Any:
    return metric_learner().adapt(metric_params(), episode().support)


@made_once
def state() -> mj.TrainState:
    return mj.init_state(params(), OUTER, KEY)


@made_once
def stacked() -> mj.TrainState:
    return jax.tree.map(lambda x: jnp.stack([x, x]), state())


@made_once
def step() -> Any:
    return mj.train_step(learner(), OUTER)


@made_once
def loop() -> mj.InnerLoop:
    return mj.InnerLoop(INNER, 1)


@made_once
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 4, 8, 8, 1)).astype(np.uint8)


@made_once
def classes() -> mj.data.ImageClasses:
    return mj.data.image_classes(pictures())


@made_once
def image_sample() -> Any:
    return mj.data.image_episodes(pictures(), ways=2, shots=1, queries=1)


@made_once
def host_sample() -> Any:
    return mj.data.image_episodes(pictures(), ways=2, shots=1, queries=1, place="host")


@made_once
def drawn() -> mj.data.Drawn:
    """Two episodes of two classes, one item each asked."""
    classes, labels = np.array([[0, 1], [2, 3]]), np.array([[0, 1], [0, 1]])
    support, query = (mj.data.Places(classes, np.full((2, 2), i), labels) for i in (0, 1))
    return mj.data.Drawn(support, query)


@made_once
def listed_sample() -> Any:
    return mj.data.listed_episodes(pictures(), drawn())


@made_once
def evaluation() -> mj.Evaluation:
    return mj.Evaluation({"accuracy": np.ones((2, 2))}, 2, 0, runs=2)


@made_once
def normalised() -> mj.Model:
    return mj.models.from_linen(nn.Sequential([nn.BatchNorm(), nn.Dense(WAYS)]))


@made_once
def normalised_params() -> Any:
    return normalised().init(KEY, episode().support.inputs)


@made_once
def mesh() -> Any:
    return mj.parallel.task_mesh()


@made_once
def linen_module() -> nn.Module:
    return nn.Dense(WAYS)


def equinox_module(key: jax.Array) -> Any:
    import equinox as eqx

    return eqx.nn.Linear(WIDTH, WAYS, key=key)


def haiku_function(inputs: jax.Array) -> jax.Array:
    import haiku as hk

    return hk.Linear(WAYS)(inputs)


@made_once
def nnx_module() -> nnx.Module:
    return nnx.Linear(WIDTH, WAYS, rngs=nnx.Rngs(0))


def apply(params: Any, inputs: Any) -> Any:
    return inputs @ params["w"]


def begin(key: Any, inputs: Any) -> Any:
    return {"w": jax.random.normal(key, (inputs.shape[-1], WAYS))}


def loss_of_params(params: Any, step: Any) -> Any:
    return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
