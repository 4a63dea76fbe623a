"""Models of features without parameters, the encoders of learners over a frozen network."""

from metajax.checks.settings import check_flags
from metajax.metric import as_mean, centred_features
from metajax.types import Array, Model


def centred(mean: Array, *, unit: bool = True) -> Model:
    """Features less `mean`, brought to length 1; see `metajax.metric.centred_features`.

    `metajax.models.chain(body, centred(mean))` centres those of a network. Where the network is
    learned too the mean stays what it was.

    >>> import metajax
    >>> train = metajax.data.image_classes([[[3.0, 1.0], [1.0, 3.0]], [[2.0, 0.0], [2.0, 4.0]]])
    >>> encoder = metajax.models.centred(train.mean())
    >>> learner = metajax.prototypical_network(encoder)

    Args:
      mean: `[features]`, finite; of the training classes' features, not of those of the test:
        `metajax.data.ImageClasses.mean`.
      unit: bring to length 1; static.

    Raises:
      TypeError: the mean is no array, or `unit` is no flag.
      ValueError: the mean is not finite, or not `[features]`; from `apply`: features of another
        width.
    """
    mean = as_mean(mean)
    check_flags(unit=unit)
    return Model(lambda key: {}, lambda params, inputs: centred_features(inputs, mean, unit))


def identity() -> Model:
    """Features as they are: the encoder of learners that are given them in the place of images.

    >>> import metajax
    >>> learner = metajax.prototypical_network(metajax.models.identity())
    """
    return Model(lambda key: {}, lambda params, inputs: inputs)
