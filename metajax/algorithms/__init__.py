"""The algorithms, one file a paper. Each factory returns a `metajax.Learner`."""

from metajax.algorithms.maml import fomaml, maml
from metajax.algorithms.reptile import reptile

__all__ = ["fomaml", "maml", "reptile"]
