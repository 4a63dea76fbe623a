"""The code of the pages runs, top to bottom, as a reader would paste it."""

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


def _run_blocks(page: str, least: int) -> dict[str, Any]:
    """Runs the page's Python blocks in the folder at hand; returns the names they leave."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert len(blocks) >= least
    namespace: dict[str, Any] = {}
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"{page}, Python block {number}", "exec"), namespace)
    return namespace


@pytest.mark.slow
def test_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert _run_blocks("README.md", 5)["result"].stopped == "finished"
    assert (tmp_path / "runs" / "maml").is_dir()


@pytest.mark.slow
def test_the_page_on_data_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("PIL", reason="images need metajax[images]")
    monkeypatch.chdir(tmp_path)
    names = _run_blocks("examples/your_data.md", 5)
    assert names["scores"].episodes == 20
    assert int(names["state"].step) == 3
    assert names["result"].stopped == "finished"
