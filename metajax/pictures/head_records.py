"""What a file has of a head, and back: its name, or the program of what was fitted."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from metajax.pictures.fitting import FittedTask
from metajax.pictures.heads import HEADS, Trained
from metajax.pictures.record_fields import Fields
from metajax.pictures.saved_programs import SavedTask, program_in, program_of


def record_of_head(
    head: Any, task: FittedTask | SavedTask, width: int
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays by name, and JSON, of the argument `head` and what was fitted.

    Raises:
      ValueError: a learner cannot be kept as a program.
    """
    if isinstance(task, FittedTask):
        if not isinstance(head, Trained):
            return {}, {"name": head}
        title = task.head.learner.title
        task = SavedTask(program_of(title, task.apply, task.arrays, (width,), np.float32))
    arrays, record = task.program.with_parts("head")
    return arrays, {"program": record}


def head_of_record(
    arrays: Mapping[str, np.ndarray], fields: Fields, width: int, ways: int, given: Trained | None
) -> str | Trained | SavedTask:
    """The argument `head` of a classifier that was saved.

    Args:
      arrays: of the file.
      fields: of the file.
      width: of features.
      ways: classes.
      given: the learner of which the file has a program; None where there is none at hand.

    Raises:
      ValueError: the file has something else than `record_of_head`, or there is a learner and the
        file is of a head with a name.
    """
    head = fields.within("head")
    if not head.has("program"):
        if given is not None:
            fields.refuse("has a head with a name", "head=None, and not a learner")
        return head.text("name", HEADS)
    if given is not None:
        return given
    parts = head.within("program")
    return SavedTask(
        program_in(arrays, "head", parts, shape=(width,), dtype=np.float32, width=ways)
    )
