"""The algorithms, one file a paper. Each factory returns a `metajax.Learner`."""

from metajax.algorithms.maml import fomaml, maml
from metajax.algorithms.matching import matching_network
from metajax.algorithms.proto_maml import fo_proto_maml, proto_maml
from metajax.algorithms.prototypical import prototypical_network
from metajax.algorithms.relation import relation_network
from metajax.algorithms.reptile import reptile

__all__ = [
    "fo_proto_maml",
    "fomaml",
    "maml",
    "matching_network",
    "proto_maml",
    "prototypical_network",
    "relation_network",
    "reptile",
]
