"""metajax: meta-learning and few-shot learning as pure functions of parameters and an episode.

Learners, training and types are here; what they work on is in modules of its own: `metajax.data`,
`metajax.models`, `metajax.metric`, `metajax.parallel`, `metajax.recipes`, `metajax.runs` for what
recipes are trained into, `metajax.calibration` for how sure answers are, and for policies and
environments `metajax.rl`. A classifier in scikit-learn's habit is in `metajax.pictures`, which is
imported when it is asked for.
"""

import importlib
import sys
from types import ModuleType

from metajax import calibration, data, exporting, metric, models, parallel, recipes, rl, runs
from metajax.algorithms import public_names
from metajax.algorithms.public_names import *  # noqa: F403 (the one list of learners)
from metajax.checkpoint import Checkpoints, restore_state
from metajax.diagnosis.report import Diagnosis, diagnose
from metajax.evaluation import Evaluation, evaluate
from metajax.exporting import export_predict
from metajax.gradient_learners import gradient_learner, support_fit
from metajax.inner.backward import Backward
from metajax.inner.loop import InnerLoop, inner_loop
from metajax.keys import task_keys
from metajax.losses import accuracy, cross_entropy, match_error, squared_error, weighted_mean
from metajax.meta_gradients import meta_gradient
from metajax.metric_learners import MetricTask, metric_learner
from metajax.query_batching import apply_queries
from metajax.task_objectives import supervised
from metajax.training.loop import TrainResult, train
from metajax.training_step import TrainState, init_state, maml_step, train_step
from metajax.types import (
    Adapt,
    AdaptedTask,
    Aux,
    Episode,
    Examples,
    Fit,
    FullContext,
    Init,
    Inspect,
    Learner,
    MetaLoss,
    Model,
    Objective,
    ObjectiveAux,
    Predict,
)
from metajax.version import VERSION

__version__ = VERSION

__all__ = [
    "Adapt",
    "AdaptedTask",
    "Aux",
    "Backward",
    "Checkpoints",
    "Diagnosis",
    "Episode",
    "Evaluation",
    "Examples",
    "Fit",
    "FullContext",
    "Init",
    "InnerLoop",
    "Inspect",
    "Learner",
    "MetaLoss",
    "MetricTask",
    "Model",
    "Objective",
    "ObjectiveAux",
    "Predict",
    "TrainResult",
    "TrainState",
    "accuracy",
    "apply_queries",
    "calibration",
    "cross_entropy",
    "data",
    "diagnose",
    "evaluate",
    "export_predict",
    "gradient_learner",
    "init_state",
    "inner_loop",
    "maml_step",
    "match_error",
    "meta_gradient",
    "metric",
    "metric_learner",
    "models",
    "parallel",
    "recipes",
    "restore_state",
    "rl",
    "runs",
    "squared_error",
    "supervised",
    "support_fit",
    "task_keys",
    "train",
    "train_step",
    "weighted_mean",
]
__all__ += public_names.__all__
exporting.register(sys.modules[__name__], calibration, models, rl)


def __getattr__(name: str) -> ModuleType:
    """`metajax.pictures` is imported when it is asked for: it asks for more packages."""
    if name == "pictures":
        return importlib.import_module("metajax.pictures")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "pictures"]
