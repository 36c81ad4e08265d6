"""``limbeck schema``: the JSON Schema of schedule files."""

from __future__ import annotations

import json

import typer

EXAMPLE = "Example: limbeck schema > limbeck.schema.json"


def schema() -> None:
    """Print the JSON Schema of schedule files, with which editors complete and check them while you type.

    In VS Code with the YAML extension, put this on a schedule's first line: # yaml-language-server: $schema=limbeck.schema.json
    """
    from limbeck.config import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))
