"""Scheduled pruning behind ``optimizer.step()``, step for step against plain transcriptions of what NeurST and TFMOT do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

import limbeck
from limbeck import TFMOT, NeurST, Prune, Pruner, Ramp, Regularize, ScheduleError, Scheduler, TargetError, Window, attach
from limbeck.pruning.observed import taylor_pruner
from limbeck.regularization import l1_regularizer
from limbeck.tile import Tile

Batch = tuple[Tensor, Tensor]


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 9), nn.LayerNorm(9), nn.Tanh(), nn.Linear(9, 4))


def batches(count: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(5)
    return [(torch.randn(8, 6, generator=generator), torch.randint(4, (8,), generator=generator)) for _ in range(count)]


def sgd(model: nn.Module, fused: bool = False) -> Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=fused)


def update(model: nn.Module, optimizer: Optimizer, batch: Batch) -> None:
    x, y = batch
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.dim() > 1}


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def due(t: int, begin: int, end: int, frequency: int) -> bool:
    return t >= begin and (t <= end or end < 0) and (t - begin) % frequency == 0


def sparsity(t: int, begin: int, end: int, ends: tuple[float, float], power: float = 3) -> np.float32:
    initial, target = ends
    if end == begin or initial == target:
        return np.float32(target)
    p = np.clip(np.float32(t - begin) / np.float32(end - begin), np.float32(0), np.float32(1))
    return np.float32(np.float32(initial - target) * np.float32(float(np.float32(1) - p) ** power) + np.float32(target))


def largest(weight: Tensor, share: np.float32) -> Tensor:
    """The mask of NeurST: all that is not below the k-th largest magnitude."""
    k = max(1, int(np.rint(np.float32(weight.numel()) * (np.float32(1) - share))))
    return weight.abs() >= weight.abs().flatten().sort(descending=True).values[k - 1]


class NeurSTByHand:
    """``apply_gradients``, then a new mask of what it made where one is due, then the mask."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, span: tuple[int, int, int], ends: tuple[float, float]) -> None:
        self.model, self.optimizer, self.span, self.ends, self.t = model, optimizer, span, ends, 0
        self.masks = {name: weight != 0 if weight.any() else torch.ones_like(weight) for name, weight in weights(model).items()}

    def step(self, batch: Batch) -> None:
        update(self.model, self.optimizer, batch)
        self.t += 1
        for name, weight in weights(self.model).items():
            if due(self.t, *self.span):
                self.masks[name] = largest(weight.detach(), sparsity(self.t, self.span[0], self.span[1], self.ends))
            weight.data.mul_(self.masks[name])


@pytest.mark.parametrize(
    ("span", "ends"),
    [
        ((0, 20, 5), (0.0, 0.5)),
        ((0, 20, 7), (0.0, 0.8)),  # does not divide: ends below the target
        ((3, 19, 4), (0.2, 0.7)),
        ((1, 12, 1), (0.6, 0.1)),  # downwards
        ((4, 4, 5), (0.0, 0.5)),  # at once
        ((0, -1, 3), (0.5, 0.5)),
        ((2, 14, 6), (0.5, 0.5)),
    ],
)
def test_neurst_step_for_step(span: tuple[int, int, int], ends: tuple[float, float]) -> None:
    """With momentum, which goes on moving what is masked; what one step made of it competes at each renewal."""
    begin, end, frequency = span
    schedule = "constant_sparsity" if ends[0] == ends[1] else "polynomial_decay"
    options = NeurST(schedule, ends[0], ends[1], begin, end, frequency)
    by_hand, pruned = network(), network()
    reference = NeurSTByHand(by_hand, sgd(by_hand), span, ends)
    attach(optimizer := sgd(pruned), pruned, options)
    revived = 0
    for batch in batches(24):
        before = [mask.clone() for mask in reference.masks.values()]
        reference.step(batch)
        update(pruned, optimizer, batch)
        assert same(by_hand, pruned)
        revived += sum(int((mask & ~old).sum()) for mask, old in zip(reference.masks.values(), before, strict=True))
    assert revived or ends[0] < ends[1]  # where the sparsity does not rise, some of what was dropped comes back
    assert all((weight == 0).any() for weight in weights(pruned).values())


def test_the_run_of_neurst_itself() -> None:
    """The non-zeros after each step of its own optimizer over ``linspace(1, 1000, 1000)`` at a learning rate of 0, target 0.1."""
    layer = nn.Linear(1000, 1, bias=False)
    layer.weight.data.copy_(torch.linspace(1, 1000, 1000))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    attach(optimizer, layer, NeurST(target_sparsity=0.1, end_pruning_step=500))
    found = {}
    for step in range(1, 701):
        optimizer.zero_grad()
        layer(torch.ones(1, 1000)).sum().backward()
        optimizer.step()
        found[step] = int(layer.weight.count_nonzero())
    table = {1: 1000, 99: 1000, 100: 951, 199: 951, 200: 922, 300: 906, 400: 901, 499: 901, 500: 900, 501: 900, 600: 900, 700: 900}
    assert {step: found[step] for step in table} == table


def test_momentum_of_a_dropped_weight_is_not_touched() -> None:
    """NeurST's own: the slot of a pruned weight goes on by the gradient, and the weight stays zero."""
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data.copy_(torch.tensor([[5.0, 0.1]]))
    attach(optimizer := sgd(layer), layer, NeurST("constant_sparsity", target_sparsity=0.5, begin_pruning_step=1, pruning_frequency=100))
    slots = []
    for _ in range(4):
        optimizer.zero_grad()
        layer(torch.full((1, 2), 0.001)).sum().backward()
        optimizer.step()
        slots.append(optimizer.state[layer.weight]["momentum_buffer"][0, 1].item())
        assert layer.weight[0, 1] == 0
    assert slots == pytest.approx([0.001, 0.0019, 0.00271, 0.003439])


@pytest.fixture
def sparse() -> nn.Sequential:
    model = network()
    for weight in weights(model).values():
        weight.data.view(-1)[::2] = 0
    nn.init.zeros_(model[3].weight)
    return model


@pytest.mark.parametrize("keep", [True, False])
def test_zeros_stay_until_the_first_renewal(sparse: nn.Sequential, keep: bool) -> None:
    attach(
        optimizer := sgd(sparse), sparse, NeurST(target_sparsity=0.5, begin_pruning_step=4, end_pruning_step=9, keep_prune_property=keep)
    )
    for batch in batches(3):
        update(sparse, optimizer, batch)
    assert bool((sparse[0].weight.data.view(-1)[::2] == 0).all()) == keep
    assert sparse[3].weight.all(), "a tensor that is zero as a whole is not frozen"


def test_a_target_of_0_prunes_nothing() -> None:
    model = network()
    attach(optimizer := sgd(model), model, NeurST(end_pruning_step=3, pruning_frequency=1))
    for batch in batches(5):
        update(model, optimizer, batch)
    assert all(weight.all() for weight in weights(model).values())


class TFMOTByHand:
    """Before the t-th forward pass: the mask of step t where one is due, and the mask; what the update makes stays as it is until then."""

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, span: tuple[int, int, int], masks_at: Callable[[Tensor, int], Tensor]
    ) -> None:
        self.model, self.optimizer, self.span, self.masks_at, self.t = model, optimizer, span, masks_at, 0
        self.masks = {name: torch.ones_like(weight) for name, weight in weights(model).items()}

    def step(self, batch: Batch) -> None:
        self.t += 1
        for name, weight in weights(self.model).items():
            if due(self.t, *self.span):
                self.masks[name] = self.masks_at(weight.detach(), self.t)
            weight.data.mul_(self.masks[name])
        update(self.model, self.optimizer, batch)

    def masked(self) -> list[Tensor]:
        """The parameters as the next forward pass sees them, where no mask is due before it."""
        found = dict(self.model.named_parameters())
        return [(tensor * self.masks[name] if name in self.masks else tensor).detach() for name, tensor in found.items()]


def polynomial(initial: float, final: float, span: tuple[int, int, int], **more: float) -> dict[str, Any]:
    begin, end, frequency = span
    config = {"initial_sparsity": initial, "final_sparsity": final, "begin_step": begin, "end_step": end, "frequency": frequency, **more}
    return {"class_name": "PolynomialDecay", "config": config}


def constant(target: float, begin: int, **more: int) -> dict[str, Any]:
    return {"class_name": "ConstantSparsity", "config": {"target_sparsity": target, "begin_step": begin, **more}}


@pytest.mark.parametrize("span", [(0, 20, 5), (0, 20, 7), (0, 12, 1), (1, 17, 4), (2, 17, 4), (5, 20, 3), (1, 1, 4), (6, 6, 4)], ids=str)
def test_tfmot_step_for_step(span: tuple[int, int, int]) -> None:
    by_hand, pruned = network(), network()
    reference = TFMOTByHand(by_hand, sgd(by_hand), span, lambda weight, t: largest(weight, sparsity(t, span[0], span[1], (0.3, 0.7))))
    seen: list[list[Tensor]] = []
    for model in (by_hand, pruned):
        model.register_forward_pre_hook(lambda model, _: seen.append([parameter.detach().clone() for parameter in model.parameters()]))
    attach(optimizer := sgd(pruned), pruned, TFMOT(polynomial(0.3, 0.7, span)))
    for batch in batches(24):
        reference.step(batch)
        update(pruned, optimizer, batch)
        theirs, ours = seen[-2:]
        assert all(map(torch.equal, theirs, ours))
    assert all(map(torch.equal, reference.masked(), pruned.parameters()))


@pytest.mark.parametrize(("begin", "more"), [(0, {"frequency": 4}), (1, {"frequency": 4}), (0, {}), (3, {"end_step": 11, "frequency": 2})])
def test_the_constant_sparsity_of_tfmot(begin: int, more: dict[str, int]) -> None:
    span = (begin, more.get("end_step", -1), more.get("frequency", 100))
    by_hand, pruned = network(), network()
    reference = TFMOTByHand(by_hand, sgd(by_hand), span, lambda weight, t: largest(weight, np.float32(0.6)))
    attach(optimizer := sgd(pruned), pruned, TFMOT(constant(0.6, begin, **more)))
    for batch in batches(16):
        reference.step(batch)
        update(pruned, optimizer, batch)
        due_next = due(reference.t + 1, *span)
        assert due_next or all(map(torch.equal, reference.masked(), pruned.parameters()))


def test_m_by_n_counts_zeros_and_is_made_once() -> None:
    """One zero of every four along the input axis, the least; six inputs: of the last two the pad is the least."""
    model = network()
    dense = model[0].weight.detach().clone()
    attach(optimizer := sgd(model), model, TFMOT(constant(0.9, 0), weights=["0.weight"], sparsity_m_by_n=(1, 4)))
    expected = torch.ones(9, 6, dtype=torch.bool)
    expected[torch.arange(9), dense[:, :4].abs().argmin(1)] = False
    for batch in batches(5):
        assert torch.equal(model[0].weight != 0, expected)
        update(model, optimizer, batch)


def test_blocks_of_tfmot_lie_the_other_way_round() -> None:
    """A block of (3, 1) in a kernel [in, out] is three inputs of one output: (1, 3) in [out, in]."""
    model = network()
    means = model[0].weight.detach().abs().reshape(9, 2, 3).mean(2)
    attach(sgd(model), model, TFMOT(constant(0.5, 1), weights=["0.weight"], block_size=(3, 1)))
    expected = (means > means.flatten().sort().values[8])[:, :, None].expand(9, 2, 3).reshape(9, 6)
    assert torch.equal(model[0].weight != 0, expected)


ROUTES: list[Any] = [
    NeurST(target_sparsity=0.6, end_pruning_step=8, pruning_frequency=2),
    NeurST("ConstantSparsity", target_sparsity=0.4, begin_pruning_step=2, pruning_frequency=3, prune_vectors=True),
    TFMOT(polynomial(0.7, 0.2, (1, 9, 2))),
    TFMOT(constant(0.5, 0, frequency=3), weights=["matrices:*"], sparsity_m_by_n=(2, 3)),
    [(Window(0, 9, 2, "step"), Prune(Pruner({"0.weight": Ramp(0.8, 0.2)}), use_double_copies=True))],
    "version: 1\npruners: {p: {class: PolynomialDecayPruner, target_sparsity: 0.5, weights: '*.weight'}}\n"
    "policies: [{pruner: {instance_name: p, args: {after_step: true}}, starting_step: 2, ending_step: 9, frequency: 3}]",
]


@pytest.mark.filterwarnings("ignore::limbeck.ScheduleWarning")
@pytest.mark.parametrize("route", ROUTES, ids=["neurst", "constant", "tfmot", "m-by-n", "soft", "file"])
@pytest.mark.parametrize("late", [False, True])
def test_a_run_that_was_cut_off_goes_on_bit_for_bit(route: Any, late: bool) -> None:
    data = batches(11)

    def fresh() -> tuple[nn.Sequential, Optimizer]:
        model = network()
        return model, torch.optim.Adam(model.parameters(), lr=0.05)

    whole, optimizer = fresh()
    scheduler = attach(optimizer, whole, route)
    saved = []
    for batch in data:
        saved.append(copy.deepcopy((whole.state_dict(), optimizer.state_dict(), scheduler.state_dict())))
        update(whole, optimizer, batch)
    for step, (of_model, of_optimizer, of_scheduler) in enumerate(saved):
        model, optimizer = fresh()
        if late:
            scheduler = attach(optimizer, model, route)
            model.load_state_dict(of_model)
            scheduler.load_state_dict(of_scheduler)
        else:
            model.load_state_dict(of_model)
            scheduler = attach(optimizer, model, route, state=of_scheduler)
        optimizer.load_state_dict(of_optimizer)
        assert scheduler.clock.step == step
        for batch in data[step:]:
            update(model, optimizer, batch)
        assert same(model, whole)


# --- loops of all kinds ------------------------------------------------------------------------------------------------------------


RAMP, WINDOW = Pruner({"*.weight": Ramp(0.2, 0.6)}), Window(1, 6, 2, "step")


def plain(steps: int) -> nn.Module:
    model = network()
    attach(optimizer := sgd(model), model, RAMP, WINDOW)
    for batch in batches(steps):
        update(model, optimizer, batch)
    return model


def test_gradients_may_add_up_over_several_batches() -> None:
    model = network()
    scheduler = attach(optimizer := sgd(model), model, RAMP, WINDOW)
    for number, (x, y) in enumerate(batch for batch in batches(6) for _ in range(2)):
        (F.cross_entropy(model(x), y) / 2).backward()
        if number % 2:
            optimizer.step()
            optimizer.zero_grad()
    assert scheduler.clock.step == 6
    for one, other in zip(model.parameters(), plain(6).parameters(), strict=True):
        torch.testing.assert_close(one, other)
        assert torch.equal(one == 0, other == 0)


@pytest.mark.parametrize("fused", [False, True])  # a fused optimizer is called by the scaler whatever it found, with scaled gradients
def test_an_update_that_a_scaler_skips_is_no_step(fused: bool) -> None:
    model = network()
    scheduler = attach(optimizer := sgd(model, fused), model, RAMP, WINDOW)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0, growth_interval=1000)
    for number, (x, y) in enumerate(batches(5)):
        for scale in (float("inf"), 1.0) if number == 2 else (1.0,):
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(x), y) * scale).backward()
            scaler.step(optimizer)
            scaler.update()
    assert scheduler.clock.step == 5
    for one, other in zip(model.parameters(), plain(5).parameters(), strict=True):
        assert torch.equal(one == 0, other == 0)
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("fused", [False, True])
def test_penalties_and_scores_take_gradients_without_the_scale_of_a_scaler(fused: bool) -> None:
    def trained(scale: float) -> nn.Module:
        model = network()
        penalty = (Window(0, 9, unit="step"), Regularize(l1_regularizer({"0.weight": 0.05})))
        scores = (Window(3, 9, 3, "step"), Prune(taylor_pruner(["*.weight"], 0.5, "element")))
        scheduler = attach(optimizer := sgd(model, fused), model, [penalty, scores])
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)
        for number, (x, y) in enumerate(batches(6)):
            for factor in (float("inf"), 1.0) if number == 2 else (1.0,):
                optimizer.zero_grad()
                scaler.scale(F.cross_entropy(model(x), y) * factor).backward()
                scaler.step(optimizer)
                scaler.update()
        assert len(scheduler.masks) == 3
        return model

    assert same(trained(2.0**16), trained(2.0))


def test_lbfgs_evaluates_masked_weights_and_makes_one_step_a_call() -> None:
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    scheduler = attach(optimizer, model, RAMP, WINDOW)
    zeros, dropped = [], []

    for x, y in batches(6):

        def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
            zeros.append(int((model[0].weight == 0).sum()))
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)
        dropped.append(int((model[0].weight == 0).sum()))
    assert scheduler.clock.step == 6
    assert dropped == [int(0.2 * 54), int(0.2 * 54), int(0.55 * 54), int(0.55 * 54), int(0.6 * 54), int(0.6 * 54)]
    assert set(zeros) == {0, *dropped[:-1]}
    assert len(zeros) > 6


class Wrapped(Optimizer):
    """What Accelerate and Lightning put around an optimizer: an ``Optimizer`` whose own hooks never run."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.param_groups, self.state, self.defaults = optimizer.param_groups, optimizer.state, optimizer.defaults

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)


def test_the_optimizer_may_be_wrapped() -> None:
    model = network()
    attach(optimizer := Wrapped(Wrapped(sgd(model))), model, RAMP, WINDOW)
    for batch in batches(6):
        update(model, optimizer, batch)
    assert same(model, plain(6))


def test_a_learning_rate_and_a_penalty_of_a_file_move_by_step() -> None:
    text = """
version: 1
regularizers: {l1: {class: L1Regularizer, reg_regims: {0.weight: 0.01}}}
lr_schedulers: {halve: {class: StepLR, step_size: 1, gamma: 0.5}}
policies:
  - regularizer: {instance_name: l1}
    starting_step: 0
    ending_step: 2
  - lr_scheduler: {instance_name: halve}
    starting_step: 0
    ending_step: 2
"""
    model, by_hand = network(), network()
    attach(optimizer := sgd(model), model, text)
    reference = sgd(by_hand)
    for number, (x, y) in enumerate(batches(4)):
        update(model, optimizer, (x, y))
        reference.zero_grad()
        loss = F.cross_entropy(by_hand(x), y)
        (loss + 0.01 * by_hand[0].weight.abs().sum() if number < 2 else loss).backward()
        reference.step()
        for group in reference.param_groups:
            group["lr"] = 0.1 * 0.5 ** min(number + 1, 2)
        assert optimizer.param_groups[0]["lr"] == reference.param_groups[0]["lr"]
        for one, other in zip(model.parameters(), by_hand.parameters(), strict=True):
            torch.testing.assert_close(one, other)


def test_a_second_optimizer_makes_no_steps_and_masks_follow_it() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    first, second = (torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9) for layer in model)
    options = NeurST("constant_sparsity", target_sparsity=0.5, begin_pruning_step=1, pruning_frequency=2)
    scheduler = attach(
        first,
        model,
        [*(step.policy() for step in options.steps()), (Window(0, 9, unit="step"), Regularize(l1_regularizer({"0.weight": 0.01})))],
    )
    scheduler.attach(second)
    for step in range(5):
        first.zero_grad()
        second.zero_grad()
        (model(torch.ones(1, 4)).sum() * 0).backward()
        second.step()
        assert scheduler.clock.step == step
        assert not model[0].weight.grad.any(), "the penalty is added once, before the step of the first"
        assert not step or int(model[1].weight.count_nonzero()) == 8
        signs = model[0].weight.detach().sign()
        first.step()
        torch.testing.assert_close(model[0].weight.grad, 0.01 * signs)
        assert [int(layer.weight.count_nonzero()) for layer in model] == [8, 8]


def test_the_model_and_the_optimizer_stay_as_they_are() -> None:
    model = network()
    keys, types = list(model.state_dict()), [type(module) for module in model.modules()]
    attach(optimizer := sgd(model), model, RAMP, WINDOW)
    update(model, optimizer, batches(1)[0])
    assert list(model.state_dict()) == keys
    assert [type(module) for module in model.modules()] == types
    assert list(optimizer.state_dict()) == ["state", "param_groups"]


# --- which weights ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "pruned"),
    [
        ({}, ["0.weight", "3.weight"]),
        ({"prune_vectors": True}, ["0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"]),
        ({"pruning_variable_pattern": "3"}, ["3.weight"]),
        ({"pruning_variable_pattern": "weight", "prune_vectors": True}, ["0.weight", "1.weight", "3.weight"]),
        ({"nopruning_variable_pattern": "^0"}, ["3.weight"]),
        ({"nopruning_variable_pattern": "^0|bias$", "prune_vectors": True}, ["1.weight", "3.weight"]),
        ({"pruning_variable_pattern": "^3", "nopruning_variable_pattern": "weight"}, ["3.weight"]),  # the second is not used
    ],
)
def test_patterns_are_searched(options: dict[str, Any], pruned: list[str]) -> None:
    model = network()
    model[0].weight.requires_grad_(False)  # frozen variables are pruned there, too
    scheduler = attach(sgd(model), model, NeurST(target_sparsity=0.5, end_pruning_step=9, pruning_frequency=1, **options))
    assert list(scheduler.masks) == pruned


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pruning_variable_pattern": "encodr"}, r"no parameter matches 're:\.\*\(\?:encodr\)\.\*'; did you mean 'encoder'\?"),
        ({"nopruning_variable_pattern": "(ln/gamma)|(modalit)"}, "joined by dots, as in 'encoder.weight'"),
        ({"pruning_variable_pattern": "bias"}, "matches only biases and gains, as 'encoder.bias'; take 'matrices:' away"),
        ({"nopruning_variable_pattern": ""}, "no parameter matches"),
    ],
)
def test_a_pattern_that_finds_nothing_is_an_error(options: dict[str, str], message: str) -> None:
    model = nn.ModuleDict({"encoder": nn.Linear(2, 2)})
    with pytest.raises(TargetError, match=message):
        attach(sgd(model), model, NeurST(target_sparsity=0.5, end_pruning_step=200, **options))


# --- what is refused ----------------------------------------------------------------------------------------------------------------


EPOCHS = """version: 1
pruners:
  p: {class: SparsityLevelParameterPruner, levels: {0.weight: 0.5}}
policies:
  - pruner: {instance_name: p}
    epochs: [0, 2]
  - pruner: {instance_name: p}
    starting_step: 0
    ending_step: 2
"""


@pytest.mark.filterwarnings("ignore::limbeck.ScheduleWarning")
@pytest.mark.parametrize(
    ("given", "window", "message"),
    [
        (RAMP, None, r"a Pruner needs a window: .*unit='step'"),
        (RAMP, Window(0, 3), 'has a window by epoch, from 0 to 3.*unit="step"'),
        ([(Window(0, 3), Prune(RAMP))], None, "has a window by epoch"),
        ([(Window(0, 3, unit="step"), Prune(RAMP))], WINDOW, "each pair of a list has a window of its own; leave the window 1 to 6 out"),
        (NeurST(), WINDOW, "NeurST says itself when masks are renewed"),
        (EPOCHS, WINDOW, "a schedule file says in its policies when they fire"),
        (
            EPOCHS,
            None,
            r"line 5, policies\[0\]: counts epochs, and optimizer.step\(\) knows of steps alone; give starting_step and ending_step",
        ),
        ("nowhere.yaml", None, "cannot be read"),
        (Prune(RAMP, after_step=True), Window(0, 5, 5, "step"), "after_step counts steps from 1, and this window fires at step 0 alone"),
        ([RAMP], None, r"schedule\[0\] must be a pair \(Window, Action\), not a Pruner"),
    ],
)
def test_what_no_optimizer_can_drive_is_refused(given: Any, window: Window | None, message: str) -> None:
    model = network()
    with pytest.raises(ScheduleError, match=message):
        attach(sgd(model), model, given, window)


def test_epochs_in_a_file_are_told_together_with_all_its_other_faults() -> None:
    model = network()
    with pytest.raises(ScheduleError) as error:
        attach(sgd(model), model, EPOCHS.replace("0.weight", "0.wieght"))
    assert [fault.split(":")[0] for fault in error.value.faults] == ["line 3, pruners.p.levels['0.wieght']", "line 5, policies[0]"]


def test_an_optimizer_of_another_model_is_refused() -> None:
    with pytest.raises(ScheduleError, match="holds none of the model's parameters"):
        attach(sgd(network()), network(), RAMP, WINDOW)


def test_a_single_action_may_be_attached() -> None:
    model = network()
    scheduler = attach(sgd(model), model, Prune(Pruner({"0.weight": 0.5})), Window(0, 1, unit="step"))
    assert int(model[0].weight.count_nonzero()) == 27
    assert isinstance(scheduler, Scheduler)
    assert limbeck.attach is attach


def test_units_and_pools_go_the_same_way() -> None:
    model = network()
    attach(optimizer := sgd(model), model, Pruner({"0.weight": 0.34}, unit=Tile((1,))), Window(2, 3, unit="step"))
    for batch in batches(3):
        update(model, optimizer, batch)
    assert int((model[0].weight == 0).all(1).sum()) == 3


def test_a_model_in_the_place_of_the_optimizer_is_told_the_order() -> None:
    model: Any = network()
    optimizer: Any = sgd(model)
    with pytest.raises(TypeError, match=r"here the optimizer comes first, and the model second: attach\(optimizer, model"):
        attach(model, optimizer, RAMP, WINDOW)
