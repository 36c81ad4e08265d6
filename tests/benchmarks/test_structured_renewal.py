"""What the benchmark of structured masks compares makes the same masks."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from structured_renewal import COPY, OURS, QUESTIONS, RENEWED, contenders

SMALL = {4: (16, 32, 3, 3), 2: (20, 40)}


@pytest.mark.parametrize("name", QUESTIONS)
def test_contenders_agree(name: str) -> None:
    question = QUESTIONS[name]
    small = replace(
        question, shapes=[SMALL[len(shape)] for shape in question.shapes[:3]], measured=dict.fromkeys(question.measured, (1, 40))
    )
    turns = {what: prepare()() for what, prepare in contenders(small, 0.5).items()}
    others = [masks for what, masks in turns.items() if what not in (COPY, OURS, RENEWED)]
    assert len(others) == len(question.others) > 0
    for mask, *theirs in zip(turns[OURS], *others, strict=True):
        assert all(torch.equal(mask, other.bool()) for other in theirs)
    assert [len(masks) for masks in turns.values()] == [len(small.shapes)] * len(turns)


def test_the_benchmark_says_what_it_asks(root: Path) -> None:
    script = root / "benchmarks" / "structured_renewal.py"
    shown = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=True).stdout
    assert "python benchmarks/structured_renewal.py" in shown
    assert "?" in shown
