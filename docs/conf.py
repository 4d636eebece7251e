"""Sphinx: docstrings, pages in Markdown, notebooks with their saved outputs, mathematics that needs no network."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from sphinx_support import (  # noqa: E402
    copy_notebooks,
    field_lists,
    local_mathjax,
    plot_functions,
    resolve_public_name,
    skip_tuple_fields,
)

import sgdsim.plot  # noqa: E402
import sgdsim.regimes  # noqa: E402

project = "sgdsim"
author = "The sgdsim developers"
copyright = "the sgdsim developers, MIT licence"
version = release = importlib.metadata.version("sgdsim")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.doctest", "sphinx.ext.mathjax", "sphinx_copybutton"]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]
source_suffix = {".md": "myst-nb", ".rst": "restructuredtext", ".ipynb": "myst-nb"}

# Text in single backticks is code, and a link where it names something of the package. Only what begins with `sgdsim.`
# must exist: the other texts are formulas, and other projects' inventories would need the network.
default_role = "py:obj"
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!sgdsim\.).*"), (r"py:.*", r"sgdsim\.(.*\.)?_.*")]  # others' and private names

autodoc_default_options = {"members": True, "member-order": "bysource", "exclude-members": "__init__, __new__"}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 96
toc_object_entries_show_parents = "hide"

myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the outputs are those that were committed; a test executes the notebooks
nb_ipywidgets_js = {}  # no scripts from elsewhere: sliders need a kernel anyway
nb_merge_streams = True
nb_render_markdown_format = "myst"  # outputs in Markdown hold `$$`, which plain commonmark shows as it stands

doctest_global_setup = """
import numpy as np
import sgdsim as ss
from sgdsim.algorithm.schedules import *
from sgdsim.algorithm.sgd import noise_factor
from sgdsim.runs.simulation import simulate
from sgdsim.problem import QuadraticProblem
from sgdsim.theory.memory import corner_theta_max, polynomials
from sgdsim.theory.power_law import phase
from sgdsim.theory.stability import max_lr
np.set_printoptions(precision=4)
"""
doctest_test_doctest_blocks = "default"

html_theme = "furo"
html_title = f"sgdsim {release}"
html_static_path = ["_static"]
html_favicon = "_static/favicon.svg"
html_css_files = ["sgdsim.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": False}
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_line_continuation_character = "\\"
mathjax_path, MATHJAX_FILES = local_mathjax()

for _name in sgdsim.regimes.__all__:  # they load on first use, and autodoc looks without using
    getattr(sgdsim.regimes, _name)
sgdsim.plot.__all__ = plot_functions()  # it brings together what several modules draw
copy_notebooks(HERE.parent / "notebooks", HERE / "notebooks")


def _copy_mathjax(app, error) -> None:
    if error is not None or app.builder.format != "html":
        return
    for source, name in MATHJAX_FILES:
        target = Path(app.outdir) / "_static" / "mathjax" / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def setup(app) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", field_lists)
    app.connect("autodoc-skip-member", skip_tuple_fields)
    app.connect("missing-reference", resolve_public_name)
    app.connect("build-finished", _copy_mathjax)
