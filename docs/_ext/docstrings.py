"""Turns the package's docstrings, which are written to be read as they are, into reStructuredText.

An indented block after a blank line is an equation or an example and is shown as it stands; ``Note [Title]`` with an
indented text becomes a box; characters that mean something to reStructuredText, as in |x| or ``sgld_step_``, do not.
"""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

LITERAL_OR_ROLE = re.compile(r"(``.+?``|:[\w:]+:`.+?`|`.+?`)")
NOTE = re.compile(r"(\s*)Note \[(.+)\]:?$")
#: The names of several arguments, some with their symbol, as in "step_size (ε), temperature: as in ...".
SEVERAL_NAMES = re.compile(r"(\s+\w[\w*]*(?: \([^)]*\))?(?:, \w[\w*]*(?: \([^)]*\))?)+):(?=\s)")
#: The first of two lines of such names.
UNFINISHED_NAMES = re.compile(
    r"^(    \w[\w*]*(?: \([^)\s]*\))?(?:, \w[\w*]*(?: \([^)\s]*\))?)+,)\n\s+(?=[^\n]*:\s)", re.MULTILINE
)
LIST_ITEM = re.compile(r"\s*(?:[-*•]|\d+\.) ")


def indentation(line: str) -> int:
    return len(line) - len(line.lstrip())


def escaped(line: str) -> str:
    """The line, whose characters | and * and names that end with _ stand for themselves, outside of ``code``."""
    parts = LITERAL_OR_ROLE.split(line)
    for index in range(0, len(parts), 2):
        text = re.sub(r"([|*])(?!\s)", r"\\\1", parts[index])
        parts[index] = re.sub(r"(?<=\w)_(?![\w`])", r"\\_", text)
    return "".join(parts)


def converted(lines: list[str]) -> list[str]:
    """The docstring as reStructuredText, before napoleon sees it."""
    lines = UNFINISHED_NAMES.sub(r"\1 ", "\n".join(lines)).split("\n")
    result: list[str] = []
    previous = ""  # the last line that is not blank
    literal = -1  # the indentation of the block that is shown as it stands; -1 outside of one
    base = 0  # the indentation that is usual here
    for number, line in enumerate(lines):
        if not line.strip():
            result.append("")
            continue
        indent = indentation(line)
        if literal >= 0 and indent >= literal:
            result.append(line)
            previous = line
            continue
        literal = -1
        if note := NOTE.match(line):
            result += [f"{note[1]}.. admonition:: {note[2]}", f"{note[1]}    :class: note", ""]
            previous, base = line, indent + 4
            continue
        if indent < base:
            base = indent
        after_blank = number > 0 and not lines[number - 1].strip()
        if after_blank and indent >= max(base, indentation(previous)) + 4 and not LIST_ITEM.match(previous):
            marker = [] if previous.endswith("::") else [" " * indentation(previous) + "::", ""]
            result += [*marker, line]
            literal, previous = indent, line
            continue
        if names := SEVERAL_NAMES.match(line):  # napoleon would take what is in parentheses for types
            line = re.sub(r" \([^)]*\)", "", names[1]) + line[names.end(1) :]
        result.append(escaped(line))
        previous = line
    return result


def before_napoleon(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    lines[:] = converted(lines)
    app.env.temp_data["docstring"] = list(lines)


def after_napoleon(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Napoleon takes what stands before a colon in an attribute's text for its type; ours have their types in code."""
    if what in ("attribute", "data", "property"):
        lines[:] = app.env.temp_data["docstring"]


class DocstringNote(SphinxDirective):
    """The text of ``Note [Title]`` in a module's docstring: the argument names the module, the content the title."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        title = " ".join(self.content)
        docstring = inspect.getdoc(importlib.import_module(self.arguments[0])) or ""
        found = re.search(rf"^Note \[{re.escape(title)}\]:?\n((?:(?: .*)?\n?)+)", docstring, re.MULTILINE)
        if found is None:
            raise self.error(f"{self.arguments[0]} has no Note [{title}] in its docstring")
        parent = nodes.Element()
        text = textwrap.dedent(found[1]).strip("\n").splitlines()  # which is Markdown, too
        self.state.nested_parse(StringList(text, title), 0, parent)
        return parent.children


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("docstring-note", DocstringNote)
    app.connect("autodoc-process-docstring", before_napoleon, priority=100)
    app.connect("autodoc-process-docstring", after_napoleon, priority=900)
    return {"parallel_read_safe": True}
