"""The site: built by `sphinx-build -W --keep-going -n -b html docs docs/_build/html`."""

import os
import sys
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.domains.python import PyObject

import metajax

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "metajax"
author = "The metajax authors"
project_copyright = author
version = release = metajax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "linked_names",
    "source_signatures",
]
exclude_patterns = ["_build", "guides/trials_table.md"]  # The table is part of a guide.
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_title = f"metajax {release}"
html_show_sourcelink = False
html_copy_source = False

# Pages: Markdown, whose code cells run whenever the site is built. One that fails, or is warned of
# what it does, fails the build; what libraries log, mostly of time, is left out.
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True
nb_output_stderr = "remove"
# The cells compile far more than they run, and look the same on every machine.
os.environ.update(
    JAX_PLATFORMS="cpu",
    XLA_FLAGS="--xla_backend_optimization_level=0",
    PYTHONWARNINGS="error:::__main__",
)

# Reference: from the docstrings, in which `a` is code, and a link where a page documents it.
default_role = "literal"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_attr_annotations = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_display_short_literal_types = True
python_maximum_signature_line_length = 88

# Types that others document; there is no network when the site is built.
nitpick_ignore_regex = [
    ("py:class", r"(collections|export|flax|jax|jnp|lax|nn|nnx|np|numpy|optax|os|pathlib)\..*"),
    ("py:exc", r"sklearn\..*"),
    ("py:class", r"Any|ArrayLike|Callable|Executor|Iterable|Iterator|Mapping|Mesh|Path|Sequence"),
]


def setup(app: Sphinx) -> None:
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
