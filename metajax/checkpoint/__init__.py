"""Checkpoints of a training run: written in the background, proved when they are read."""

from metajax.checkpoint.reading import restore_state
from metajax.checkpoint.writing import Checkpoints

__all__ = ["Checkpoints", "restore_state"]
