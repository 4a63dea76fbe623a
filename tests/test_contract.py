"""What every learner of the library must do: each row of `learners.LEARNERS` goes through it."""

import pytest
from contract import CHECKS
from learners import LEARNERS, Row


@pytest.mark.parametrize(
    ("name", "row"),
    [
        pytest.param(
            name,
            row,
            id=f"{row.name}-{name}",
            marks=[
                *([pytest.mark.exact] if check.exact else []),
                *([pytest.mark.slow] if row.repeats and check.about == "program" else []),
            ],
        )
        for row in LEARNERS
        for name, check in CHECKS.items()
        if check.of(row)
    ],
)
def test_learner(name: str, row: Row) -> None:
    CHECKS[name](row)
