"""How `make docs` turns these pages and the docstrings into a site, which takes no network."""

import re
from typing import Any

from sphinx.application import Sphinx

from cryograd import __version__
from cryograd.config import COMMANDS
from cryograd.settings import is_positional

project = "cryograd"
author = "the authors of cryograd"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "alabaster"
html_theme_options = {
    "description": "Cryo-EM reconstruction",
    "page_width": "1100px",
    "sidebar_width": "250px",
}
html_show_sphinx = False
# Indented blocks are commands and equations, and not Python.
highlight_language = "none"
# Names in the text of docstrings stand between single backticks.
default_role = "code"
# Sections of a page can be linked to, as on GitHub.
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
napoleon_google_docstring = False
napoleon_use_rtype = False
# Fields that are described together stay together.
napoleon_use_param = False
# Shapes in annotations begin with a star here and there, which is not emphasis.
napoleon_attr_annotations = False


# What type checkers say of arrays says less to people than the shapes in the text do.
SHORTER = (
    (re.compile(r"~?numpy\.ndarray\[[^]]*\], ~?numpy\.dtype\[[^]]*\]\]"), "ndarray"),
    (re.compile(r"~?\S*_Buffer \| .*?\[complex \| bytes \| str\]"), "ArrayLike"),
    (re.compile(r"\(\*args, \*\*kwargs\)"), ""),
)


def _prepared(app: Sphinx, name: str, source: list[str]) -> None:
    """Fill in tables of options, and lead links to the pages above this folder to those that include them."""
    source[0] = re.sub(r"<!-- options of (\w+) -->", lambda found: _options(found[1]), source[0])
    for page in ("CONTRIBUTING", "CHANGELOG"):
        source[0] = source[0].replace(f"](../{page}.md)", f"]({page.lower()}.md)")


def _options(command: str) -> str:
    """Table of the options of a command as keyword arguments."""
    rows = ["| option | meaning | default |", "| --- | --- | --- |"]
    for name, field in COMMANDS[command].model_fields.items():
        if not is_positional(field) and name not in ("output", "volume", "json_output"):
            # Two hyphens would become a dash.
            meaning = re.sub(r"(--[a-z][\w-]*)", r"`\1`", field.description or "")
            default = "" if field.default is None else f"`{field.default!r}`"
            rows.append(f"| `{name}` | {meaning} | {default} |")
    return "\n".join(rows)


def _shortened(
    app: Sphinx, kind: str, name: str, thing: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """A signature without the types of arrays' elements."""
    for long, short in SHORTER:
        signature, returned = (text and long.sub(short, text) for text in (signature, returned))
    return signature, returned


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _prepared)
    app.connect("autodoc-process-signature", _shortened)
