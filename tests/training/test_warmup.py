"""The learning rates of Transformers: the published formulas, both by step in a run, and from a file."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from limbeck.config import load_schedule
from limbeck.scheduler import Scheduler
from limbeck.schedules import Window
from limbeck.training import InverseSquareRootLR, LearningRate, NoamLR
from limbeck.training.warmup import inverse_square_root, noam

FILE = """\
version: 1
lr_schedulers: {rate: {class: NoamLR, d_model: 512, warmup_steps: 4000, factor: 2.0, initial_step: 250000}}
policies: [{lr_scheduler: {instance_name: rate}, starting_step: 0, ending_step: 10000}]
"""


def vaswani(t: int, d_model: int, warmup: int) -> float:
    """Section 5.3 of arXiv 1706.03762 as it is printed."""
    return d_model**-0.5 * min(t**-0.5, t * warmup**-1.5)


@pytest.mark.parametrize("t", [1, 7, 3999, 4000, 4001, 100_000, 260_000])
def test_noam_is_the_formula_of_the_paper(t: int) -> None:
    assert noam(t, 512, 4000) == pytest.approx(vaswani(t, 512, 4000), rel=1e-12)


def test_noam_is_an_inverse_square_root_with_another_peak() -> None:
    peak = (1024 * 300) ** -0.5
    assert [noam(t, 1024, 300) for t in range(1, 2000)] == pytest.approx([peak * inverse_square_root(t, 300) for t in range(1, 2000)])


def rates(action: LearningRate, steps: int, base: float = 0.4) -> list[tuple[float, float]]:
    """The learning rates of both parameter groups in each step."""
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.SGD([{"params": [layer.weight]}, {"params": [layer.bias], "lr": base / 2}], lr=base)
    scheduler = Scheduler(layer, [(Window(unit="step"), action)], optimizer)
    found = []
    for _ in scheduler.epochs(1):
        for _ in scheduler.steps(range(steps)):
            found.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["lr"]))
            optimizer.step()
    return found


def test_the_first_step_is_t_1() -> None:
    first, second = zip(*rates(LearningRate("NoamLR", {"d_model": 64, "warmup_steps": 5, "factor": 3.0}), 12), strict=True)
    assert first == pytest.approx([3 * vaswani(t, 64, 5) for t in range(1, 13)])
    assert second == pytest.approx([rate / 2 for rate in first])
    found = rates(LearningRate("InverseSquareRootLR", {"warmup_steps": 4, "initial_step": 2}), 9)
    assert [rate for rate, _ in found] == pytest.approx([0.4 * min(t / 4, math.sqrt(4 / t)) for t in range(3, 12)])


def test_a_file_goes_on_where_another_run_ended() -> None:
    """NeurST's ``initial_global_step`` 250000 of the page whose experiment this is: ``t`` is 250001 in the first step."""
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1.0)
    scheduler = load_schedule(FILE, layer, optimizer)
    for _ in scheduler.epochs(1):
        for _ in scheduler.steps([0]):
            assert optimizer.param_groups[0]["lr"] == pytest.approx(2 * 512**-0.5 * 250_001**-0.5)
            optimizer.step()


@pytest.mark.parametrize("wrong", [{"warmup_steps": 0}, {"initial_step": -1}])
def test_what_is_no_step_is_refused(wrong: dict[str, int]) -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"warmup_steps is a number of steps|initial_step -1 is before"):
        InverseSquareRootLR(optimizer, **wrong)
    with pytest.raises(ValueError, match="d_model is the width of the model, 1 or more, not 0"):
        NoamLR(optimizer, 0)
