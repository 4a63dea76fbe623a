"""Code in backticks becomes a link where it names something that a page documents.

`maml`, `metajax.maml`, `metajax.maml(...)` and `Checkpoints.restore` do, in pages and docstrings
alike; a module needs its whole name, a method its class. Types in signatures are found in the same
way.
"""

import re
from typing import Any

from docutils import nodes
from docutils.nodes import Element
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.domains.python import ObjectEntry
from sphinx.environment import BuildEnvironment
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_post_transform(LinkedNames)
    app.connect("missing-reference", _type_of_signature)
    app.connect("autodoc-process-docstring", _plural_names)
    return {"parallel_read_safe": True}


class LinkedNames(SphinxPostTransform):
    """Wraps code that is a documented name in a reference to it."""

    default_priority = 5

    def run(self, **kwargs: Any) -> None:
        names = _documented(self.env)
        for node in list(self.document.findall(nodes.literal)):
            called = re.fullmatch(r"([\w.]+)(\(.*\))?", node.astext())
            name = called and names.get(called[1])
            if not name or _is_own(node, name[0]):
                continue
            node.replace_self(_link(self.app, self.env.docname, name, node.deepcopy()))


def _documented(env: BuildEnvironment) -> dict[str, tuple[str, ObjectEntry]]:
    """Every documented name, whole and in short, where the short form means one thing."""
    found: dict[str, list[tuple[str, ObjectEntry]]] = {}
    for name, entry in env.domains.python_domain.objects.items():
        if entry.aliased:  # Where it is defined, beside where it is public.
            continue
        parts = name.split(".")
        shortest = {"module": len(parts), "method": 2, "property": 2}.get(entry.objtype, 1)
        for length in range(shortest, len(parts) + 1):
            found.setdefault(".".join(parts[-length:]), []).append((name, entry))
    return {short: names[0] for short, names in found.items() if len(names) == 1}


def _is_own(node: Element, name: str) -> bool:
    """Whether the code is in a title, a link or its own entry, or names a parameter of an entry."""
    parent = node.parent
    while parent is not None:
        if isinstance(parent, nodes.title | nodes.reference | addnodes.pending_xref):
            return True
        if isinstance(parent, addnodes.desc):
            parameters = {x[0].astext() for x in parent[0].findall(addnodes.desc_parameter)}
            if name in parent[0].get("ids", ()) or node.astext() in parameters:
                return True
        parent = parent.parent
    return False


def _link(
    app: Sphinx, page: str, name: tuple[str, ObjectEntry], content: nodes.Node
) -> nodes.reference:
    full, entry = name
    return make_refnode(app.builder, page, entry.docname, entry.node_id, content, full)


def _type_of_signature(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    names, target = _documented(env), node["reftarget"]
    if target.startswith("metajax."):
        target = target.rpartition(".")[2]
    if node.get("refdomain") != "py" or target not in names:
        return None
    name = names[target]
    return _link(app, node.get("refdoc", env.docname), name, content)


def _plural_names(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """`Model`s: a letter may follow the backtick, as in Markdown."""
    text = re.sub(r"(`[^`]+`)(?P<rest>\w?)", _apart, "\n".join(lines))
    lines[:] = text.split("\n")


def _apart(match: re.Match[str]) -> str:
    return match[1] + (rf"\ {match['rest']}" if match["rest"] else "")
