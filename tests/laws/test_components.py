"""One table runs every component of the schedule file through every law; a component without a row fails."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD

from limbeck.apps._tree import decode, encode
from limbeck.errors import MaskError, TargetError
from limbeck.events import Action
from limbeck.pruning import Prune, Site
from limbeck.pruning.methods import PRUNERS
from limbeck.regularization import REGULARIZERS, Regularize
from limbeck.scheduler import Scheduler
from limbeck.schedules import Window, at
from limbeck.training import LearningRate, lr_schedulers

TARGET = "hidden.weight"


@dataclass(frozen=True)
class Row:
    """A component as a schedule would have it; its only target is TARGET."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    window: Window = field(default_factory=lambda: Window(1, 4))

    def __str__(self) -> str:
        return self.name + ("" if self.window.unit == "epoch" else " by step")


PRUNER_ROWS = (
    Row("AutomatedGradualPruner", {"initial_sparsity": 0.1, "final_sparsity": 0.8, "weights": [TARGET]}),
    Row("AutomatedGradualPruner", {"initial_sparsity": 0.1, "final_sparsity": 0.8, "weights": [TARGET]}, Window(1, 8, 2, "step")),
    Row("BaiduRNNPruner", {"q": 0.3, "ramp_epoch_offset": 1, "ramp_slope_mult": 2, "weights": [TARGET]}),
    Row("MagnitudeParameterPruner", {"thresholds": {TARGET: 0.1}}),
    Row("SensitivityPruner", {"sensitivities": {TARGET: 0.6}}),
    Row("SparsityLevelParameterPruner", {"levels": {TARGET: 0.6}}, Window(only=(1, 3))),
    Row("SplicingPruner", {"sensitivities": {TARGET: 0.2}, "low_thresh_mult": 0.8, "hi_thresh_mult": 1.1, "sensitivity_multiplier": 0.1}),
)
REGULARIZER_ROWS = (
    Row("L1Regularizer", {"reg_regims": {TARGET: 0.01}}),
    Row("L1Regularizer", {"reg_regims": {TARGET: 0.01}, "threshold_criteria": "Mean_Abs"}, Window(1, 8, 2, "step")),
)
RATE_ROWS = (
    Row("ConstantLR", {"factor": 0.5, "total_iters": 2}),
    Row("CosineAnnealingLR", {"T_max": 4}),
    Row("CosineAnnealingWarmRestarts", {"T_0": 2}),
    Row("CyclicLR", {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 2}, Window(1, 8, unit="step")),
    Row("ExponentialLR", {"gamma": 0.8}),
    Row("LinearLR", {"start_factor": 0.5, "total_iters": 3}),
    Row("MultiStepLR", {"milestones": [1, 3]}),
    Row("MultiStepMultiGammaLR", {"milestones": [1, 2], "gammas": [0.5, 0.2]}),
    Row("OneCycleLR", {"max_lr": 0.3, "total_steps": 7}, Window(1, 8, unit="step")),
    Row("PolynomialLR", {"T_max": 3, "power": 0.9}),
    Row("ReduceLROnPlateau", {"patience": 0}),
    Row("StepLR", {"step_size": 1, "gamma": 0.3}),
)
MAKE: dict[str, Callable[[Row], Action]] = {
    "pruners": lambda row: Prune(PRUNERS[row.name](**row.arguments)),
    "regularizers": lambda row: Regularize(REGULARIZERS[row.name](**row.arguments)),
    "lr_schedulers": lambda row: LearningRate(row.name, row.arguments),
}
ROWS = [
    *[("pruners", row) for row in PRUNER_ROWS],
    *[("regularizers", row) for row in REGULARIZER_ROWS],
    *[("lr_schedulers", row) for row in RATE_ROWS],
]
every_component = pytest.mark.parametrize(("section", "row"), ROWS, ids=[f"{section}-{row}" for section, row in ROWS])
every_pruner = pytest.mark.parametrize("row", PRUNER_ROWS, ids=str)
every_target = pytest.mark.parametrize(("section", "row"), [case for case in ROWS if case[0] != "lr_schedulers"], ids=str)
EPOCHS, STEPS = 5, 2
INPUTS = torch.randn(STEPS, 3, 4, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    ("table", "rows"),
    [(PRUNERS, PRUNER_ROWS), (REGULARIZERS, REGULARIZER_ROWS), (lr_schedulers(), RATE_ROWS)],
    ids=["pruners", "regularizers", "lr_schedulers"],
)
def test_every_component_has_a_row(table: dict[str, Any], rows: tuple[Row, ...]) -> None:
    assert {row.name for row in rows} == set(table)


class Run:
    """A small training run of real steps under one component, or under none."""

    def __init__(
        self, action: Action | None = None, window: Window | None = None, wrap: Callable[[nn.Module], nn.Module] = lambda model: model
    ) -> None:
        torch.manual_seed(5)
        self.model = nn.ModuleDict({"entry": nn.Linear(4, 6), "hidden": nn.Linear(6, 5), "exit": nn.Linear(5, 2)})
        self.optimizer = SGD(self.model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
        self.scheduler = Scheduler(wrap(self.model), [] if action is None else [(window or Window(), action)], self.optimizer)
        self.taken: list[tuple[str, dict[str, Tensor]]] = []
        self.history: list[dict[str, Tensor]] = []
        self.rates: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.model["exit"](torch.tanh(self.model["hidden"](torch.tanh(self.model["entry"](x)))))

    def train(self, epochs: int = EPOCHS) -> Run:
        for epoch in self.scheduler.epochs(epochs, self.save):
            for x in self.scheduler.steps(INPUTS, self.save):
                self.rates.append(self.optimizer.param_groups[0]["lr"])
                loss = self.scheduler.loss(functional.mse_loss(self.forward(x), torch.ones(3, 2)))
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                self.held()
                self.history.append({name: weight.clone() for name, weight in self.model.state_dict().items()})
            self.scheduler.metrics(loss=float(epoch % 2))
        return self

    def held(self) -> None:
        for name, keep in self.scheduler.masks.items():
            assert not self.scheduler.state.parameters[name].parameter[~keep].any()

    def save(self) -> None:
        """As a checkpoint holds it: text and named tensors."""
        parts = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "scheduler": self.scheduler.state_dict()}
        tree, tensors = encode({name: dict(part) for name, part in parts.items()})
        self.taken.append((json.dumps(tree), copy.deepcopy(tensors)))

    def load(self, text: str, tensors: dict[str, Tensor]) -> Run:
        saved = decode(json.loads(text), copy.deepcopy(tensors))
        for name in ("model", "scheduler", "optimizer"):
            getattr(self, name).load_state_dict(saved[name])
        return self


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@every_component
def test_law_a_run_resumed_at_any_step_is_equal_bit_for_bit(section: str, row: Row) -> None:
    whole = Run(MAKE[section](row), row.window).train()
    for text, tensors in list(whole.taken):
        part = Run(MAKE[section](row), row.window).load(text, tensors).train()
        assert equal(part.model.state_dict(), whole.model.state_dict())
        part.save()
        assert part.taken[-1][0] == whole.taken[-1][0]
        assert equal(part.taken[-1][1], whole.taken[-1][1])


@every_component
def test_law_a_run_repeats_itself_and_instances_share_nothing(section: str, row: Row) -> None:
    first, second = Run(MAKE[section](row), row.window).train(), Run(MAKE[section](row), row.window).train()
    assert equal(first.model.state_dict(), second.model.state_dict())
    assert first.rates == second.rates


@every_component
def test_law_nothing_happens_before_the_window_opens_and_something_within(section: str, row: Row) -> None:
    plain, run = Run().train(), Run(MAKE[section](row), row.window).train()
    opens = row.window.begin * (1 if row.window.unit == "step" else STEPS)
    same = [equal(one, other) for one, other in zip(plain.history, run.history, strict=True)]
    assert all(same[:opens])
    assert not same[-1]


@every_component
def test_law_the_model_keeps_its_names_and_its_parameters(section: str, row: Row) -> None:
    run = Run(MAKE[section](row), row.window)
    keys, parameters = list(run.model.state_dict()), [id(weight) for weight in run.model.parameters()]
    run.train()
    assert list(run.model.state_dict()) == keys
    assert [id(weight) for weight in run.model.parameters()] == parameters
    assert all(weight.is_leaf and not weight._backward_hooks for weight in run.model.parameters())


@every_component
def test_law_a_wrapped_model_is_the_same_model(section: str, row: Row) -> None:
    plain, wrapped = Run(MAKE[section](row), row.window).train(), Run(MAKE[section](row), row.window, nn.DataParallel).train()
    assert equal(plain.model.state_dict(), wrapped.model.state_dict())


@every_target
def test_law_a_target_that_matches_nothing_shows_before_training(section: str, row: Row) -> None:
    text = json.dumps(row.arguments).replace(TARGET, "hidden.wieght")
    with pytest.raises(TargetError, match=r"did you mean 'hidden.weight'\?"):
        Run(MAKE[section](Row(row.name, json.loads(text))))


@every_target
def test_law_a_wrapper_s_spelling_names_the_same_tensor(section: str, row: Row) -> None:
    text = json.dumps(row.arguments).replace(TARGET, f"module.{TARGET}")
    old, new = Run(MAKE[section](Row(row.name, json.loads(text))), row.window), Run(MAKE[section](row), row.window)
    assert equal(old.train().model.state_dict(), new.train().model.state_dict())


@every_pruner
def test_law_only_the_target_is_masked_and_something_is_dropped_and_something_kept(row: Row) -> None:
    run = Run(MAKE["pruners"](row), row.window).train()
    assert list(run.scheduler.masks) == [TARGET]
    kept = int(run.scheduler.masks[TARGET].count_nonzero())
    assert 0 < kept < 30
    assert int(run.model["hidden"].weight.count_nonzero()) == kept


@every_pruner
def test_law_a_pruner_is_a_pure_function_of_the_weights(row: Row) -> None:
    pruner, moment = PRUNERS[row.name](**row.arguments), next(iter(row.window.firings()))
    weight = torch.randn(9, 7)
    before = weight.clone()
    masks = [pruner.masks({TARGET: Site(weight)}, moment)[TARGET] for _ in range(2)]
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(weight, before)
    assert masks[0].dtype == torch.bool
    assert masks[0].shape == weight.shape


@every_pruner
def test_law_pruning_twice_at_one_moment_is_pruning_once(row: Row) -> None:
    pruner = PRUNERS[row.name](**row.arguments)
    for moment in row.window.firings():
        site = Site(torch.randn(9, 7))
        site.keep = pruner.masks({TARGET: site}, moment)[TARGET]
        site.weight = site.weight * site.keep
        assert torch.equal(pruner.masks({TARGET: site}, moment)[TARGET], site.keep)


@every_pruner
def test_law_signs_and_strides_and_precision_do_not_matter(row: Row) -> None:
    pruner, moment = PRUNERS[row.name](**row.arguments), next(iter(row.window.firings()))
    weight = torch.randn(9, 7).bfloat16().float()
    mask = pruner.masks({TARGET: Site(weight)}, moment)[TARGET]
    strided = weight.t().contiguous().t()
    assert not strided.is_contiguous()
    for twin in (-weight, strided, weight.double()):
        assert torch.equal(pruner.masks({TARGET: Site(twin)}, moment)[TARGET], mask)
    coarse = pruner.masks({TARGET: Site(weight.bfloat16())}, moment)[TARGET]
    assert (coarse != mask).float().mean() <= 0.05  # measured numbers are rounded to the tensor's own precision


@every_pruner
def test_law_larger_weights_outlive_smaller_ones(row: Row) -> None:
    pruner = PRUNERS[row.name](**row.arguments)
    for moment in row.window.firings():
        weight = torch.randn(9, 7)
        keep = pruner.masks({TARGET: Site(weight)}, moment)[TARGET]
        assert keep.all() or not keep.any() or weight[keep].abs().min() > weight[~keep].abs().max()


@every_pruner
def test_law_what_is_known_before_training_is_what_falls(row: Row) -> None:
    pruner = PRUNERS[row.name](**row.arguments)
    dropped = getattr(pruner.select, "dropped", None)
    for moment in row.window.firings():
        keep = pruner.masks({TARGET: Site(torch.randn(9, 7))}, moment)[TARGET]
        if dropped is not None:
            assert 63 - int(keep.count_nonzero()) == dropped(at(pruner.targets[TARGET], moment), 63)


@every_pruner
def test_law_a_run_that_diverged_is_not_pruned(row: Row) -> None:
    weight = torch.randn(9, 7)
    weight[3, 3] = math.nan
    with pytest.raises(MaskError, match=f"'{TARGET}': .* NaN"):
        PRUNERS[row.name](**row.arguments).masks({TARGET: Site(weight)}, next(iter(row.window.firings())))


@pytest.mark.parametrize("row", REGULARIZER_ROWS, ids=str)
def test_law_a_penalty_is_a_norm(row: Row) -> None:
    norm = REGULARIZERS[row.name](**row.arguments).norm
    one, other = torch.randn(5, 6, dtype=torch.float64), torch.randn(5, 6, dtype=torch.float64)
    assert norm(one).dim() == 0
    assert float(norm(torch.zeros(5, 6))) == 0.0
    assert torch.allclose(norm(-3 * one), 3 * norm(one))
    assert norm(one + other) <= norm(one) + norm(other)


@pytest.mark.parametrize("row", REGULARIZER_ROWS, ids=str)
def test_law_a_penalty_reaches_its_target_only(row: Row) -> None:
    run = Run(MAKE["regularizers"](row))
    run.scheduler.loss(torch.zeros(())).backward()
    assert [name for name, weight in run.model.named_parameters() if weight.grad is not None] == [TARGET]
    assert list(run.scheduler.loss_components) == [f"{row.name}_loss"]


@pytest.mark.parametrize("row", RATE_ROWS, ids=str)
def test_law_a_learning_rate_is_finite_and_not_negative_and_stays_after_its_window(row: Row) -> None:
    rates = Run(MAKE["lr_schedulers"](row), row.window).train(9).rates
    assert all(math.isfinite(rate) and rate >= 0 for rate in rates)
    assert len(set(rates[8:])) == 1
