"""The reference has every public name, once; the site's own build checks the rest."""

import inspect
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import metajax

PAGES = Path(__file__).parent.parent / "docs" / "api"


def _public_names(module: ModuleType) -> Iterator[str]:
    for name in module.__all__:
        yield f"{module.__name__}.{name}"
        if inspect.ismodule(public := getattr(module, name)):
            yield from _public_names(public)


def test_every_public_name_is_on_one_page() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES.glob("*.md"))
    kinds = "autoclass|autofunction|automodule|py:data"
    documented = Counter(re.findall(rf"^\.\. (?:{kinds}):: (\S+)$", text, re.M))
    assert [name for name, times in documented.items() if times > 1] == []
    public = {*_public_names(metajax), *_public_names(metajax.pictures)}
    assert public - set(documented) == set()
