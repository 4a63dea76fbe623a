"""The scaling benchmark: its exponents, and that a ladder moves one axis alone."""

import pytest

pytest.importorskip("matplotlib", reason="the benchmarks need metajax[bench]")
pytest.importorskip("rich", reason="the benchmarks need metajax[bench]")

from scaling import exponent, ladders, of_width, parser
from workloads import WORKLOADS, count_parameters


@pytest.mark.parametrize("power", [-1.0, 0.0, 0.5, 2.0])
def test_exponent_of_a_power(power: float) -> None:
    values = [1, 2, 5, 32]
    assert exponent(values, [7 * value**power for value in values]) == pytest.approx(power)


def test_exponent_tells_a_constant_part_from_growth() -> None:
    values = [1, 2, 4, 8]
    assert 0 < exponent(values, [10 + value for value in values]) < 0.5


def test_parameters_by_hand() -> None:
    perceptron = of_width(WORKLOADS["W4"], 8)
    assert count_parameters(perceptron) == 785 * 8 + 9 * 8 + 9 * 20
    strided = of_width(WORKLOADS["W2"], 4)
    assert count_parameters(strided) == (9 * 4 + 8) + 3 * (9 * 16 + 8) + 5 * 5


def test_a_ladder_moves_one_axis() -> None:
    arguments = "--tasks 2 4 --ways 3 6 --steps 1 5 --widths 4 8 --shots 2 --queries 7"
    found = ladders(parser().parse_args(arguments.split()))
    base = found["tasks"][2]
    assert base == found["ways"][3] == found["inner steps"][1]
    assert found["tasks"][4] == (base[0]._replace(tasks=4), 1)
    assert found["ways"][6] == (base[0]._replace(widths=(6,), support=12, query=42), 1)
    assert found["inner steps"][5] == (base[0], 5)
    assert [wide.filters for wide, _ in found["parameters"].values()] == [4, 8]
