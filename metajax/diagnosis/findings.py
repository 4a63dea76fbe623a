"""What of a diagnosis looks wrong: a sentence each, of a figure, its cause and a remedy."""

from collections.abc import Mapping
from typing import Any

import numpy as np

Figures = Mapping[str, Any]
Scores = Mapping[str, np.ndarray]

# Differences of accuracies that count, beside three standard errors.
_SLIGHT, _MARKED, _CLEAR = 0.05, 0.1, 0.15
# Shares of dead units: a net that works may have half of its own silent in an episode.
_DEAD, _ALL_DEAD = 0.8, 0.95


def find(figures: Figures, scores: Scores) -> tuple[str, ...]:
    """The sentences.

    Args:
      figures: the fields of a `Diagnosis`.
      scores: of which they are means, see `figures_of`.
    """
    failing = _fails(figures, scores)
    if figures["non_finite"] is not None:  # All else follows from it.
        return (_not_finite(figures, scores),)
    found = [
        _rising(figures, scores, failing),
        _other_numbers(figures, scores, failing),
        *_left_out(figures, scores, failing),
        _dead(figures, failing),
        _constant(figures),
        _batching(figures, scores),
    ]
    sentences = tuple(sentence for sentence in found if sentence)
    if sentences or not failing:
        return sentences
    return (_nothing_else(figures, scores),)


def _above(x: np.ndarray, y: np.ndarray | float, least: float) -> bool:
    """Whether `x` is clearly the larger, over the episodes."""
    gap = np.asarray(x, np.float64) - y
    return bool(gap.mean() > max(least, 3 * gap.std(ddof=1) / np.sqrt(len(gap))))


def _fails(figures: Figures, scores: Scores) -> bool:
    """Whether accuracy is at chance, or without accuracies the query loss does not fall."""
    if figures["accuracy"] is not None:
        return not _above(scores["accuracy"], scores["chance"], _SLIGHT)
    loss = scores["query_loss of each"]
    return loss.shape[1] > 1 and not _above(loss[:, 0], loss[:, -1], 0.0)


def _not_finite(figures: Figures, scores: Scores) -> str:
    place = figures["non_finite"]
    if place.startswith("the meta-parameters"):
        cause = "meta-training diverged: take an earlier checkpoint, and lower the outer rate"
    elif place.startswith("the inputs"):
        cause = "the data are broken: look at what the sampler makes"
    elif "inner steps" in place:
        cause = "adaptation diverges, the inner rate is too large: lower it, tenfold to begin with"
    elif "before adaptation" in place:
        cause = (
            "inputs or parameters are too large for the model, or a label lies outside of [0, ways)"
        )
    elif "support_loss of each" in scores:
        cause = "the inner rate is too large, or a query's label lies outside of [0, ways)"
    else:
        cause = (
            "a query's class has no support item, a label lies outside of [0, ways), or the model "
            "overflows"
        )
    return f"Not finite: {place}, the first of all; {cause}."


def _rising(figures: Figures, scores: Scores, failing: bool) -> str | None:
    loss = scores.get("support_loss of each")
    mean, asked = figures["support_loss"], figures["query_loss"]
    if loss is None or loss.shape[1] < 2 or not (failing or asked[-1] >= asked[0]):
        return None
    uphill, (begin, highest, end) = scores["uphill"], (mean[0], mean.max(), mean[-1])
    course = f"from {begin:.4g} to {end:.4g}" + (f" over {highest:.4g}" if highest > end else "")
    rises = _above(loss[:, -1], loss[:, 0], 0.01 * abs(begin))
    swings = failing and highest > begin + abs(begin)
    if uphill.mean() > 0.5 and (rises or failing):
        return (
            f"The first inner step goes along the gradient in {uphill.sum()} of {len(uphill)} "
            f"episodes, and the support loss goes {course}: the inner optimiser adds the gradient. "
            "Has its rate the wrong sign, or does optax.masked pass on what it masks?"
        )
    if not (rises or swings):
        return None
    return (
        f"The support loss rises in adaptation, {course}: the inner rate is too large. Lower it, "
        "tenfold to begin with, or take fewer steps."
    )


def _other_numbers(figures: Figures, scores: Scores, failing: bool) -> str | None:
    """Labels that are numbered differently in support and query."""
    if not failing or figures["accuracy"] is None:
        return None
    others = [x for name, x in scores.items() if name.startswith("batching ")]
    if any(_above(x, scores["chance"], _CLEAR) for x in [*others, scores["predicted_accuracy"]]):
        return None  # The numbers are right, then.
    advice = (
        "labels are numbered differently in support and query. Number the classes of an episode "
        "once, for both sets, and draw them from the same classes."
    )
    raw = figures["raw_accuracy"]
    if (
        raw is not None
        and not _above(scores["raw_accuracy"], scores["chance"], _SLIGHT)
        and _above(scores["raw_renumbered"], scores["raw_renumbered_chance"], _MARKED)
    ):
        return (
            f"The nearest class mean of the raw inputs has the accuracy {raw:.3f}, and "
            f"{figures['raw_renumbered']:.3f} where its classes may be renumbered in every episode "
            f"(shuffled labels: {figures['raw_renumbered_chance']:.3f}): {advice}"
        )
    support = scores.get("support_accuracy of each")
    chance = figures["chance"]
    fits = support is None or support[:, -1].mean() > (1 + chance) / 2
    if fits and _above(scores["renumbered_accuracy"], scores["renumbered_chance"], _CLEAR):
        return (
            f"The accuracy is {figures['accuracy']:.3f}, and {figures['renumbered_accuracy']:.3f} "
            "where the predicted classes may be renumbered in every episode (shuffled labels: "
            f"{figures['renumbered_chance']:.3f}): {advice}"
        )
    return None


def _left_out(figures: Figures, scores: Scores, failing: bool) -> list[str]:
    """Parameters that adaptation does not move."""
    unmoved, support = figures["unmoved"], figures["support_accuracy"]
    if not unmoved or not failing:
        return []
    sentences = []
    chance = figures["chance"]
    fits = support is not None and chance is not None and support[-1] > (1 + chance) / 2
    if (out := _named(unmoved, "left out")) and not fits:
        result = (
            f"does not fit the support set (accuracy {support[-1]:.3f})"
            if support is not None
            else "does not lower the query loss"
        )
        sentences.append(
            f"Adaptation {result}, and leaves out {out}, whose gradient is not 0: adapt=, a mask "
            "or a rate of 0 of the inner optimiser keeps them. Adapt them too, a classifier's head "
            "above all, unless they are to stay and are not meta-trained yet."
        )
    if zero := _named(unmoved, "zero gradient"):
        sentences.append(
            f"The inner gradient of {zero} is exactly 0 at every step, so that they do not move: "
            "nothing flows back to them through dead units, or through a head of zeros that stays."
        )
    return sentences


def _named(unmoved: Mapping[str, str], why: str) -> str:
    paths = [path or "the only leaf" for path, reason in unmoved.items() if reason == why]
    return ", ".join(paths[:6]) + (f" and {len(paths) - 6} more" if len(paths) > 6 else "")


def _dead(figures: Figures, failing: bool) -> str | None:
    dead = figures["dead_units"]
    if dead is None:
        return None
    layers = [
        f"{100 * share:.0f} % of ReLU {place} of {len(dead)}"
        for place, share in enumerate(dead, 1)
        if share > (_DEAD if failing else _ALL_DEAD)
    ]
    if not layers:
        return None
    return (
        f"Dead units: {', '.join(layers)} are 0 for every item of an episode, and pass no "
        "gradient. Biases or a step too large have put them there: initialise anew, lower the "
        "rates, or normalise before the ReLU."
    )


def _constant(figures: Figures) -> str | None:
    share = figures["constant_outputs"]
    if share is None or share <= 0.5:
        return None
    return (
        f"All queries get the same outputs in {100 * share:.0f} % of the episodes: the inputs do "
        "not reach them, through dead units, weights of 0, or inputs that are all alike."
    )


def _batching(figures: Figures, scores: Scores) -> str | None:
    """Accuracies that hang on which items share a batch."""
    if figures["accuracy"] is None:
        return None
    own, predicted = scores["accuracy"], scores["predicted_accuracy"]
    ways = {
        f'query_batching="{name}"': scores[f"batching {name}"]
        for name in figures["batchings"] or ()
    }
    ways["predict"] = predicted
    best = max(ways, key=lambda name: ways[name].mean())
    counted = f"{own.mean():.3f} as the learner's loss counts it"
    if _above(ways[best], own, _CLEAR):
        return (
            f"The accuracy of the same adapted tasks is {counted} and {ways[best].mean():.3f} by "
            f"{best}: it hangs on which items share a batch, whose statistics normalise each "
            "query. Ask as it was trained, or train as it is to be asked: with "
            'query_batching="support", or with constant statistics (frozen=).'
        )
    if _above(own, predicted, _CLEAR):
        return (
            f"The accuracy is {counted} and {predicted.mean():.3f} by predict, where each query is "
            "answered alone: it hangs on the other queries of its batch. Train with "
            'query_batching="support" what is to be deployed.'
        )
    return None


def _nothing_else(figures: Figures, scores: Scores) -> str:
    """Of a learner that fails, and of which nothing above was found."""
    loss, norm = figures["support_loss"], figures["gradient_norm"]
    if loss is not None and len(loss) > 1 and loss[0] - loss[-1] < 0.05 * abs(loss[0]):
        return (
            f"Adaptation hardly changes the support loss, from {loss[0]:.3g} to {loss[-1]:.3g} "
            f"with gradients of norm {norm[0]:.3g}: the inner rate is too small for these "
            "parameters, or they are not meta-trained. Raise it tenfold, and see whether it falls."
        )
    if figures["accuracy"] is None:
        query = figures["query_loss"]
        return (
            f"The query loss does not fall in adaptation, from {query[0]:.3g} to {query[-1]:.3g}, "
            "and nothing else looks wrong: the parameters are not meta-trained, or the support set "
            "does not tell what is asked."
        )
    at = f"The accuracy {figures['accuracy']:.3f} is at chance, {figures['chance']:.3f}, "
    raw = figures["raw_accuracy"]
    if raw is not None and _above(scores["raw_accuracy"], scores["chance"], _SLIGHT):
        return (
            f"{at}and the nearest class mean of the raw inputs reaches {raw:.3f}, so the data can "
            "be learned: the parameters are not meta-trained, or not enough."
        )
    found = "" if raw is None else f" and so is the nearest class mean of the raw inputs, {raw:.3f}"
    return (
        f"{at}{found.removeprefix(' ')}{': ' if found else 'and '}the parameters are not "
        "meta-trained, or the labels have nothing to do with the inputs. Look at an episode."
    )
