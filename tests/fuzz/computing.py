"""Calls of models, losses, and of what metric learners are made of."""

import math

import jax.numpy as jnp
import numpy as np
from fuzz import kinds as k
from fuzz import things
from fuzz.table import Call

import metajax as mj
from metajax import metric, models

LABELS = k.ARRAY.also(lambda: {"floats": np.zeros(6), "too few": np.zeros(2, int)})
FILTERS = {"filters": k.integer(1)}
FROZEN = k.Kind("frozen", lambda: {"a text": "stats", "3": 3, "a list": [1]})
INITIALIZER = k.FUNCTION.also(
    lambda: {"a function of two": lambda key, shape: jnp.ones(shape), "without a key": jnp.ones}
)._replace(name="initializer")
LAYERS = {
    **FILTERS,
    "use_scale": k.FLAG,
    "epsilon": k.number(0.0, -1e-5, float("inf")),
    "kernel_init": INITIALIZER,
}
HEAD = {"head_kernel_init": INITIALIZER, "head_bias_init": INITIALIZER}
NET = {"ways": k.integer(1), **LAYERS, **HEAD}


MODELS = (
    Call(
        "metajax.models.mlp",
        models.mlp,
        lambda: {"widths": (3,), "stddev": 0.1},
        {
            "widths": k.Kind(
                "widths",
                lambda: {
                    "None": None,
                    "one": 5,
                    "a text": "40",
                    "floats": (40.0, 1.0),
                    "none": (),
                    "0": (0,),
                },
            ),
            "stddev": k.number(-1.0, float("inf")),
        },
    ),
    Call(
        "metajax.models.strided_conv_net",
        models.strided_conv_net,
        lambda: {"ways": 2, "epsilon": 1e-3},
        {**NET, "features": k.choice("MEAN").also(lambda: {"the linen module's": "map"})},
    ),
    Call(
        "metajax.models.max_pool_conv_net",
        models.max_pool_conv_net,
        lambda: {"ways": 2},
        {**NET, "pool_padding": k.choice("same"), "pool_first": k.FLAG},
    ),
    Call("metajax.models.embedding_net", models.embedding_net, dict, LAYERS),
    Call("metajax.models.relation_encoder", models.relation_encoder, dict, LAYERS),
    Call(
        "metajax.models.relation_module",
        models.relation_module,
        dict,
        {**LAYERS, **HEAD, "hidden": k.integer(1), "padding": k.choice("same")},
    ),
    Call(
        "metajax.models.full_context",
        models.full_context,
        lambda: {"features": 2},
        {"features": k.integer(1), "read_steps": k.integer(0), "start": k.choice("ZEROS")},
    ),
    Call(
        "metajax.models.chain",
        models.chain,
        lambda: {"body": things.encoder(), "head": things.model()},
        {"body": k.MODEL, "head": k.MODEL},
    ),
    Call(
        "metajax.models.frozen",
        # What the parameters are for is known where there are inputs.
        lambda **given: models.frozen(**given).init(things.KEY, things.episode().support.inputs),
        lambda: {"model": things.model(), "params": things.params()},
        {
            "model": k.MODEL,
            "params": k.PARAMS,
            "learn": k.SELECTION.also(lambda: {"a stranger": "tail", "everything": "*"}),
        },
    ),
    Call(
        "metajax.models.centred",
        models.centred,
        lambda: {"mean": jnp.ones(3)},
        {
            "mean": k.ARRAY.also(lambda: {"a matrix": jnp.eye(3), "NaN": np.full(3, np.nan)}),
            "unit": k.FLAG,
        },
    ),
    Call(
        "metajax.models.computing_in",
        models.computing_in,
        lambda: {"model": things.model(), "dtype": jnp.bfloat16},
        {
            "model": k.MODEL,
            "dtype": k.Kind(
                "dtype", lambda: {"None": None, "16": 16, "integers": jnp.int32, "a word": "half!"}
            ),
        },
    ),
    Call(
        "metajax.models.with_lora",
        models.with_lora,
        lambda: {"model": things.model(), "rank": 1, "where": "*/kernel"},
        {
            "model": k.MODEL,
            "rank": k.integer(1),
            "where": k.SELECTION.also(lambda: {"None": None}),
            "scale": k.number(0.0, -1.0, math.inf),
        },
    ),
    Call(
        "metajax.models.estimate_statistics",
        models.estimate_statistics,
        lambda: {
            "model": things.normalised(),
            "params": things.normalised_params(),
            "sample": things.sample,
            "episodes": 2,
        },
        {
            "model": k.MODEL.also(lambda: {"without statistics": things.model()}),
            "params": k.PARAMS,
            "sample": k.SAMPLE,
            "episodes": k.integer(1),
            "seed": k.integer(0),
        },
        late=True,
    ),
    *[
        Call(
            f"metajax.models.{function.__name__}",
            function,
            right,
            {
                "module": k.Kind(
                    "module",
                    lambda wrong=wrong: {
                        "None": None,
                        "a text": "Dense",
                        "3": 3,
                        "a model": things.model(),
                        "parameters": things.params(),
                        **wrong,
                    },
                ),
                "frozen": FROZEN,
            },
            late=function is not models.from_linen,
            needs=needs,
        )
        for function, right, wrong, needs in (
            (
                models.from_linen,
                lambda: {"module": things.linen_module()},
                {"the class": type(things.linen_module())},
                (),
            ),
            (models.from_nnx, lambda: {"module": things.nnx_module()}, {}, ()),
            (models.from_equinox, lambda: {"module": things.equinox_module}, {}, ("equinox",)),
        )
    ],
    Call(
        "metajax.models.from_haiku",
        models.from_haiku,
        lambda: {"function": things.haiku_function},
        {"function": k.FUNCTION.also(lambda: {"a model": things.model()}), "frozen": FROZEN},
        late=True,
        needs=("haiku",),
    ),
    Call(
        "metajax.models.kernels.convolution",
        models.kernels.convolution,
        lambda: {
            "lhs": jnp.ones((1, 4, 4, 1)),
            "rhs": jnp.ones((3, 3, 1, 2)),
            "window_strides": (1, 1),
            "padding": "SAME",
        },
        {"lhs": k.ARRAY, "rhs": k.ARRAY},
        late=True,
    ),
    Call(
        "metajax.models.kernels.max_pool_2x2",
        models.kernels.max_pool_2x2,
        lambda: {"images": jnp.ones((1, 4, 4, 1))},
        {
            "images": k.ARRAY.also(lambda: {"one axis less": jnp.ones((4, 4, 1))}),
            "padding": k.choice("same"),
        },
    ),
)


def _labelled() -> dict:
    return {"outputs": jnp.eye(3), "targets": jnp.arange(3)}


LOSSES = (
    *[
        Call(
            f"metajax.{loss.__name__}",
            loss,
            _labelled
            if loss is not mj.squared_error
            else lambda: dict.fromkeys(("outputs", "targets"), jnp.eye(3)),
            {"outputs": k.ARRAY, "targets": k.ARRAY, "weights": k.OPTIONAL_ARRAY},
            late=True,
        )
        for loss in (mj.accuracy, mj.cross_entropy, mj.match_error, mj.squared_error)
    ],
    Call(
        "metajax.weighted_mean",
        mj.weighted_mean,
        lambda: {"values": jnp.ones(3)},
        {"values": k.ARRAY, "weights": k.OPTIONAL_ARRAY},
    ),
)
METRIC = (
    *[
        Call(
            f"metajax.metric.{function.__name__}",
            function,
            lambda: {"embeddings": jnp.eye(3), "targets": jnp.arange(3), "ways": 3},
            {
                "embeddings": k.ARRAY,
                "targets": LABELS,
                "ways": k.integer(1),
                "weights": k.OPTIONAL_ARRAY,
            },
            slow=True,
        )
        for function in (metric.class_sums, metric.prototypes)
    ],
    *[
        Call(
            f"metajax.metric.{function.__name__}",
            function,
            lambda: {"points": jnp.eye(3), "centres": jnp.eye(3)},
            {"points": k.ARRAY, "centres": k.ARRAY},
        )
        for function in (
            metric.squared_distances,
            metric.cosine_distances,
            metric.cosine_similarities,
            metric.dot_products,
        )
    ],
    Call(
        "metajax.metric.unit_vectors",
        metric.unit_vectors,
        lambda: {"vectors": jnp.eye(3)},
        {"vectors": k.ARRAY},
    ),
    Call(
        "metajax.metric.centred_features",
        metric.centred_features,
        lambda: {"features": jnp.eye(3), "mean": jnp.ones(3)},
        {"features": k.ARRAY, "mean": k.OPTIONAL_ARRAY, "unit": k.FLAG},
    ),
    Call(
        "metajax.metric.linear_reading",
        metric.linear_reading,
        lambda: {"centres": jnp.eye(3)},
        {"centres": k.ARRAY},
    ),
    Call(
        "metajax.metric.log_attention",
        metric.log_attention,
        lambda: {"scores": jnp.eye(3)},
        {"scores": k.ARRAY, "weights": k.OPTIONAL_ARRAY},
    ),
    Call(
        "metajax.metric.class_log_probabilities",
        metric.class_log_probabilities,
        lambda: {"log_weights": jnp.eye(3), "targets": jnp.arange(3), "ways": 3},
        {
            "log_weights": k.ARRAY,
            "targets": LABELS,
            "ways": k.integer(1),
            "weights": k.OPTIONAL_ARRAY,
        },
        slow=True,
    ),
    Call(
        "metajax.metric.present_classes",
        metric.present_classes,
        lambda: {"support": things.episode().support, "ways": 3},
        {"support": k.EXAMPLES, "ways": k.integer(1)},
    ),
    Call(
        "metajax.metric.count_ways",
        metric.count_ways,
        lambda: {"support": things.episode().support, "ways": 3},
        {"support": k.EXAMPLES, "ways": k.optional_integer(1)},
    ),
)
CALLS = (*MODELS, *LOSSES, *METRIC)
