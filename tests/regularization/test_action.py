"""The action of a regularizer: what is cut, when it becomes a mask, and what is refused before training."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limbeck.config import check_file, load_schedule
from limbeck.errors import ScheduleError
from limbeck.pruning import Prune, level_pruner
from limbeck.regularization import Regularize, Regularizer, group_lasso_regularizer, group_variance_regularizer, l1_regularizer
from limbeck.scheduler import Scheduler
from limbeck.schedules import Window

WEIGHT = torch.tensor([[0.5, -0.1, 0.0], [0.1, 0.1, 0.2], [0.0, -0.2, 0.1]])


class One(nn.Module):
    """A model of a single weight."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())


def lasso(group: str, strength: float, criteria: str | None = None) -> Regularizer:
    return group_lasso_regularizer({"weight": (strength, group)}, criteria)  # type: ignore[arg-type,dict-item]  # names as a file has them


def cut(weight: Tensor, group: str, strength: float, criteria: str) -> Tensor:
    model = One(weight)
    Scheduler(model, [(Window(), Regularize(lasso(group, strength, criteria)))]).on_minibatch_end(0, 0, 1)
    return model.weight.detach()


@pytest.mark.parametrize(
    ("group", "criteria", "strength", "rows", "columns"),
    [
        ("Rows", "Max", 0.2, [0], [0, 1, 2]),
        ("Rows", "Mean_Abs", 0.1, [0, 1], [0, 1, 2]),
        ("Cols", "Max", 0.2, [0, 1, 2], [0]),
        ("Cols", "Mean_Abs", 0.11, [0, 1, 2], [0, 1]),
        ("Channels", "Max", 0.2, [0, 1, 2], [0]),
        ("Filters", "Max", 0.2, [0], [0, 1, 2]),
        ("Rows+Cols", "Max", 0.2, [0], [0]),
        ("Cols+Rows", "Mean_Abs", 0.11, [0, 1], [0, 1]),
        ("4D", "Max", 0.4, [0, 1, 2], [0, 1, 2]),
        ("4D", "Max", 0.5, [], []),
        ("Channels+4D", "Max", 0.2, [0, 1, 2], [0]),
    ],
)
def test_groups_that_do_not_exceed_the_strength_fall(
    group: str, criteria: str, strength: float, rows: list[int], columns: list[int]
) -> None:
    expected = torch.zeros(3, 3)
    for row in rows:
        for column in columns:
            expected[row, column] = WEIGHT[row, column]
    assert torch.equal(cut(WEIGHT, group, strength, criteria), expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_kernels_fall_one_by_one_whatever_the_strides(layout: torch.memory_format) -> None:
    weight = torch.rand(4, 3, 3, 3).contiguous(memory_format=layout)
    weight[1, 2] *= 0.01
    weight[3, 0] *= 0.01
    expected = weight.clone()
    expected[1, 2] = expected[3, 0] = 0.0
    assert torch.equal(cut(weight, "2D", 0.05, "Mean_Abs"), expected)


def test_a_weight_that_is_not_a_number_is_not_cut_away() -> None:
    weight = WEIGHT.clone()
    weight[1, 1] = torch.nan
    assert cut(weight, "Rows", 0.45, "Max")[1].isnan().tolist() == [False, True, False]


def test_the_component_holds_the_strength_and_sums_all_targets() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Conv2d(2, 3, 3))
    regims = {"0.weight": (0.1, "Rows+Cols"), "1.weight": (0.2, "2D")}
    scheduler = Scheduler(model, [(Window(), Regularize(group_lasso_regularizer(regims)))])  # type: ignore[arg-type]  # names of groups
    loss = scheduler.loss(torch.tensor(1.0))
    linear, conv = model[0].weight, model[1].weight
    expected = 0.1 * (linear.norm(dim=1).sum() + linear.norm(dim=0).sum()) + 0.2 * conv.flatten(2).norm(dim=2).sum()
    assert list(scheduler.loss_components) == ["GroupLassoRegularizer_loss"]
    assert torch.allclose(scheduler.loss_components["GroupLassoRegularizer_loss"], expected)
    assert torch.allclose(loss, 1 + expected)


def trained(schedule: list[tuple[Window, Regularize]], epochs: int, steps: int = 2) -> Scheduler:
    """After each step the last row has what an optimizer might have given it: a small value in its first column."""
    model = One(WEIGHT)
    scheduler = Scheduler(model, schedule, torch.optim.SGD(model.parameters(), lr=1.0))
    for _ in scheduler.epochs(epochs):
        for _ in scheduler.steps(range(steps)):
            scheduler.loss(torch.tensor(0.0))
            model.weight.grad = torch.zeros(3, 3)
            model.weight.grad[2, 0] = -0.01
            scheduler.state.optimizer.step()  # type: ignore[union-attr]  # it was given
    return scheduler


ROWS_KEPT = torch.tensor([[True] * 3, [False] * 3, [False] * 3])


def test_without_keep_mask_what_is_cut_may_come_back() -> None:
    scheduler = trained([(Window(0, 2), Regularize(lasso("Rows", 0.2, "Max")))], epochs=3)
    assert len(scheduler.masks) == 0
    assert scheduler.state.model.weight[2].tolist() == pytest.approx([0.02, 0, 0])


@pytest.mark.parametrize("window", [Window(0, 2), Window(0, 4, 3), Window(only=(0, 1)), Window(1, 4, unit="step"), Window(0, 4, 2, "step")])
def test_keep_mask_makes_the_last_cut_a_mask_for_good(window: Window) -> None:
    scheduler = trained([(window, Regularize(lasso("Rows", 0.2, "Max"), keep_mask=True))], epochs=6)
    assert torch.equal(scheduler.masks["weight"], ROWS_KEPT)
    assert torch.equal(scheduler.state.model.weight != 0, ROWS_KEPT & (WEIGHT != 0))


@pytest.mark.parametrize(("window", "epochs"), [(Window(0, 2), 1), (Window(0, 4, 3), 3), (Window(0, 4, 2, "step"), 1)])
def test_no_mask_before_the_last_firing(window: Window, epochs: int) -> None:
    assert len(trained([(window, Regularize(lasso("Rows", 0.2, "Max"), keep_mask=True))], epochs).masks) == 0


def test_a_kept_mask_narrows_the_mask_of_a_pruner() -> None:
    schedule = [
        (Window(0, 1), Prune(level_pruner({"weight": 4 / 9}))),
        (Window(0, 1), Regularize(lasso("Rows", 0.2, "Max"), keep_mask=True)),
    ]
    scheduler = trained(schedule, epochs=2)  # type: ignore[arg-type]  # a pruner too
    assert scheduler.masks["weight"].tolist() == [[True, False, False], [False] * 3, [False] * 3]


def test_a_run_resumed_between_two_steps_keeps_the_same_mask() -> None:
    def schedule() -> list[tuple[Window, Regularize]]:
        return [(Window(0, 2), Regularize(lasso("Rows", 0.2, "Max"), keep_mask=True))]

    before = trained(schedule(), epochs=1)
    resumed = Scheduler(copy.deepcopy(before.state.model), schedule())
    resumed.load_state_dict(before.state_dict())
    for _ in resumed.epochs(2):
        for _ in resumed.steps(range(2)):
            resumed.loss(torch.tensor(0.0))
    assert torch.equal(resumed.masks["weight"], ROWS_KEPT)


@pytest.mark.parametrize(
    ("window", "action", "message"),
    [
        (Window(0, 1), Regularize(l1_regularizer({"weight": 0.1}), True), "L1Regularizer cuts nothing, so keep_mask has nothing to keep"),
        (
            Window(),
            Regularize(lasso("Rows", 0.1, "Max"), True),
            "keep_mask keeps what is cut when the window ends, and this one does not end",
        ),
        (Window(), Regularize(lasso("2D", 0.1)), r"'weight' cannot be cut into groups: a shape of \(3, 3\) has no groups of type 2D"),
    ],
)
def test_what_cannot_be_shows_before_training(window: Window, action: Regularize, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        Scheduler(One(WEIGHT), [(window, action)])


@pytest.mark.parametrize("given", ["L1Regularizer", l1_regularizer])
def test_what_is_no_regularizer_is_told_what_is(given: Any) -> None:
    with pytest.raises(ScheduleError, match=r"^Regularize takes a Regularizer, not .*; one is made as in l1_regularizer\("):
        Regularize(given)


def test_a_variance_needs_two_channels() -> None:
    with pytest.raises(ScheduleError, match=r"'weight' cannot be cut into groups: a shape of \(4, 1\) has 1, and 2 or more are needed"):
        Scheduler(One(torch.ones(4, 1)), [(Window(), Regularize(group_variance_regularizer({"weight": 0.1})))])


SCHEDULE = """
version: 1
regularizers:
  lasso:
    class: GroupLassoRegularizer
    reg_regims:
      module.0.weight: [0.2, Rows]
      1.weight: [0.001, Channels+4D]
    threshold_criteria: Max
  spread: {class: GroupVarianceRegularizer, reg_regims: {0.weight: [0.1, Channels], 1.weight: 0.2}}
policies:
  - {regularizer: {instance_name: lasso, args: {keep_mask: true}}, starting_epoch: 0, ending_epoch: 2, frequency: 1}
  - {regularizer: {instance_name: spread}, starting_step: 0, ending_step: 2}
"""


def test_a_file_says_the_same() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Conv2d(2, 3, 3))
    with torch.no_grad():
        model[0].weight.copy_(WEIGHT)
    scheduler = load_schedule(SCHEDULE, model)
    for _ in scheduler.epochs(3):
        for _ in scheduler.steps(range(1)):
            scheduler.loss(torch.tensor(0.0))
    assert torch.equal(scheduler.masks["0.weight"], ROWS_KEPT)


@pytest.mark.parametrize(
    ("was", "now", "message"),
    [
        ("[0.2, Rows]", "[0.2, Row]", "Row"),
        ("[0.2, Rows]", "0.2", "0.2"),
        ("[0.2, Rows]", "[-0.2, Rows]", "-0.2 should be greater than or equal to 0"),
        ("[0.1, Channels]", "[0.1, Filters]", "Filters"),
        ("threshold_criteria: Max", "threshold_criteria: Min", "'Min' should be 'Mean_Abs' or 'Max'"),
        ("threshold_criteria: Max", "threshold_criteria: null", "GroupLassoRegularizer cuts nothing, so keep_mask has nothing to keep"),
        ("keep_mask: true", "keep_masks: true", "did you mean 'keep_mask'?"),
        ("[0.2, Rows]", "[0.2, 2D]", "cannot be cut into"),
    ],
)
def test_the_faults_of_a_file(was: str, now: str, message: str) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Conv2d(2, 3, 3))
    assert check_file(SCHEDULE, model).ok
    text = check_file(SCHEDULE.replace(was, now), model).text()
    assert message in text
    assert "line" in text


def test_a_kept_mask_leaves_a_pruner_its_dense_copies() -> None:
    model = One(WEIGHT)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    schedule = [
        (Window(0, 3), Prune(level_pruner({"weight": 1 / 9}), use_double_copies=True)),
        (Window(0, 1), Regularize(lasso("Rows", 0.2, "Max"), keep_mask=True)),
    ]
    scheduler = Scheduler(model, schedule, optimizer)
    scheduler.on_epoch_begin(0)
    for step in range(2):
        scheduler.on_minibatch_begin(0, step, 2)
        scheduler.before_backward_pass(0, step, 2, torch.tensor(0.0))
        model.weight.grad = torch.zeros(3, 3)
        optimizer.step()
        scheduler.on_minibatch_end(0, step, 2)
    scheduler.on_epoch_end(0)
    assert torch.equal(scheduler.masks["weight"], ROWS_KEPT & (WEIGHT != 0))
    assert torch.equal(model.weight.detach(), WEIGHT * ROWS_KEPT)
    assert scheduler.masks.life("weight") == "soft"
