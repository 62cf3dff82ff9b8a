"""Sphinx: how the site is built. `sphinx-build -W -b html docs build/site`, with `pip install '.[docs]'`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from docs import make
from nnrepl._version import VERSION

project = "nnrepl"
author = "the authors of nnrepl"
release = version = VERSION
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "nnrepl"
html_static_path: list[str] = []
autodoc_member_order = "bysource"
autodoc_typehints = "description"
highlight_language = "none"
nitpicky = False

make.make()
