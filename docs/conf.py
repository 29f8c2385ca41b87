"""The settings of the documentation site: `make docs` builds it, strictly, and it reads without a network."""

import sys
from pathlib import Path

import ald_ext

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "ald_ext"
project_copyright = "the ald_ext authors"
version = release = ald_ext.__version__
html_title = f"ald_ext {version}"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "docstrings",
    "command_line",
    "public_names",
]
html_theme = "furo"
html_copy_source = False
html_show_sphinx = False
templates_path: list[str] = []
exclude_patterns = ["_build", "**/README.md", "results/*/**.md", "results.md"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

nitpicky = True  # as to what is public here: neither names of other packages nor modules within this one
nitpick_ignore_regex = [
    (".*", r"(?!ald_ext\.).*"),
    (".*", rf"ald_ext\.(?!({'|'.join(dir(ald_ext))})\b).*"),
    (".*", r"ald_ext(\.\w+){3,}"),
    ("py:mod", ".*"),
]
default_role = "code"
highlight_language = "none"  # of docstrings' equations
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "imported-members": True, "exclude-members": "steps, state_names"}
python_maximum_signature_line_length = 100
napoleon_numpy_docstring = False
napoleon_use_param = False
add_module_names = False
toc_object_entries_show_parents = "hide"
