"""The table is complete: a component of the schedule file without a row fails, and so does an argument of a policy."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from laws.arguments import OPTIONS
from laws.rows import EXTENSION_ROWS, PRUNER_ROWS, RATE_ROWS, REGULARIZER_ROWS, Row, every_pruner
from limbeck.pruning import Prune
from limbeck.pruning.methods import PRUNERS
from limbeck.regularization import REGULARIZERS
from limbeck.thinning.extensions import EXTENSIONS
from limbeck.training import lr_schedulers


@pytest.mark.parametrize(
    ("table", "rows"),
    [(PRUNERS, PRUNER_ROWS), (REGULARIZERS, REGULARIZER_ROWS), (lr_schedulers(), RATE_ROWS), (EXTENSIONS, EXTENSION_ROWS)],
    ids=["pruners", "regularizers", "lr_schedulers", "extensions"],
)
def test_every_component_has_a_row(table: dict[str, Any], rows: tuple[Row, ...]) -> None:
    assert {row.name for row in rows} == set(table)


def test_every_argument_of_a_policy_is_combined() -> None:
    arguments = set(inspect.signature(Prune).parameters) - {"pruner"}
    assert {name for _, options in OPTIONS for name in options} == arguments


@every_pruner
def test_a_row_says_how_much_falls_where_its_selector_counts(row: Row) -> None:
    assert hasattr(row.pruner().select, "dropped") == (row.count is not None)
