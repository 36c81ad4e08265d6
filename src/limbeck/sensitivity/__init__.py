"""Which parameters may be pruned, and how far: the analysis of one parameter at a time, and the schedule that it suggests."""

from limbeck.sensitivity.rows import HEADER, Metrics, Row, append_rows, parse_levels, read_rows
from limbeck.sensitivity.scan import Evaluate, Group, analysed, sensitivity
from limbeck.sensitivity.structure import Structure
from limbeck.sensitivity.suggest import Budget, Suggestion, parse_budget, suggest
from limbeck.sensitivity.write import schedule_text

__all__ = [
    "HEADER",
    "Budget",
    "Evaluate",
    "Group",
    "Metrics",
    "Row",
    "Structure",
    "Suggestion",
    "analysed",
    "append_rows",
    "parse_budget",
    "parse_levels",
    "read_rows",
    "schedule_text",
    "sensitivity",
    "suggest",
]
