"""The list of all learners and their parameters: whatever is here is a name of `metajax`."""

from metajax.algorithms.anil import anil
from metajax.algorithms.boil import boil
from metajax.algorithms.linear_probe import (
    LinearProbeParams,
    LinearProbeReading,
    linear_probe,
)
from metajax.algorithms.maml import fomaml, maml
from metajax.algorithms.matching_networks import (
    MatchingParams,
    MatchingReading,
    matching_network,
)
from metajax.algorithms.meta_sgd import MetaSGDParams, meta_sgd
from metajax.algorithms.proto_maml import ProtoMAMLParams, fo_proto_maml, proto_maml
from metajax.algorithms.prototypical_networks import prototypical_network
from metajax.algorithms.relation_networks import (
    RelationParams,
    RelationReading,
    relation_network,
)
from metajax.algorithms.reptile import ReptileParams, reptile

__all__ = [
    "LinearProbeParams",
    "LinearProbeReading",
    "MatchingParams",
    "MatchingReading",
    "MetaSGDParams",
    "ProtoMAMLParams",
    "RelationParams",
    "RelationReading",
    "ReptileParams",
    "anil",
    "boil",
    "fo_proto_maml",
    "fomaml",
    "linear_probe",
    "maml",
    "matching_network",
    "meta_sgd",
    "proto_maml",
    "prototypical_network",
    "relation_network",
    "reptile",
]
