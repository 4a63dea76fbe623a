"""Calls of what makes learners, and of the functions of one."""

import math

import jax
import optax
from fuzz import kinds as k
from fuzz import things
from fuzz.table import Call

import metajax as mj

BATCHING = k.choice("SEPARATE")
INNER = {
    "inner": k.OPTIMIZER,
    "num_steps": k.integer(0),
    "first_order": k.FLAG,
    "backward": k.Kind("backward", lambda: {"None": None, "True": True, "a text": "steps"}),
    "adapt": k.SELECTION,
}
SCORES = {
    "loss_fn": k.FUNCTION,
    "metrics": k.OPTIONAL_MAPPING.also(lambda: {"no functions": {"score": "accuracy"}}),
    "query_batching": BATCHING,
    "ways": k.optional_integer(1),
}
GRADIENT = {**INNER, **SCORES, "record_steps": k.STEPS}
FIRST_ORDER = {n: kind for n, kind in GRADIENT.items() if n not in ("first_order", "backward")}
IN_TWO = {n: kind for n, kind in GRADIENT.items() if n != "adapt"}
MODEL_OR_OBJECTIVE = k.MODEL
PER_STEP = k.Kind("per step", lambda: {"a text": "abc", "a length": jax.numpy.ones(3)})
LOOP = k.Kind("loop", lambda: {"None": None, "steps": 5, "an optimiser": things.INNER})
STEPS = {"inner": things.INNER, "num_steps": 1}


def _two() -> dict:
    return {"body": things.encoder(), "head": things.model(), **STEPS}


def _model() -> dict:
    return {"model": things.model(), **STEPS}


def _encoder() -> dict:
    return {"encoder": things.encoder()}


FACTORIES = (
    Call("metajax.maml", mj.maml, _model, {"model": k.MODEL, **GRADIENT}),
    Call("metajax.fomaml", mj.fomaml, _model, {"model": k.MODEL, **FIRST_ORDER}),
    Call("metajax.anil", mj.anil, _two, {"body": k.MODEL, "head": k.MODEL, **IN_TWO}),
    Call("metajax.boil", mj.boil, _two, {"body": k.MODEL, "head": k.MODEL, **IN_TWO}),
    Call(
        "metajax.meta_sgd",
        mj.meta_sgd,
        lambda: {"model": things.model(), "num_steps": 1},
        {
            "model": k.MODEL,
            **{name: kind for name, kind in GRADIENT.items() if name != "inner"},
            "rate": k.number().also(lambda: {"three": (0.1, 0.2, 0.3), "backwards": (0.2, 0.1)}),
            "granularity": k.choice("LEAF"),
            "per_step": k.FLAG,
        },
    ),
    Call(
        "metajax.reptile",
        mj.reptile,
        _model,
        {
            "model": k.MODEL,
            **FIRST_ORDER,
            "batch_size": k.optional_integer(1),
            "carry_state": k.FLAG,
        },
    ),
    Call(
        "metajax.proto_maml",
        mj.proto_maml,
        lambda: {**_encoder(), **STEPS},
        {"encoder": k.MODEL, **GRADIENT},
    ),
    Call(
        "metajax.fo_proto_maml",
        mj.fo_proto_maml,
        lambda: {**_encoder(), **STEPS},
        {"encoder": k.MODEL, **FIRST_ORDER},
    ),
    Call(
        "metajax.linear_probe",
        mj.linear_probe,
        _encoder,
        {
            "encoder": k.MODEL,
            "strength": k.number(0.0, -1.0, math.inf),
            "learn_strength": k.FLAG,
            "max_steps": k.integer(1),
            **SCORES,
        },
    ),
    Call(
        "metajax.prototypical_network",
        mj.prototypical_network,
        _encoder,
        {"encoder": k.MODEL, "distance": k.FUNCTION, **SCORES},
    ),
    Call(
        "metajax.matching_network",
        mj.matching_network,
        lambda: {**_encoder(), "temperature": 0.5},
        {
            "encoder": k.MODEL,
            "support_encoder": k.OPTIONAL_MODEL,
            "full_context": k.Kind(
                "full context", lambda: {"a text": "fce", "True": True, "a width": 64}
            ),
            "normalize": k.choice("SUPPORT").without("None"),
            "similarity": k.OPTIONAL_FUNCTION,
            "temperature": k.traced_number(0.0, -1.0),
            **SCORES,
        },
    ),
    Call(
        "metajax.mahalanobis_head",
        mj.mahalanobis_head,
        _encoder,
        {"encoder": k.MODEL, "strength": k.number(0.0, -1.0, math.inf), **SCORES},
    ),
    Call(
        "metajax.nearest_class_mean",
        mj.nearest_class_mean,
        _encoder,
        {"encoder": k.MODEL, "mean": k.OPTIONAL_ARRAY, "unit": k.FLAG, **SCORES},
    ),
    Call(
        "metajax.ridge_head",
        mj.ridge_head,
        _encoder,
        {
            "encoder": k.MODEL,
            "strength": k.number(0.0, -1.0, math.inf),
            "learn_strength": k.FLAG,
            "scale": k.number(0.0, -1.0, math.inf).without("None"),
            "learn_scale": k.FLAG,
            "bias": k.FLAG,
            **SCORES,
        },
    ),
    Call(
        "metajax.relation_network",
        mj.relation_network,
        lambda: {"encoder": things.encoder(), "relation": things.model()},
        {"encoder": k.MODEL, "relation": k.MODEL, **SCORES},
    ),
    Call(
        "metajax.supervised",
        mj.supervised,
        lambda: {"model": things.model()},
        {"model": k.MODEL, **SCORES},
    ),
    Call(
        "metajax.maml_step",
        mj.maml_step,
        lambda: {**_model(), "optimizer": things.OUTER},
        {
            "model": k.MODEL,
            "optimizer": k.OPTIMIZER,
            **INNER,
            **SCORES,
            "chunk_size": k.optional_integer(1),
            "task_transform": k.OPTIONAL_OPTIMIZER,
            "task_weight": k.OPTIONAL_FUNCTION,
            "axis_name": k.TEXT.without("None"),
        },
    ),
    Call(
        "metajax.gradient_learner",
        mj.gradient_learner,
        lambda: {
            "objective": things.objective(),
            "fit": mj.support_fit(things.objective(), things.loop()),
            "record_steps": False,
        },
        {
            "objective": k.OBJECTIVE,
            "fit": k.FUNCTION,
            "record_steps": k.STEPS,
            "init": k.OPTIONAL_FUNCTION,
            "meta_loss": k.FUNCTION,
            "title": k.TEXT,
        },
    ),
    Call(
        "metajax.metric_learner",
        mj.metric_learner,
        lambda: {
            "init": things.encoder().init,
            "encoder": things.encoder(),
            "read": lambda params, embeddings, support, present: embeddings,
            "compare": lambda params, reading, queries, present: queries @ reading.T,
            "ways": 3,
            "query_batching": "separate",
        },
        {
            "init": k.FUNCTION,
            "encoder": k.MODEL,
            "read": k.FUNCTION,
            "compare": k.FUNCTION,
            "ways": k.optional_integer(1),
            "query_batching": BATCHING,
            "support_encoder": k.OPTIONAL_MODEL,
            "loss_fn": k.FUNCTION,
            "metrics": SCORES["metrics"],
            "regression": k.FLAG,
            "arrange": k.FUNCTION,
            "title": k.TEXT,
        },
    ),
    Call(
        "metajax.support_fit",
        mj.support_fit,
        lambda: {"objective": things.objective(), "loop": things.loop()},
        {
            "objective": k.OBJECTIVE,
            "loop": k.Kind(
                "loop", lambda: {"None": None, "steps": 5, "an optimiser": things.INNER}
            ),
        },
    ),
    Call(
        "metajax.Backward",
        mj.Backward,
        dict,
        {
            "mixed": k.FLAG,
            "checkpoint": k.choice("STEPS"),
            "last_steps": k.optional_integer(0),
            "unroll": k.FLAG,
        },
    ),
    Call("metajax.InnerLoop", mj.InnerLoop, lambda: STEPS, INNER),
    Call(
        "metajax.InnerLoop.run",
        lambda **given: things.loop().run(**given),
        lambda: {"loss": things.loss_of_params, "params": {"w": jax.numpy.ones(2)}},
        {
            "loss": k.FUNCTION,
            "params": k.Kind("parameters", lambda: _not_floats()),
            "per_step": k.Kind(
                "per step", lambda: {"a text": "abc", "a length": jax.numpy.ones(3)}
            ),
            "observe": k.OPTIONAL_FUNCTION,
            "has_aux": k.FLAG.also(lambda: {"of a loss alone": True}),
        },
        slow=True,
    ),
    Call(
        "metajax.inner_loop",
        mj.inner_loop,
        lambda: {
            "loss": things.loss_of_params,
            "params": {"w": jax.numpy.ones(2)},
            "optimizer": optax.sgd(0.1),
            "num_steps": 1,
        },
        {
            "loss": k.FUNCTION,
            "params": k.Kind("parameters", lambda: _not_floats()),
            "optimizer": k.OPTIMIZER,
            **{name: kind for name, kind in INNER.items() if name != "inner"},
            "per_step": k.Kind(
                "per step", lambda: {"a text": "abc", "a length": jax.numpy.ones(3)}
            ),
            "observe": k.OPTIONAL_FUNCTION,
            "has_aux": k.FLAG.also(lambda: {"of a loss alone": True}),
        },
        slow=True,
    ),
    Call(
        "metajax.Model",
        mj.Model,
        lambda: {"init": things.begin, "apply": things.apply},
        {
            "init": k.FUNCTION,
            "apply": k.FUNCTION,
            "sharing": k.choice("NONE").without("None"),
            "statistics": k.OPTIONAL_FUNCTION,
        },
    ),
    Call(
        "metajax.Model.within",
        lambda **given: things.model().within(**given),
        lambda: {"part": lambda params: params},
        {"part": k.FUNCTION},
    ),
    Call(
        "metajax.Model.apply",
        lambda **given: things.model().apply(**given),
        lambda: {"params": things.params(), "inputs": things.episode().support.inputs},
        {"inputs": k.ARRAY, "key": k.OPTIONAL_KEY, "weights": k.OPTIONAL_ARRAY},
    ),
    Call(
        "metajax.Model.init",
        lambda **given: things.model().init(given["key"], given["inputs"]),
        lambda: {"key": things.KEY, "inputs": things.episode().support.inputs},
        {"key": k.KEY},
    ),
    Call(
        "metajax.Objective",
        mj.Objective,
        lambda: {
            "init": things.begin,
            "loss": lambda params, examples, key, context: None,
            "predict": lambda params, inputs, kept: None,
        },
        {
            "init": k.FUNCTION,
            "loss": k.FUNCTION,
            "predict": k.FUNCTION,
            "keep": k.FUNCTION,
            "batched": k.OPTIONAL_FUNCTION,
        },
    ),
    Call(
        "metajax.apply_queries",
        mj.apply_queries,
        lambda: {
            "model": things.model(),
            "params": things.params(),
            "queries": things.episode().query.inputs,
            "weights": None,
            "support": things.episode().support,
            "batching": "joint",
        },
        {
            "model": k.MODEL,
            "queries": k.ARRAY,
            "weights": k.OPTIONAL_ARRAY,
            "support": k.EXAMPLES.without("None", "too few targets"),
            "batching": BATCHING,
            "key": k.OPTIONAL_KEY,
        },
        slow=True,
    ),
)


def _not_floats() -> dict:
    return {
        "a text": "params",
        "a function": abs,
        "integers": {"w": jax.numpy.ones(2, int)},
        "a list of texts": ["a"],
    }


CALLS = FACTORIES
