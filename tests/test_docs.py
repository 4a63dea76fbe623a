"""The reference has every public name, once; the site's own build checks the rest."""

import importlib
import re
from collections import Counter
from pathlib import Path

PAGES = Path(__file__).parent.parent / "docs" / "api"
PUBLIC = ("", ".data", ".metric", ".models", ".models.kernels", ".parallel")


def test_every_public_name_is_on_one_page() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES.glob("*.md"))
    documented = Counter(re.findall(r"^\.\. auto(?:class|function|module):: (\S+)$", text, re.M))
    assert [name for name, times in documented.items() if times > 1] == []
    for room in (f"metajax{name}" for name in PUBLIC):
        public = {f"{room}.{name}" for name in importlib.import_module(room).__all__}
        assert public - set(documented) == set()
