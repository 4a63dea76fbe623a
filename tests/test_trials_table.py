"""The table of the documentation is that of the trials."""

from pathlib import Path

from trials import table

PAGE = Path(__file__).parent.parent / "docs" / "guides" / "trials_table.md"


def test_the_table_of_the_page_is_this_one() -> None:
    assert PAGE.read_text(encoding="utf-8") == table()


def test_names_are_there_once() -> None:
    names = [line.split(" | ")[0] for line in table().splitlines() if line.startswith("| ")]
    rows = [name for name in names if name != "| brought"]
    assert len({*rows}) == len(rows) < 85
