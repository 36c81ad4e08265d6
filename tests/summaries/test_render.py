"""One table, four forms."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import dataclass

import pytest
from rich.console import Console

from limbeck.summaries.render import Column, Table, fixed, percent, show, thousands, to_csv, to_json, to_markdown, to_text


@dataclass(frozen=True)
class Row:
    name: str
    count: int
    share: float | None


COLUMNS = (Column("Name", "name", fold=True), Column("Count", "count", thousands), Column("Share (%)", "share", fixed(1), scale=100))
TABLE = Table("Words", COLUMNS, (Row("a|b, [bold]", 1200, 0.804), Row("c", 7, None)), total=Row("All", 1207, 0.5), notes=("A note.",))


def test_text() -> None:
    assert to_text(TABLE).splitlines() == [
        "Words",
        "",
        "Name         Count  Share (%)",
        "-----------  -----  ---------",
        "a|b, [bold]  1,200       80.4",
        "c                7          -",
        "-----------  -----  ---------",
        "All          1,207       50.0",
        "",
        "A note.",
    ]


def test_markdown_escapes_what_would_end_a_cell() -> None:
    assert to_markdown(TABLE).splitlines() == [
        "| Name         | Count | Share (%) |",
        "|--------------|------:|----------:|",
        "| a\\|b, [bold] | 1,200 |      80.4 |",
        "| c            |     7 |         - |",
        "| All          | 1,207 |      50.0 |",
        "",
        "A note.",
    ]


def test_csv_holds_plain_numbers() -> None:
    rows = list(csv.reader(io.StringIO(to_csv(TABLE))))
    assert rows == [["Name", "Count", "Share (%)"], ["a|b, [bold]", "1200", "80.4"], ["c", "7", ""], ["All", "1207", "50.0"]]


def test_json_holds_fractions_and_no_nan() -> None:
    tree = json.loads(to_json(Table("T", COLUMNS, (Row("a", 1, 0.25), Row("b", 2, math.nan), Row("c", 3, math.inf)))))
    assert tree == {
        "rows": [
            {"name": "a", "count": 1, "share": 0.25},
            {"name": "b", "count": 2, "share": None},
            {"name": "c", "count": 3, "share": None},
        ],
        "notes": [],
    }
    assert json.loads(to_json(TABLE))["total"] == {"name": "All", "count": 1207, "share": 0.5}
    assert json.loads(to_json("Model()")) == {"text": "Model()"}


@pytest.mark.parametrize(
    ("fraction", "text"), [(0.0, "0%"), (0.7, "70%"), (0.80391, "80.4%"), (0.9999, ">99.9%"), (1.0, "100%"), (0.0004, "0%"), (2e-9, "0%")]
)
def test_percent(fraction: float, text: str) -> None:
    assert percent(fraction) == text


def test_a_pipe_gets_plain_text_and_json_when_asked() -> None:
    plain, coded = io.StringIO(), io.StringIO()
    show(TABLE, console=Console(file=plain))
    show(TABLE, as_json=True, console=Console(file=coded, force_terminal=True))
    assert plain.getvalue() == to_text(TABLE) + "\n"
    assert json.loads(coded.getvalue())["total"]["count"] == 1207


@pytest.mark.parametrize("width", [10, 40, 200])
def test_a_terminal_table_is_never_cut(width: int) -> None:
    """Nothing is lost in a narrow terminal, and brackets are text, not markup."""
    drawn = io.StringIO()
    console = Console(file=drawn, force_terminal=True, width=width, color_system=None)
    show(TABLE, console=console)
    assert all(text in drawn.getvalue() for text in ("a|b, [bold]", "1,200", "80.4", "Share (%)", "A note."))
    assert "…" not in drawn.getvalue()
    assert console.width == width


def test_a_long_text_folds_in_a_narrow_terminal() -> None:
    command = "limbeck lm train " + "--tied " * 20
    drawn = io.StringIO()
    show(Table("T", COLUMNS, (Row(command, 1, 0.1),)), console=Console(file=drawn, force_terminal=True, width=80, color_system=None))
    assert max(map(len, drawn.getvalue().splitlines())) <= 80
    assert drawn.getvalue().count("--tied") == 20
