"""Calls of the functions of learners, one that adapts and one that compares."""

from collections.abc import Callable
from typing import Any

import jax
from fuzz import kinds as k
from fuzz import things
from fuzz.table import Call

import metajax as mj


def _inputs() -> jax.Array:
    return things.episode().support.inputs


WRONG_INPUTS = k.ARRAY.also(
    lambda: {
        "no items": _inputs()[:0],
        "items of another width": _inputs()[:, :2],
        "one item": _inputs()[0],
        "a number": 3.0,
    }
)


def _task(params: Callable[[], Any], task: Callable[[], Any], other: Callable[[], Any]) -> k.Kind:
    return k.Kind(
        "task",
        lambda: {
            "None": None,
            "a text": "task",
            "parameters": params(),
            "a support set": things.episode().support,
            "an episode": things.episode(),
            "another learner's": other(),
            "a tuple": tuple(task()),
            "a function": abs,
            "another width": jax.tree.map(lambda x: jax.numpy.concatenate([x, x], axis=-1), task()),
        },
    )


def _functions(
    name: str,
    learner: Callable[[], mj.Learner],
    params: Callable[[], Any],
    task: Callable[[], Any],
    other: Callable[[], Any],
) -> tuple[Call, ...]:
    return (
        Call(
            f"{name}.init",
            lambda **given: learner().init(**given),
            lambda: {"key": things.KEY, "inputs": _inputs()},
            {"key": k.KEY, "inputs": k.ARRAY.also(lambda: {"no items": _inputs()[:0]})},
        ),
        Call(
            f"{name}.loss",
            lambda **given: learner().loss(**given),
            lambda: {"params": params(), "episode": things.episode()},
            {
                "params": k.PARAMS,
                "episode": k.EPISODE,
                "key": k.OPTIONAL_KEY,
                "training": k.OPTIONAL_FLAG.also(lambda: {"no key beside it": True}),
            },
        ),
        Call(
            f"{name}.adapt",
            lambda **given: learner().adapt(**given),
            lambda: {"params": params(), "support": things.episode().support},
            {
                "params": k.PARAMS,
                "support": k.EXAMPLES,
                "key": k.OPTIONAL_KEY,
                "training": k.OPTIONAL_FLAG.also(lambda: {"no key beside it": True}),
            },
        ),
        Call(
            f"{name}.predict",
            lambda **given: learner().predict(**given),
            lambda: {"params": params(), "task": task(), "inputs": _inputs()},
            {
                "params": k.PARAMS,
                "task": _task(params, task, other),
                "inputs": WRONG_INPUTS,
            },
            late=True,
        ),
        Call(
            f"{name}.inspect",
            lambda **given: learner().inspect(**given),
            lambda: {"params": params(), "episode": things.episode()},
            {"params": k.PARAMS, "episode": k.EPISODE, "key": k.OPTIONAL_KEY},
            slow=True,
        ),
    )


CALLS = (
    *_functions(
        "metajax.Learner",
        things.learner,
        things.params,
        things.task,
        things.metric_task,
    ),
    *_functions(
        "a metric learner",
        things.metric_learner,
        things.metric_params,
        things.metric_task,
        things.task,
    ),
    Call(
        "metajax.export_predict",
        mj.export_predict,
        lambda: {
            "learner": things.learner(),
            "params": things.params(),
            "task": things.task(),
            "inputs": _inputs(),
        },
        {
            "learner": k.LEARNER,
            "params": k.PARAMS,
            "task": _task(things.params, things.task, things.metric_task),
            "inputs": WRONG_INPUTS,
        },
    ),
)
