"""How faults are printed."""

from __future__ import annotations

import pytest

from limbeck.config.report import Fault, Report
from limbeck.errors import ScheduleError


def test_a_report_sorts_by_line_and_counts() -> None:
    report = Report("a.yaml", [Fault("two", ("b", 1), 9), Fault("one", (), 2)], [Fault("idle", ("c",), 3)])
    assert report.text() == "a.yaml: 2 faults\n  line 2: one\n  line 9, b[1]: two\na.yaml: 1 warning\n  line 3, c: idle"
    assert report.to_json() == {
        "file": "a.yaml",
        "faults": [{"line": 2, "path": "", "message": "one"}, {"line": 9, "path": "b[1]", "message": "two"}],
        "warnings": [{"line": 3, "path": "c", "message": "idle"}],
    }


def test_only_faults_are_raised() -> None:
    Report("a.yaml", warnings=[Fault("idle")]).raise_if_faulty()
    with pytest.raises(ScheduleError) as caught:
        Report("a.yaml", [Fault("one", line=2)]).raise_if_faulty()
    assert str(caught.value) == "a.yaml: 1 fault\n  line 2: one"
    assert caught.value.faults == ("line 2: one",)
