"""The list of all learners and their parameters: whatever is here is a name of `metajax`."""

from metajax.algorithms.anil import anil
from metajax.algorithms.boil import boil
from metajax.algorithms.linear_probe import (
    LinearProbeParams,
    LinearProbeReading,
    linear_probe,
)
from metajax.algorithms.mahalanobis_head import MahalanobisReading, mahalanobis_head
from metajax.algorithms.maml import fomaml, maml
from metajax.algorithms.matching_networks import (
    MatchingParams,
    MatchingReading,
    matching_network,
)
from metajax.algorithms.meta_sgd import MetaSGDParams, meta_sgd
from metajax.algorithms.nearest_class_mean import nearest_class_mean
from metajax.algorithms.proto_maml import ProtoMAMLParams, fo_proto_maml, proto_maml
from metajax.algorithms.prototypical_networks import prototypical_network
from metajax.algorithms.relation_networks import (
    RelationParams,
    RelationReading,
    relation_network,
)
from metajax.algorithms.reptile import ReptileParams, reptile
from metajax.algorithms.ridge_head import RidgeParams, ridge_head

__all__ = [
    "LinearProbeParams",
    "LinearProbeReading",
    "MahalanobisReading",
    "MatchingParams",
    "MatchingReading",
    "MetaSGDParams",
    "ProtoMAMLParams",
    "RelationParams",
    "RelationReading",
    "ReptileParams",
    "RidgeParams",
    "anil",
    "boil",
    "fo_proto_maml",
    "fomaml",
    "linear_probe",
    "mahalanobis_head",
    "maml",
    "matching_network",
    "meta_sgd",
    "nearest_class_mean",
    "proto_maml",
    "prototypical_network",
    "relation_network",
    "reptile",
    "ridge_head",
]
