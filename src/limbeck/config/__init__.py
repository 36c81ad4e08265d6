"""Schedule files: read, checked, built, planned."""

from limbeck.config.build import check_file, load_schedule
from limbeck.config.plan import plan
from limbeck.config.report import Fault, Report
from limbeck.config.rows import Firing, Plan, Pool, Row
from limbeck.config.schema import json_schema

__all__ = ["Fault", "Firing", "Plan", "Pool", "Report", "Row", "check_file", "json_schema", "load_schedule", "plan"]
