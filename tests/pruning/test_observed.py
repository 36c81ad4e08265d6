"""Pruners that score by what training shows, each against a plain loop that takes the same numbers down by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from limbeck.errors import MaskError, ScheduleError
from limbeck.pruning import Prune, Pruner, Site
from limbeck.pruning.calibrated import wanda_pruner
from limbeck.pruning.composed import composed_pruner
from limbeck.pruning.observed import (
    OBSERVED_PRUNERS,
    following_pruner,
    gradient_ranked_filter_pruner,
    mean_ranked_filter_pruner,
    movement_pruner,
    network_slimming_pruner,
    rigl_pruner,
    snip_pruner,
    taylor_pruner,
)
from limbeck.pruning.observed_criteria import Observed, Regrowth, apoz, mean_activation
from limbeck.scheduler import Scheduler
from limbeck.schedules import Moment, Window
from limbeck.tile import FILTERS

BATCHES = 4
CONV, BARE, HEAD = "conv.weight", "bare.weight", "head.weight"


class Net(nn.Module):
    """A convolution with batch norm, one without, and a Linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.bare, self.head = nn.Conv2d(8, 6, 3, padding=1), nn.Linear(6, 5)
        self.seen: dict[str, list[Tensor]] = {CONV: [], BARE: [], HEAD: []}

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.note(CONV, self.bn(self.conv(x))))
        x = F.relu(self.note(BARE, self.bare(x)), inplace=True).mean((2, 3))
        return self.note(HEAD, self.head(x))

    def note(self, name: str, x: Tensor) -> Tensor:
        self.seen[name].append(x.detach().clone())
        return x


class Run:
    """Some epochs of training under one pruner, and what a reference takes down of each step."""

    def __init__(self, pruner: Pruner, window: Window | None = None, **options: Any) -> None:
        torch.manual_seed(3)
        self.net = Net()
        with torch.no_grad():
            self.net.bn.weight.uniform_(0.2, 2)
            self.net.bn.bias.normal_()
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9)
        window = window or Window(1, 2)
        self.scheduler = Scheduler(self.net, [(window, Prune(pruner, **options))], self.optimizer)
        self.gradients: list[dict[str, tuple[Tensor, Tensor]]] = []
        self.outputs: dict[str, list[Tensor]] = {}

    def train(self, epochs: int = 2) -> Run:
        generator = torch.Generator().manual_seed(5)
        data = [(torch.randn(3, 2, 5, 5, generator=generator), torch.randn(3, 5, generator=generator)) for _ in range(BATCHES)]
        for _ in self.scheduler.epochs(epochs):
            for x, y in self.scheduler.steps(data):
                loss = self.scheduler.loss(F.mse_loss(self.net(x), y))
                self.optimizer.zero_grad()
                loss.backward()
                self.gradients.append({name: self.taken(weight) for name, weight in self.net.named_parameters()})
                self.optimizer.step()
        return self

    @staticmethod
    def taken(weight: nn.Parameter) -> tuple[Tensor, Tensor]:
        assert weight.grad is not None
        return weight.detach().clone(), weight.grad.clone()

    def products(self, name: str, steps: slice = slice(BATCHES)) -> list[Tensor]:
        """Weight times gradient of each step, as observed before the first firing."""
        return [weight * grad for weight, grad in (step[name] for step in self.gradients[steps])]

    def gates(self, name: str) -> Tensor:
        """How the loss changes with a factor on what each filter makes of its input, step by step: ``[steps, filters]``."""
        held = "bn.weight" if name == CONV else name
        return torch.stack([(weight * grad).reshape(len(weight), -1).sum(1) for weight, grad in (step[held] for step in self.gradients)])

    def dropped(self, name: str) -> set[int]:
        """The filters that are dropped as a whole; no other is touched."""
        mask = self.scheduler.masks[name].flatten(1)
        assert torch.equal(mask.any(1), mask.all(1))
        return {row for row, kept in enumerate(mask.any(1).tolist()) if not kept}


def lowest(scores: Tensor, count: int) -> set[int]:
    return set(torch.argsort(scores)[:count].tolist())


def channel_scores(run: Run, name: str, measure: Callable[[Tensor], Tensor]) -> Tensor:
    seen = torch.cat(run.net.seen[name][:BATCHES])
    return torch.stack([measure(seen[:, channel]) for channel in range(seen.shape[1])])


MEASURES: dict[str, Callable[[Tensor], Tensor]] = {
    "ActivationAPoZRankedFilterPruner": lambda channel: (F.relu(channel) != 0).float().mean(),
    "ActivationMeanRankedFilterPruner": lambda channel: F.relu(channel).mean(),
}


@pytest.mark.parametrize("kind", MEASURES)
@pytest.mark.parametrize("name", [CONV, BARE, HEAD])
def test_activations_are_those_behind_the_filter_of_the_epoch_before(kind: str, name: str) -> None:
    run = Run(OBSERVED_PRUNERS[kind]("Filters", 0.5, [name])).train()
    scores = channel_scores(run, name, MEASURES[kind])
    assert run.dropped(name) == lowest(scores, len(scores) // 2)


def test_the_lowest_mean_falls_and_the_ancestor_s_order_is_the_other_one() -> None:
    scores = channel_scores(Run(mean_ranked_filter_pruner("3D", 0.25, [CONV])).train(), CONV, MEASURES["ActivationMeanRankedFilterPruner"])
    run, old = (Run(mean_ranked_filter_pruner("3D", 0.25, [CONV], highest_first=order)).train() for order in (False, True))
    assert run.dropped(CONV) == lowest(scores, 2)
    assert old.dropped(CONV) == lowest(-scores, 2)


def test_gradients_rank_by_the_size_of_each_step_s_sum_and_the_ancestor_by_the_sign() -> None:
    run, old = (Run(gradient_ranked_filter_pruner("Filters", 0.5, [BARE], signed=signed)).train() for signed in (False, True))
    sums = torch.stack([product.sum((1, 2, 3)) for product in run.products(BARE)])
    assert run.dropped(BARE) == lowest(run.gates(BARE)[:BATCHES].abs().sum(0), 3)
    assert old.dropped(BARE) == lowest(sums.sum(0), 3)
    assert run.dropped(BARE) != old.dropped(BARE)


@pytest.mark.parametrize("kind", [kind for kind in OBSERVED_PRUNERS if kind.endswith("_AGP")])
def test_agp_reaches_what_its_ramp_says(kind: str) -> None:
    pruner = OBSERVED_PRUNERS[kind](0.0, 0.5, "Filters", [CONV])
    for epoch, count in ((0, 0), (1, 3), (2, 4)):  # 8 filters: .5 + (0 - .5) * (1 - e / 2) ** 3 = 0, .4375, .5
        assert len(Run(pruner, Window(0, 3)).train(epoch + 1).dropped(CONV)) == count


def test_a_leader_decides_for_all() -> None:
    class Residual(Net):
        def __init__(self) -> None:
            super().__init__()
            self.bare, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            y = F.relu(self.bn(self.conv(x)))
            made: Tensor = self.head((y + F.relu(self.bare(y))).mean((2, 3)))
            return made

    net = Residual()
    alone = OBSERVED_PRUNERS["ActivationAPoZRankedFilterPruner"]("Filters", 0.5, [BARE])
    led = OBSERVED_PRUNERS["ActivationAPoZRankedFilterPruner"]("Filters", 0.5, [BARE, CONV], "Leader")
    one, both = (Scheduler(net, [(Window(0, 1), Prune(pruner))]) for pruner in (alone, led))
    torch.manual_seed(0)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for scheduler in (one, both):
        net.load_state_dict(before)
        for _ in scheduler.epochs(1):
            for x in scheduler.steps([torch.randn(3, 2, 5, 5, generator=torch.Generator().manual_seed(1))] * 2):
                net(x).sum().backward()
    kept = one.masks[BARE].flatten(1).any(1)
    assert kept.count_nonzero() == 4
    assert torch.equal(both.masks[BARE].flatten(1).any(1), kept)
    assert torch.equal(both.masks[CONV].flatten(1).any(1), kept)


def test_taylor_ranks_filters_of_all_tensors_together() -> None:
    run = Run(taylor_pruner([CONV, BARE], 0.5)).train()
    fallen = lowest(torch.cat([run.gates(name)[:BATCHES].square().sum(0) for name in (CONV, BARE)]), 7)
    assert run.dropped(CONV) == {row for row in fallen if row < 8}
    assert run.dropped(BARE) == {row - 8 for row in fallen if row >= 8}


@pytest.mark.parametrize("name", [CONV, BARE])
def test_a_gate_is_a_factor_on_what_a_filter_gives(name: str) -> None:
    run = Run(taylor_pruner([CONV, BARE], 0.0), Window(0, 1))
    net, gate = run.net, torch.ones(8 if name == CONV else 6, requires_grad=True)
    layer = net.bn if name == CONV else net.bare
    x, y = torch.randn(3, 2, 5, 5), torch.zeros(3, 5)

    def factor(module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        bias = module.get_parameter("bias")[:, None, None]  # stays
        return (output - bias) * gate[:, None, None] + bias

    with layer.register_forward_hook(factor):
        (derivative,) = torch.autograd.grad(F.mse_loss(net(x), y), gate)
    F.mse_loss(net(x), y).backward()
    run.gradients.append({key: run.taken(weight) for key, weight in net.named_parameters()})
    assert derivative.abs().min() > 1e-6
    assert torch.allclose(run.gates(name)[0], derivative, atol=1e-6)


def test_a_filter_that_fell_before_a_batch_norm_stays_fallen() -> None:
    run = Run(taylor_pruner([CONV], 0.25), Window(0, 3)).train(1)
    first = run.dropped(CONV)
    assert run.train(3).dropped(CONV) == first


@pytest.mark.parametrize("copies", [False, True])
def test_movement_adds_up_over_renewals(copies: bool) -> None:
    run = Run(movement_pruner([HEAD], 0.5), Window(1, 3), use_double_copies=copies).train(2)
    first = run.scheduler.masks[HEAD].clone()
    assert torch.equal(first.flatten(), kept_of(-sum_of(run.products(HEAD)).flatten(), 15))
    run.train(3)
    moved = [weight * grad for weight, grad in (step[HEAD] for step in run.gradients)]
    dense = [step[HEAD][0] for step in run.gradients[BATCHES : 2 * BATCHES]]
    assert all((weight[~first] == 0).all() for weight in dense)  # in the forward pass
    if not copies:
        expected = kept_of(-sum_of(moved[: 2 * BATCHES]).flatten(), 15)
        assert torch.equal(run.scheduler.masks[HEAD].flatten(), expected)


def sum_of(values: list[Tensor]) -> Tensor:
    total = torch.zeros_like(values[0])
    for value in values:
        total += value
    return total


def kept_of(scores: Tensor, dropped: int) -> Tensor:
    keep = torch.ones(len(scores), dtype=torch.bool)
    keep[torch.argsort(scores)[:dropped]] = False
    return keep


def test_a_weight_that_moves_away_from_zero_behind_a_soft_mask_comes_back() -> None:
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0.5]]))
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    pruner = movement_pruner(["weight"], 0.5)
    scheduler = Scheduler(layer, [(Window(1, 9, unit="step"), Prune(pruner, use_double_copies=True))], optimizer)
    # -w * g of each step: (.1, 0) drops the second; then its dense copy .5 moves by .4: -.5 * -.4 = .2 outdoes .1
    steps, masks = [(-0.1, 0.0), (0.0, -0.4), (0.0, 0.0)], []
    for _ in scheduler.epochs(1):
        for gradient in scheduler.steps(steps):
            masks.append(scheduler.masks["weight"].flatten().tolist() if "weight" in scheduler.masks else None)
            layer.weight.grad = torch.tensor([gradient])
            optimizer.step()
    assert masks == [None, [True, False], [False, True]]


def test_snip_scores_the_first_batch_and_prunes_before_the_second() -> None:
    run = Run(snip_pruner([CONV, BARE, HEAD], 0.9), Window(only=(0,))).train(1)
    names = (CONV, BARE, HEAD)
    scores = torch.cat([run.gradients[0][name][0].mul(run.gradients[0][name][1]).abs().flatten() for name in names])
    keep = kept_of(scores, math.floor(0.9 * len(scores)))
    masks = torch.cat([run.scheduler.masks[name].flatten() for name in names])
    assert torch.equal(masks, keep)
    assert all((run.gradients[1][name][0] != 0).sum() <= run.scheduler.masks[name].sum() for name in names)


def test_slimming_drops_the_smallest_scales_of_all_norms_and_their_biases_follow() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([0.9, -0.1, 0.8, 0.2]))
        model[1].weight.copy_(torch.tensor([0.7, 0.3, -0.6, 0.5]))
        for norm in model:
            norm.bias.fill_(1.0)
    window = Window(0, 1)
    policies = [(window, Prune(network_slimming_pruner(["*.weight"], 0.375))), (window, Prune(following_pruner(["*.bias"])))]
    Scheduler(model, policies).on_epoch_begin(0)
    assert model[0].weight.tolist() == [pytest.approx(0.9), 0, pytest.approx(0.8), 0]
    assert model[0].bias.tolist() == [1, 0, 1, 0]
    assert model[1].bias.tolist() == [1, 0, 1, 1]


def test_a_bias_follows_its_filter() -> None:
    net = Net()
    with torch.no_grad():
        net.conv.weight[[1, 4]] = 0
        net.head.weight[2] = 0
    Scheduler(net, [(Window(0, 1), Prune(following_pruner(["conv.bias", "head.bias"])))]).on_epoch_begin(0)
    assert (net.conv.bias == 0).nonzero().flatten().tolist() == [1, 4]
    assert (net.head.bias == 0).nonzero().flatten().tolist() == [2]


@pytest.mark.parametrize(("model", "name"), [(nn.ConvTranspose2d(4, 4, 3), "bias"), (nn.LSTM(2, 2), "bias_ih_l0")])
def test_what_has_no_weight_beside_it_cannot_follow(model: nn.Module, name: str) -> None:
    scheduler = Scheduler(model, [(Window(0, 1), Prune(following_pruner([name])))])
    with pytest.raises(MaskError, match=f"'{name}' has no 'weight' of"):
        scheduler.on_epoch_begin(0)


@pytest.mark.parametrize(
    ("pruner", "message"),
    [
        (following_pruner([HEAD]), r"'head.weight' has a shape of \(5, 6\), and what follows is a vector; name the biases of modules"),
        (following_pruner(["bn.weight"]), "'bn.weight' is what a bias follows; name the biases of modules whose weight is pruned"),
        (network_slimming_pruner([HEAD], 0.5), r"'head.weight' is no scale of a batch norm: it has a shape of \(5, 6\)"),
        (network_slimming_pruner(["bn.*"], 0.5), "^'bn.bias' is no scale of a batch norm: its name says that it is a bias"),
        (wanda_pruner(["bn.weight"], 0.5), r"'bn.weight' has a shape of \(8,\), and is weighed by the inputs of a layer"),
        (
            composed_pruner([HEAD], 0.5, apoz),
            "'head.weight' is scored by the activations of its filters, and its units are no whole filters",
        ),
        (composed_pruner([CONV], 0.5, mean_activation, "channels"), "'conv.weight' is scored .* and its units are no whole filters"),
        (composed_pruner(["conv.bias"], 0.5, apoz), "'conv.bias' is scored by the activations of its filters, which a vector lacks"),
        (composed_pruner([HEAD], criterion=apoz, n_of_m="2:4"), "'head.weight' is scored .* and its units are no whole filters"),
    ],
    ids=[str(number) for number in range(9)],  # workers must agree on them
)
def test_what_cannot_be_scored_is_refused_before_training(pruner: Pruner, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        Scheduler(Net(), [(Window(0, 1), Prune(pruner))])


# --- RigL ---------------------------------------------------------------------------------------------------------------------------------


def test_regrowth_by_hand() -> None:
    """Ten weights of which four are kept, half-way: .5 / 2 * (1 + cos(pi / 2)) of 4 is one that leaves for the largest gradient elsewhere."""
    weight = torch.tensor([4.0, -3.0, 0.5, 2.0, 0, 0, 0, 0, 0, 0])[None]
    grad = torch.tensor([9.0, 9.0, 1.0, 0.3, 0.5, 2.0, 3.0, 0.1, 0.0, 2.5])[None]
    site = Site(weight, weight != 0, stats={"regrowth": grad})
    pruner = Pruner({"w": 0.6}, score=Regrowth(drop_fraction=0.5))
    moments = {at: Moment(at, 0, 101) for at in (0, 50, 100)}
    masks = {at: pruner.masks({"w": site}, moment)["w"][0] for at, moment in moments.items()}
    assert masks[0].nonzero().flatten().tolist() == [0, 1, 6, 9]  # two of four move
    assert masks[50].nonzero().flatten().tolist() == [0, 1, 3, 6]  # one moves
    assert masks[100].nonzero().flatten().tolist() == [0, 1, 2, 3]  # none does at the end


def test_what_leaves_may_come_back_at_once() -> None:
    weight, grad = torch.tensor([[4.0, 0.5, 0.0]]), torch.tensor([[0.0, 7.0, 6.0]])
    site = Site(weight, weight != 0, stats={"regrowth": grad})
    assert Pruner({"w": 0.34}, score=Regrowth(1.0)).masks({"w": site}, Moment(0, 0, 3))["w"].tolist() == [[False, True, True]]


@given(st.integers(2, 60), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.integers(0, 10))
@settings(max_examples=80, deadline=None)
def test_regrowth_keeps_the_count_exactly(size: int, before: float, sparsity: float, fraction: float, now: int) -> None:
    weight, grad = torch.randn(1, size).bfloat16().float(), torch.randn(1, size).bfloat16().float().abs()
    keep = kept_of(torch.rand(size), min(int(before * size), size - 1))[None]
    site = Site(weight * keep, keep, stats={"regrowth": grad})
    mask = Pruner({"w": sparsity}, score=Regrowth(fraction)).masks({"w": site}, Moment(now, 0, 11))["w"]
    places = 0 if sparsity == 1 else max(size - math.floor(sparsity * size), 1)
    assert mask.count_nonzero() == places
    survivors = min(places - math.floor(fraction / 2 * (1 + math.cos(math.pi * now / 10)) * places), int(keep.count_nonzero()))
    ranked = torch.where(keep, weight.abs(), -1.0).flatten().sort(descending=True).values
    if survivors:
        assert mask.flatten()[weight.mul(keep).abs().flatten() > ranked[survivors - 1]].all()


@pytest.mark.parametrize("start", ["random", "magnitude"])
def test_the_first_mask_of_rigl(start: Any) -> None:
    weight = torch.randn(30, 20)
    first, again = (rigl_pruner(["w"], 0.7, start=start).masks({"w": Site(weight)}, Moment(0, 0, 9))["w"] for _ in range(2))
    other = rigl_pruner(["w"], 0.7, start=start, seed=1).masks({"w": Site(weight)}, Moment(0, 0, 9))["w"]
    assert first.count_nonzero() == 180
    assert torch.equal(first, again)
    magnitude = kept_of(weight.abs().flatten(), 420).reshape(30, 20)
    assert torch.equal(first, magnitude) == torch.equal(first, other) == (start == "magnitude")


def test_rigl_starts_at_once_and_moves_connections_by_the_last_gradient() -> None:
    run = Run(rigl_pruner([BARE], 0.5, drop_fraction=0.4), Window(0, 3), mask_gradients=True)
    masks = []
    for epoch in range(3):
        run.train(epoch + 1)
        masks.append(run.scheduler.masks[BARE].clone())
    assert {int(mask.count_nonzero()) for mask in masks} == {216}
    assert (run.gradients[0][BARE][0] == 0).sum() == 216  # sparse from the first forward pass on
    assert torch.equal(masks[1], masks[2])  # the last firing moves none
    kept, grown = masks[0], masks[1] & ~masks[0]
    assert 0 < grown.count_nonzero() <= math.floor(0.2 * 216)  # half-way: .4 / 2 * (1 + cos(pi / 2))
    assert (run.gradients[BATCHES][BARE][0][grown] == 0).all()  # what grows starts at zero
    grad = run.gradients[BATCHES - 1][BARE][1].abs()
    assert grad[grown].min() >= grad[~masks[1] & ~kept].max()


def test_without_a_gradient_nothing_grows() -> None:
    weight = torch.tensor([[4.0, -3.0, 0.5, 0.0]])
    keep = weight != 0
    masks = Pruner({"w": 0.5}, score=Regrowth()).masks({"w": Site(weight, keep)}, Moment(1, 0, 3))
    assert masks["w"].tolist() == [[True, True, False, False]]


# --- all ----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in OBSERVED_PRUNERS if kind not in ("RigLPruner", "NetworkSlimmingPruner")])
def test_what_was_not_observed_is_named(kind: str) -> None:
    structured = {"group_type": "Filters", "weights": ["w"]}
    if kind.endswith("_AGP"):
        pruner = OBSERVED_PRUNERS[kind](initial_sparsity=0.1, final_sparsity=0.5, **structured)
    elif kind.endswith("FilterPruner"):
        pruner = OBSERVED_PRUNERS[kind](desired_sparsity=0.5, **structured)
    else:
        pruner = OBSERVED_PRUNERS[kind](["w"], *[] if kind == "FollowingPruner" else [0.5])
    assert isinstance(pruner.score, Observed)
    with pytest.raises(MaskError, match=f"'w': nothing has observed '{pruner.needs.key}'"):
        pruner.masks({"w": Site(torch.randn(4, 3))}, Moment())


@pytest.mark.parametrize("pruner", [taylor_pruner([CONV], 0.5), OBSERVED_PRUNERS["ActivationAPoZRankedFilterPruner"]("3D", 0.5, [CONV])])
def test_a_first_firing_waits_for_what_it_needs(pruner: Pruner) -> None:
    run = Run(pruner, Window(0, 1)).train(1)
    assert len(run.dropped(CONV)) == 4
    assert (run.gradients[0][CONV][0] != 0).all()
    assert (run.gradients[1][CONV][0].flatten(1) == 0).all(1).sum() == 4


def test_activations_of_what_has_no_filters_are_refused() -> None:
    lstm = nn.LSTM(2, 3)
    pruner = OBSERVED_PRUNERS["ActivationAPoZRankedFilterPruner"]("3D", 0.5, ["weight_ih_l0"])
    scheduler = Scheduler(lstm, [(Window(0, 1), Prune(pruner))])

    def train() -> None:
        for _ in scheduler.epochs(1):
            for x in scheduler.steps([torch.randn(4, 1, 2)]):
                lstm(x)

    with pytest.raises(MaskError, match="'weight_ih_l0': no measurable output"):
        train()


RESUMED: dict[str, Pruner] = {
    "apoz": OBSERVED_PRUNERS["ActivationAPoZRankedFilterPruner_AGP"](0.1, 0.5, "Filters", [CONV, BARE]),
    "movement": movement_pruner([CONV, BARE, HEAD], 0.5),
    "taylor": taylor_pruner([CONV, BARE], 0.5),
    "rigl": rigl_pruner([CONV, BARE], 0.5),
}


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("stop", [1, BATCHES, BATCHES + 2])
@pytest.mark.parametrize("options", [{}, {"use_double_copies": True, "mask_gradients": True}], ids=["hard", "soft"])
def test_a_resumed_run_ends_as_the_one_that_was_not_interrupted(name: str, stop: int, options: dict[str, bool]) -> None:
    def train(run: Run, until: int) -> Run:
        generator = torch.Generator().manual_seed(5)
        data = [(torch.randn(3, 2, 5, 5, generator=generator), torch.randn(3, 5, generator=generator)) for _ in range(BATCHES)]
        for _ in run.scheduler.epochs(3):
            for x, y in run.scheduler.steps(data):
                loss = run.scheduler.loss(F.mse_loss(run.net(x), y))
                run.optimizer.zero_grad()
                loss.backward()
                run.optimizer.step()
                if run.scheduler.clock.step + 1 == until:
                    run.scheduler.on_minibatch_end(run.scheduler.clock.epoch, run.scheduler.clock.minibatch, BATCHES)
                    return run
        return run

    whole = train(Run(RESUMED[name], Window(0, 3), **options), -1)
    part, rest = train(Run(RESUMED[name], Window(0, 3), **options), stop), Run(RESUMED[name], Window(0, 3), **options)
    rest.net.load_state_dict(copy.deepcopy(part.net.state_dict()))
    rest.scheduler.load_state_dict(copy.deepcopy(part.scheduler.state_dict()))
    rest.optimizer.load_state_dict(copy.deepcopy(part.optimizer.state_dict()))
    train(rest, -1)
    assert all(torch.equal(one, other) for one, other in zip(whole.net.parameters(), rest.net.parameters(), strict=True))
    assert rest.scheduler.clock == whole.scheduler.clock


def test_folding_a_batch_norm_ranks_what_it_makes_of_the_filters() -> None:
    run = Run(Pruner({CONV: 0.5, HEAD: 0.5}, unit=FILTERS), Window(0, 1), fold_batchnorm=True)
    with torch.no_grad():
        run.net.bn.weight.copy_(torch.tensor([0.01, 5, 0.01, 5, 0.01, 5, 0.01, 5]))
    run.train(1)
    assert run.dropped(CONV) == {0, 2, 4, 6}
    head, _ = run.gradients[0][HEAD]
    assert run.dropped(HEAD) == lowest(head.abs().sum(1), 2)
