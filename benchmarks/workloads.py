"""The workloads of the comparison: weights and episodes as NumPy arrays, for every contender alike.

A workload's arrays are named `xs`, `ys`, `xq`, `yq` (support and query, leading axis = task; images
are `[height, width, channels]`) and `<layer>/<leaf>` for the weights: `conv0/kernel` `[3, 3, in,
out]`, `norm0/scale` and `norm0/bias` `[channels]`, `dense0/kernel` `[in, out]`, `dense0/bias`
`[out]`, layers counted from 0.
"""

import math
from typing import Literal, NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]
BLOCKS = 4


class Workload(NamedTuple):
    """A network, its tasks, and how metajax is to run them.

    Attributes:
      title: for people.
      network: `"perceptron"`, or four blocks that halve the image by `"stride"` or by `"max"`.
      widths: outputs of the dense layers; for the convolutional networks, of the head alone.
      filters: channels of every block.
      item: shape of one input.
      inner_rate: of the inner SGD.
      tasks: in a meta-batch.
      support: items a task to adapt on.
      query: items a task to be judged on.
      chunk_size: tasks that metajax runs at once, see `metajax.meta_gradient`.
      steps: inner steps to measure.
    """

    title: str
    network: Literal["perceptron", "stride", "max"]
    widths: tuple[int, ...]
    filters: int
    item: tuple[int, ...]
    inner_rate: float
    tasks: int
    support: int
    query: int
    chunk_size: int | None
    steps: tuple[int, ...] = (1, 5)

    @property
    def regression(self) -> bool:
        """Squared error on a number, rather than cross-entropy on classes."""
        return self.widths[-1] == 1


WORKLOADS = {
    "W1": Workload(
        "sinusoid perceptron", "perceptron", (40, 40, 1), 0, (1,), 0.01, 25, 10, 10, None
    ),
    "W2": Workload("Omniglot strided net", "stride", (5,), 64, (28, 28, 1), 0.4, 32, 5, 75, 1),
    "W3": Workload("mini-ImageNet net", "max", (5,), 32, (84, 84, 3), 0.05, 4, 5, 75, 1),
    "W4": Workload(
        *("wide perceptron", "perceptron", (1024, 1024, 20), 0, (784,)),
        *(0.1, 4, 100, 100, 1, (1, 5, 10)),
    ),
}


def arrays(workload: Workload, seed: int = 0) -> Arrays:
    """Weights and episodes, floats in single precision and labels as integers."""
    random = np.random.default_rng(seed)
    made = _weights(workload, random) | _episodes(workload, random)
    return {
        name: array.astype(np.float32 if array.dtype.kind == "f" else np.int32)
        for name, array in made.items()
    }


def count_parameters(workload: Workload) -> int:
    """Weights of the workload's network."""
    weights = _weights(workload, np.random.default_rng(0))
    return sum(array.size for array in weights.values())


def _weights(workload: Workload, random: np.random.Generator) -> Arrays:
    """Normal weights of He's scale; offsets and scales a little off 0 and 1, so that they count."""
    weights: Arrays = {}

    def layer(name: str, *shape: int) -> None:
        deviation = math.sqrt(2 / math.prod(shape[:-1]))
        weights[f"{name}/kernel"] = deviation * random.standard_normal(shape)

    inputs = math.prod(workload.item)
    if workload.network != "perceptron":
        size, _, channels = workload.item
        for block in range(BLOCKS):
            layer(f"conv{block}", 3, 3, channels, workload.filters)
            weights[f"norm{block}/scale"] = 1 + 0.1 * random.standard_normal(workload.filters)
            weights[f"norm{block}/bias"] = 0.1 * random.standard_normal(workload.filters)
            size, channels = size // 2, workload.filters
        inputs = channels if workload.network == "stride" else channels * size**2
    for index, width in enumerate(workload.widths):
        layer(f"dense{index}", inputs, width)
        weights[f"dense{index}/bias"] = 0.1 * random.standard_normal(width)
        inputs = width
    return weights


def _episodes(workload: Workload, random: np.random.Generator) -> Arrays:
    """Sinusoids, or classes that are patterns under noise."""
    sets = (("s", workload.support), ("q", workload.query))
    episodes: Arrays = {}
    if workload.regression:
        amplitude = random.uniform(0.1, 5.0, (workload.tasks, 1, 1))
        phase = random.uniform(0.0, math.pi, (workload.tasks, 1, 1))
        for suffix, items in sets:
            inputs = random.uniform(-5.0, 5.0, (workload.tasks, items, 1))
            episodes[f"x{suffix}"] = inputs
            episodes[f"y{suffix}"] = amplitude * np.sin(inputs - phase)
        return episodes
    ways = workload.widths[-1]
    patterns = random.uniform(size=(workload.tasks, ways, *workload.item))
    for suffix, items in sets:
        labels = np.arange(items) % ways
        noise = random.uniform(size=(workload.tasks, items, *workload.item))
        episodes[f"x{suffix}"] = (patterns[:, labels] + noise) / 2
        episodes[f"y{suffix}"] = np.broadcast_to(labels, (workload.tasks, items))
    return episodes
