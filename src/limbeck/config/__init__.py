"""Schedule files: read, checked, built, planned."""

from limbeck.config.build import check_file, load_quantizer, load_schedule
from limbeck.config.plan import plan
from limbeck.config.rehearsal import Rehearsal, RehearsedRow
from limbeck.config.rehearse import rehearse
from limbeck.config.report import Fault, Report
from limbeck.config.rows import Firing, Plan, Pool, Row
from limbeck.config.schema import json_schema

__all__ = [
    "Fault",
    "Firing",
    "Plan",
    "Pool",
    "Rehearsal",
    "RehearsedRow",
    "Report",
    "Row",
    "check_file",
    "json_schema",
    "load_quantizer",
    "load_schedule",
    "plan",
    "rehearse",
]
