"""Training runs as folders: a recipe is trained into one, and all is rebuilt from it.

A run's folder holds

- `run.json`: the recipe and everything else that the learner is rebuilt from;
- `checkpoints/`: the parameters, see `metajax.Checkpoints`;
- `metrics.jsonl`: a record a dispatch, see `metajax.train`;
- `evaluation.json`: what the test said last.
"""

from metajax.runs.evaluating import evaluate_run
from metajax.runs.folder import load_run
from metajax.runs.own_classes import OwnClasses
from metajax.runs.reporting import report_run
from metajax.runs.run import Run
from metajax.runs.training import train_run

__all__ = ["OwnClasses", "Run", "evaluate_run", "load_run", "report_run", "train_run"]
