"""Calibration: how sure a classifying learner may be, and when it says "none of these".

Both are fitted to *validation* episodes, of classes that neither trained the learner nor test it:
fitted to the test episodes, what is reported of them afterwards is too good.
"""

from metajax.calibration.answers import Answers, collect
from metajax.calibration.deployed import Answered, Calibration, calibrate
from metajax.calibration.rejection import auroc, choose_threshold, rejection_score
from metajax.calibration.reliability_bins import (
    Reliability,
    expected_calibration_error,
    reliability,
)
from metajax.calibration.reports import Estimate, RejectionReport, rejection_report
from metajax.calibration.temperatures import fit_temperature

__all__ = [
    "Answered",
    "Answers",
    "Calibration",
    "Estimate",
    "RejectionReport",
    "Reliability",
    "auroc",
    "calibrate",
    "choose_threshold",
    "collect",
    "expected_calibration_error",
    "fit_temperature",
    "rejection_report",
    "rejection_score",
    "reliability",
]


def __dir__() -> list[str]:
    return __all__
