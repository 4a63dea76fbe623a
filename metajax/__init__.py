"""metajax: meta-learning and few-shot learning as pure functions of parameters and an episode."""

from metajax.adaptation import gradient_learner
from metajax.algorithms import fomaml, maml, reptile
from metajax.batching import apply_queries
from metajax.checkpoint import restore_state, save_state
from metajax.data import (
    ImageEpisodes,
    glyphs,
    image_episodes,
    omniglot,
    sinusoid,
    sinusoid_episodes,
)
from metajax.evaluation import Evaluation, evaluate
from metajax.inner import inner_loop
from metajax.loop import TrainResult, train
from metajax.losses import accuracy, cross_entropy, squared_error
from metajax.models import (
    MLP,
    BatchStatistics,
    ConvNet,
    from_functions,
    from_linen,
    from_nnx,
    max_pool_conv_net,
    mlp,
    patch_convolution,
    strided_conv_net,
)
from metajax.objectives import supervised
from metajax.tasks import meta_gradient, task_keys
from metajax.training import TrainState, init_state, maml_step, train_step
from metajax.types import AdaptedTask, Aux, Episode, Examples, Learner, Model, Objective

__version__ = "0.1.0"

__all__ = [
    "MLP",
    "AdaptedTask",
    "Aux",
    "BatchStatistics",
    "ConvNet",
    "Episode",
    "Evaluation",
    "Examples",
    "ImageEpisodes",
    "Learner",
    "Model",
    "Objective",
    "TrainResult",
    "TrainState",
    "accuracy",
    "apply_queries",
    "cross_entropy",
    "evaluate",
    "fomaml",
    "from_functions",
    "from_linen",
    "from_nnx",
    "glyphs",
    "gradient_learner",
    "image_episodes",
    "init_state",
    "inner_loop",
    "maml",
    "maml_step",
    "max_pool_conv_net",
    "meta_gradient",
    "mlp",
    "omniglot",
    "patch_convolution",
    "reptile",
    "restore_state",
    "save_state",
    "sinusoid",
    "sinusoid_episodes",
    "squared_error",
    "strided_conv_net",
    "supervised",
    "task_keys",
    "train",
    "train_step",
]
