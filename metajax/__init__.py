"""metajax: meta-learning and few-shot learning as pure functions of parameters and an episode."""

from metajax.adaptation import gradient_learner
from metajax.algorithms import (
    fo_proto_maml,
    fomaml,
    maml,
    matching_network,
    proto_maml,
    prototypical_network,
    relation_network,
    reptile,
)
from metajax.algorithms.matching import MatchingParams
from metajax.algorithms.proto_maml import ProtoMAMLParams
from metajax.algorithms.relation import RelationParams
from metajax.algorithms.reptile import ReptileParams
from metajax.batching import apply_queries
from metajax.checkpoint import Checkpoints, restore_state
from metajax.comparison import MetricTask, metric_learner
from metajax.data import (
    ImageEpisodes,
    glyphs,
    image_episodes,
    omniglot,
    sinusoid,
    sinusoid_episodes,
)
from metajax.evaluation import Evaluation, evaluate
from metajax.inner import Backward, inner_loop
from metajax.loop import TrainResult, train
from metajax.losses import accuracy, cross_entropy, match_error, squared_error
from metajax.metric import (
    class_log_probabilities,
    class_sums,
    cosine_distances,
    cosine_similarities,
    dot_products,
    linear_reading,
    log_attention,
    prototypes,
    squared_distances,
)
from metajax.models import (
    MLP,
    BatchStatistics,
    ConvNet,
    RelationEncoder,
    RelationModule,
    computing_in,
    convolution,
    embedding_net,
    from_functions,
    from_linen,
    from_nnx,
    full_context,
    max_pool_conv_net,
    mlp,
    relation_encoder,
    relation_module,
    strided_conv_net,
)
from metajax.objectives import supervised
from metajax.tasks import meta_gradient, task_keys
from metajax.training import TrainState, init_state, maml_step, train_step
from metajax.types import (
    AdaptedTask,
    Aux,
    Episode,
    Examples,
    FullContext,
    Learner,
    Model,
    Objective,
)

__version__ = "0.1.0"

__all__ = [
    "MLP",
    "AdaptedTask",
    "Aux",
    "Backward",
    "BatchStatistics",
    "Checkpoints",
    "ConvNet",
    "Episode",
    "Evaluation",
    "Examples",
    "FullContext",
    "ImageEpisodes",
    "Learner",
    "MatchingParams",
    "MetricTask",
    "Model",
    "Objective",
    "ProtoMAMLParams",
    "RelationEncoder",
    "RelationModule",
    "RelationParams",
    "ReptileParams",
    "TrainResult",
    "TrainState",
    "accuracy",
    "apply_queries",
    "class_log_probabilities",
    "class_sums",
    "computing_in",
    "convolution",
    "cosine_distances",
    "cosine_similarities",
    "cross_entropy",
    "dot_products",
    "embedding_net",
    "evaluate",
    "fo_proto_maml",
    "fomaml",
    "from_functions",
    "from_linen",
    "from_nnx",
    "full_context",
    "glyphs",
    "gradient_learner",
    "image_episodes",
    "init_state",
    "inner_loop",
    "linear_reading",
    "log_attention",
    "maml",
    "maml_step",
    "match_error",
    "matching_network",
    "max_pool_conv_net",
    "meta_gradient",
    "metric_learner",
    "mlp",
    "omniglot",
    "proto_maml",
    "prototypes",
    "prototypical_network",
    "relation_encoder",
    "relation_module",
    "relation_network",
    "reptile",
    "restore_state",
    "sinusoid",
    "sinusoid_episodes",
    "squared_distances",
    "squared_error",
    "strided_conv_net",
    "supervised",
    "task_keys",
    "train",
    "train_step",
]
