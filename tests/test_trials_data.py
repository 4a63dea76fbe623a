"""Other people's data and loops work as they are."""

import pytest
from trials_data import TRIALS, DataTrial


@pytest.mark.parametrize(
    "trial",
    [pytest.param(x, id=x.name, marks=[] if x.fast else pytest.mark.slow) for x in TRIALS],
)
def test_it_works(trial: DataTrial) -> None:
    trial.check()
