"""Every public argument, given what is wrong: a clear sentence, never an obscure one or silence.

`python -m pytest tests/fuzz -m "slow or not slow" -s` tries all, and prints the counts.
"""

import collections
import random
from collections.abc import Iterator
from types import ModuleType

import pytest
from fuzz import (
    algorithms,
    calibrating,
    computing,
    drawing,
    excused,
    folding,
    learning,
    picturing,
    pretraining,
    publishing,
    reading,
    reinforcing,
    running,
)
from fuzz.harmless import HARMLESS, NOT_HERE, harmless_of, same
from fuzz.judging import Outcome, judge
from fuzz.table import Call, cases_of, public_arguments

TABLES = (algorithms, learning, running, drawing, computing, reading, publishing)
TABLES += (pretraining, reinforcing, calibrating, folding, picturing)
CALLS = tuple(call for table in TABLES for call in table.CALLS)
SEED = 20
counts: collections.Counter = collections.Counter()
# By default what is alike is tried at once, and nothing that compiles much.
by_table = pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
by_call = pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)


@pytest.fixture(scope="module", autouse=True)
def _told() -> Iterator[None]:
    yield
    cases = sum(counts.values())
    shown = (
        f"{counts[verdict]} {verdict}" for verdict in ("clear", "harmless", "obscure", "silent")
    )
    print(f"\n{cases} cases: {', '.join(shown)}")


def _assert_clear(outcomes: list[Outcome]) -> None:
    counts.update(outcome.verdict for outcome in outcomes)
    failed = [f"{o.verdict} {o.case.name}: {o.said}" for o in outcomes if o.verdict != "clear"]
    assert not failed, "\n".join(failed)


def _skip_where_missing(call: Call) -> None:
    if lacks := call.lacks():
        pytest.skip(f"{' and '.join(lacks)} not installed")


@by_table
def test_one_slip_of_each_kind(table: ModuleType) -> None:
    """A tenth of the cases or so: of each call and kind of argument one value, in one place."""
    outcomes = []
    for call in table.CALLS:
        by_kind = collections.defaultdict(list)
        for case in () if call.late or call.lacks() else cases_of(call):
            by_kind[call.kinds[case.argument].name].append(case)
        draw = random.Random(f"{SEED} {call.name}")
        outcomes += [judge(draw.choice(cases)) for cases in by_kind.values()]
    _assert_clear(outcomes)


@pytest.mark.slow
@by_call
def test_every_slip(call: Call) -> None:
    _skip_where_missing(call)
    _assert_clear([judge(case) for case in cases_of(call)])


def _assert_harmless(call: Call, part: float) -> None:
    draw = random.Random(f"{SEED} {call.name}")
    tried = [each for each in harmless_of(call) if draw.random() < part]
    if not tried:
        return
    expected, failed = call.call(**call.right()), []
    for argument, row, value in tried:
        got = call.call(**{**call.right(), argument: value})
        if not same(got, expected):
            failed.append(f"{call.name}({argument}: {row.label}) gave something else")
    counts["harmless"] += len(tried)
    assert not failed, "\n".join(failed)


@by_table
def test_what_is_harmless(table: ModuleType) -> None:
    for call in table.CALLS:
        if not (call.slow or call.late or call.lacks()):
            _assert_harmless(call, 0.1)


@pytest.mark.slow
@by_call
def test_all_that_is_harmless(call: Call) -> None:
    _skip_where_missing(call)
    _assert_harmless(call, 1.0)


def test_every_public_argument_has_a_row_or_an_excuse() -> None:
    rows = {call.name: call.kinds for call in CALLS}
    public = public_arguments()
    missing = [
        f"{name}({argument})"
        for name, arguments in sorted(public.items())
        for argument in sorted(arguments)
        if argument not in rows.get(name, ()) and not excused.reason(name, argument)
    ]
    assert not missing
    both = [
        f"{name}({argument})"
        for name, kinds in rows.items()
        for argument in kinds
        if excused.reason(name, argument)
    ]
    assert not both


def test_every_call_is_listed_once_and_there_are_enough_cases() -> None:
    assert sum(1 for call in CALLS for _ in cases_of(call)) >= 3000
    assert len({call.name for call in CALLS}) == len(CALLS)


@pytest.mark.slow
def test_every_harmless_row_is_used() -> None:
    used = {(row.kinds, row.label) for call in CALLS for _, row, _ in harmless_of(call)}
    assert used == {(row.kinds, row.label) for row in HARMLESS}
    assert {name for name, _ in NOT_HERE} <= {call.name for call in CALLS}
