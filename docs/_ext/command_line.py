"""The directive ``command-line``: every command of ald-ext with its help and its options, from the program itself."""

from __future__ import annotations

from typing import Any

import typer
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from ald_ext.cli.commands import app as commands


def escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("*", "\\*").replace("|", "\\|").replace("`", "``")


def described(name: str, command: Any) -> list[str]:
    """A command as reStructuredText: its help, then a list of its arguments and options."""
    title = f"ald-ext {name}"
    lines = [title, "-" * len(title), "", escaped(command.help or ""), ""]
    for parameter in command.params:
        if parameter.name == "help":
            continue
        is_argument = parameter.param_type_name == "argument"
        names = parameter.name.upper() if is_argument else ", ".join(parameter.opts)
        if not is_argument and not getattr(parameter, "is_flag", False):
            names += " VALUE"
        default = "" if parameter.default in (None, False) or parameter.required else f" (default: {parameter.default})"
        remark = " (required)" if parameter.required else default
        lines += [f"``{names}``{remark}", f"    {escaped(parameter.help or '')}"]
    return [*lines, ""]


class CommandLine(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        group: Any = typer.main.get_command(commands)
        lines = [line for name, command in group.commands.items() for line in described(name, command)]
        parent = nodes.section()
        parent.document = self.state.document
        self.state.nested_parse(StringList(lines, "command-line"), 0, parent, match_titles=True)
        return parent.children


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True}
