"""Calls of what is calibrated, and of what says none of these."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from fuzz import kinds as k
from fuzz import things
from fuzz.table import Call

import metajax as mj
from metajax import calibration

KIND = k.choice("LOGIT")
TEMPERATURE = k.number(0.0, -1.0, float("inf"))
KEPT = k.number(0.0, 1.0, 2.0)
BINS = k.integer(1)


@things.made_once
def _answers() -> calibration.Answers:
    outputs = np.random.default_rng(0).normal(size=(3, 12, 3))
    targets = np.tile([0, 1, 2, -1], (3, 3))
    outputs[..., :3] += np.eye(4)[targets][..., :3]
    return calibration.Answers(outputs, targets, np.ones((3, 12)))


def _wrong_answers() -> dict[str, Any]:
    outputs, targets, weights = _answers()
    return {
        "None": None,
        "a text": "answers",
        "a tuple": (outputs, targets, weights),
        "an array": outputs,
        "an episode": things.episode(),
        "one episode": calibration.Answers(outputs[:1], targets[:1], weights[:1]),
        "one axis less": calibration.Answers(outputs[0], targets[0], weights[0]),
        "floats for labels": calibration.Answers(outputs, targets + 0.5, weights),
        "too few weights": calibration.Answers(outputs, targets, weights[:, :3]),
        "weights below 0": calibration.Answers(outputs, targets, -weights),
        "nan": calibration.Answers(outputs * np.nan, targets, weights),
        "labels outside": calibration.Answers(outputs, targets + 1, weights),
        "no ways": calibration.Answers(outputs[..., :0], targets, weights),
        "strangers alone": calibration.Answers(outputs, targets * 0 - 1, weights),
        "texts": calibration.Answers(np.full((3, 12, 3), "a"), targets, weights),
    }


ANSWERS = k.Kind("answers", _wrong_answers)
OPEN_ANSWERS = ANSWERS.also(
    lambda: {"no strangers": _answers()._replace(targets=np.abs(_answers().targets))}
)
CALIBRATION = k.Kind(
    "calibration",
    lambda: {
        "None": None,
        "a temperature": 1.5,
        "a dictionary": calibration.Calibration(1.0, 0.5)._asdict(),
        "without a threshold": calibration.Calibration(1.0),
        "of no temperature": calibration.Calibration(0.0, 0.5),
        "of a text": calibration.Calibration("1", 0.5),
        "of nan": calibration.Calibration(1.0, float("nan")),
        "of other ways": calibration.Calibration(1.0, 0.5, ways=7),
    },
)


def _asked() -> dict[str, Any]:
    return {
        "learner": things.metric_learner(),
        "params": things.metric_params(),
        "sample": things.sample,
        "episodes": 2,
    }


def _of_answers(function: Any, **kinds: k.Kind) -> Call:
    right = {"kept": 0.5, "temperature": 2.0, "bins": 4}
    return Call(
        f"metajax.calibration.{function.__name__}",
        function,
        lambda: {"answers": _answers(), **{name: right[name] for name in kinds if name in right}},
        kinds,
    )


COLLECTED = {
    "learner": k.LEARNER,
    "params": k.PARAMS,
    "sample": k.SAMPLE,
    "episodes": k.optional_integer(2),
    "seed": k.integer(0),
    "chunk_size": k.optional_integer(1),
}
CALLS = (
    Call(
        "metajax.data.with_strangers",
        mj.data.with_strangers,
        lambda: {"sample": things.image_sample(), "known": 1},
        {
            "sample": k.SAMPLE.also(lambda: {"a function": things.sample}),
            "known": k.integer(1).also(lambda: {"all of them": 2}),
        },
    ),
    Call("metajax.calibration.collect", calibration.collect, _asked, COLLECTED, slow=True),
    Call(
        "metajax.calibration.calibrate",
        calibration.calibrate,
        _asked,
        {
            **COLLECTED,
            "strangers": k.SAMPLE.without("None").also(lambda: {"no strangers": things.sample}),
            "kept": KEPT,
            "kind": KIND,
        },
        slow=True,
        late=True,
    ),
    _of_answers(calibration.fit_temperature, answers=ANSWERS),
    _of_answers(
        calibration.expected_calibration_error,
        answers=ANSWERS,
        temperature=TEMPERATURE,
        bins=BINS,
    ),
    _of_answers(calibration.reliability, answers=ANSWERS, temperature=TEMPERATURE, bins=BINS),
    _of_answers(calibration.auroc, answers=OPEN_ANSWERS, kind=KIND, temperature=TEMPERATURE),
    _of_answers(
        calibration.choose_threshold,
        answers=OPEN_ANSWERS,
        kind=KIND,
        kept=KEPT,
        temperature=TEMPERATURE,
    ),
    Call(
        "metajax.calibration.rejection_report",
        calibration.rejection_report,
        lambda: {
            "answers": _answers(),
            "calibration": calibration.Calibration(1.0, 0.5, ways=3),
        },
        {"answers": OPEN_ANSWERS, "calibration": CALIBRATION},
    ),
    Call(
        "metajax.calibration.rejection_score",
        calibration.rejection_score,
        lambda: {"outputs": jnp.ones((2, 3))},
        {
            "outputs": k.ARRAY.also(lambda: {"integers": np.ones(3, int), "a number": 1.0}),
            "kind": KIND,
        },
    ),
    Call(
        "metajax.calibration.Calibration.answer",
        lambda **given: calibration.Calibration(1.0, 0.5, ways=3).answer(**given),
        lambda: {"outputs": jnp.ones((2, 3))},
        {
            "outputs": k.ARRAY.also(
                lambda: {"integers": np.ones(3, int), "a number": 1.0, "more": jnp.ones((2, 4))}
            )
        },
    ),
)
