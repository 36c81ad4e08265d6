"""``limbeck schema``."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from limbeck import cli
from limbeck.config import json_schema


def test_the_schema_is_printed_as_json() -> None:
    result = CliRunner().invoke(cli.app, ["schema"])
    assert result.exit_code == 0
    assert json.loads(result.output) == json_schema()
