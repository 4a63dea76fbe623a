"""What cannot work ends in a sentence that says what to do."""

import re

import pytest
from trials_refusals import TRIALS, Refusal


@pytest.mark.parametrize(
    "trial",
    [pytest.param(x, id=x.name, marks=[] if x.fast else pytest.mark.slow) for x in TRIALS],
)
def test_it_is_refused(trial: Refusal) -> None:
    if trial.needs:
        pytest.importorskip(trial.needs)
    with pytest.raises(trial.error, match=re.escape(trial.sentence)):
        trial.call()
