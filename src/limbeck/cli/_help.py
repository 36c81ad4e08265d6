"""Help of commands with long options: complete on a narrow terminal, too."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from typer.core import TyperCommand

WIDE = 132
"""Columns from which on a table of options, with a column each for names, opposites, types and descriptions, cuts no name."""


class LongOptions(TyperCommand):
    """A command whose help, where the terminal has no room for a table, lists the options below each other, under the names of their panels."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        if Console().width >= WIDE:
            super().format_help(ctx, formatter)
            return
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                usual = "Options" if parameter.param_type_name == "option" else "Arguments"
                panels.setdefault(getattr(parameter, "rich_help_panel", None) or usual, []).append(record)
        for panel, records in panels.items():
            with formatter.section(panel):
                formatter.write_dl(records)
        self.format_epilog(ctx, formatter)
