"""Wanda on a schedule: the inputs that training showed, weighed against a loop that keeps them all."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from limbeck.config import load_schedule, plan
from limbeck.errors import MaskError
from limbeck.pruning import Site
from limbeck.pruning.calibrated import wanda_pruner
from limbeck.pruning.inputs import KEY
from limbeck.scheduler import Scheduler
from limbeck.schedules import Moment

SCHEDULE = """
version: 1
pruners:
  rows: {class: WandaPruner, weights: [0.weight, 2.weight], sparsity: 0.5}
  pairs: {class: WandaPruner, weights: 4.weight, n_of_m: "2:4"}
policies:
  - {pruner: {instance_name: rows}, starting_epoch: 1, ending_epoch: 2}
  - {pruner: {instance_name: pairs}, starting_step: 3, ending_step: 5}
"""


def made() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv1d(3, 4, 2), nn.Tanh(), nn.Conv1d(4, 4, 1, groups=2), nn.Flatten(), nn.Linear(20, 6))


def train(schedule: str, epochs: int) -> tuple[Scheduler, list[list[Tensor]], list[nn.Module]]:
    """The scheduler, what went into the three layers at each step, and the model as each step found it."""
    model = made()
    seen: list[list[Tensor]] = []
    optimizer = SGD(model.parameters(), lr=0.05)
    scheduler, models = load_schedule(schedule, model, optimizer), []
    for _ in scheduler.epochs(epochs):
        for x in scheduler.steps(list(torch.randn(3, 8, 3, 6, generator=torch.Generator().manual_seed(5)))):
            models.append(copy.deepcopy(model))
            hidden = models[-1][:2](x).detach()
            seen.append([x, hidden, models[-1][:4](x).detach()])
            optimizer.zero_grad()
            scheduler.loss(model(x).square().mean()).backward()
            optimizer.step()
    return scheduler, seen, models


def kept(scores: Tensor, size: int, dropped: int) -> Tensor:
    """All but the ``dropped`` lowest of every ``size`` scores in a row."""
    keep = torch.ones_like(scores, dtype=torch.bool)
    for row in range(len(scores)):
        for begin in range(0, scores.shape[1], size):
            for place in scores[row, begin : begin + size].argsort()[:dropped]:
                keep[row, begin + int(place)] = False
    return keep


def test_the_inputs_of_the_epoch_before_decide() -> None:
    scheduler, seen, models = train(SCHEDULE, 2)
    before = train(SCHEDULE, 1)[0].state.model  # as the first epoch left it, dense
    patches = torch.cat([x.unfold(2, 2, 1).movedim(1, 2).reshape(-1, 6) for x, _, _ in seen[:3]])
    keep = kept(before[0].weight.detach().flatten(1).abs() * patches.square().sum(0).sqrt(), 6, 3)
    assert torch.equal(scheduler.masks["0.weight"], keep.view(4, 3, 2))
    hidden = torch.cat([hidden.movedim(1, 2).reshape(-1, 4) for _, hidden, _ in seen[:3]]).square().sum(0).sqrt()
    scores = before[2].weight.detach().flatten(1).abs() * torch.stack([hidden[:2]] * 2 + [hidden[2:]] * 2)
    assert torch.equal(scheduler.masks["2.weight"], kept(scores, 2, 1).view(4, 2, 1))
    assert torch.equal(models[3][0].weight != 0, scheduler.masks["0.weight"])


def test_n_of_m_by_step() -> None:
    scheduler, seen, models = train(SCHEDULE, 2)
    inputs = seen[3][2].square().sum(0).sqrt()  # masks are renewed at step 4, by what step 3 saw
    scores = models[4][4].weight.detach().abs() * inputs
    assert torch.equal((models[4][4].weight != 0).view(6, 5, 4).sum(2), torch.full((6, 5), 2))
    assert torch.equal(scheduler.masks["4.weight"], kept(scores, 4, 2))


def test_the_plan_knows_the_counts() -> None:
    rows = {row.name: row.nonzeros for row in plan(SCHEDULE, made(), steps_per_epoch=3).rows}
    assert (rows["0.weight"], rows["2.weight"], rows["4.weight"]) == (12, 4, 60)


def test_without_inputs_the_error_says_what_is_missing() -> None:
    with pytest.raises(MaskError, match="'weight': nothing has observed this layer's inputs; prune through a schedule, or with"):
        wanda_pruner(["weight"], 0.5).masks({"weight": Site(torch.ones(2, 3))}, Moment())


def test_a_constant_input_scale_is_the_magnitude_of_each_row() -> None:
    weight = torch.randn(7, 9)
    site = Site(weight, stats={KEY: torch.full((1, 9), 4.0)})
    assert torch.equal(wanda_pruner(["weight"], 0.5).masks({"weight": site}, Moment())["weight"], kept(weight.abs(), 9, 4))
