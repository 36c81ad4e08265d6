"""Each named pruner against the ancestor's formula, written down a second time here with plain torch on flat tensors."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from limbeck.errors import MaskError
from limbeck.pruning import (
    Prune,
    Pruner,
    Site,
    automated_gradual_pruner,
    baidu_rnn_pruner,
    level_pruner,
    magnitude_pruner,
    sensitivity_pruner,
    splicing_pruner,
)
from limbeck.scheduler import Scheduler
from limbeck.schedules import Moment, Window

SHAPE = (37, 53)
Reference = Callable[[Tensor, Tensor, int], Tensor]
"""``(weight, mask so far, epoch) -> mask``"""


class Bench:
    """One weight, pruned epoch by epoch by Limbeck and by a reference, and disturbed in between as an optimizer would."""

    def __init__(self, weight: Tensor, pruner: Pruner, window: Window) -> None:
        self.layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
        with torch.no_grad():
            self.layer.weight.copy_(weight)
        self.scheduler = Scheduler(self.layer, [(window, Prune(pruner))])
        self.window = window

    def follow(self, reference: Reference, epochs: int, disturb: float = 0.3) -> list[Tensor]:
        """The masks after each firing, each asserted equal to the reference's."""
        mask, masks = torch.ones_like(self.layer.weight, dtype=torch.bool), []
        fires = {moment.now for moment in self.window.firings()}
        for epoch in range(epochs):
            weight = self.layer.weight.detach().clone()
            self.scheduler.on_epoch_begin(epoch)
            if epoch in fires:
                mask = reference(weight, mask, epoch)
                assert torch.equal(self.scheduler.masks["weight"], mask), f"epoch {epoch}"
                assert torch.equal(self.layer.weight, torch.where(mask, weight, 0.0))
                masks.append(mask)
            with torch.no_grad():
                self.layer.weight.add_(disturb * torch.randn_like(weight))
            self.scheduler.on_minibatch_end(epoch, 0, 1)
            self.scheduler.on_epoch_end(epoch)
        return masks


def level_mask(weight: Tensor, kept: Tensor, sparsity: float) -> Tensor:
    """Sort all weights by magnitude, those already dropped and then lower indices first among equals; the first int(s * n) fall."""
    flat, alive = weight.reshape(-1).tolist(), kept.reshape(-1).tolist()
    order = sorted(range(len(flat)), key=lambda i: (abs(flat[i]), alive[i], i))
    mask = torch.ones(len(flat), dtype=torch.bool)
    mask[order[: int(sparsity * len(flat))]] = False
    return mask.reshape(weight.shape)


def agp_level(epoch: int, begin: int, end: int, every: int, start: float, stop: float) -> float:
    """Distiller's own lines: the span reaches to the last active epoch."""
    span = ((end - begin - 1) // every) * every
    return stop + (start - stop) * (1 - (epoch - begin) / span) ** 3


def test_magnitude() -> None:
    masks = Bench(torch.randn(SHAPE), magnitude_pruner({"weight": 0.4}), Window(0, 6)).follow(lambda weight, *_: weight.abs() > 0.4, 6)
    assert 0 < masks[0].count_nonzero() < masks[0].numel()


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_a_threshold_is_strict(threshold: float) -> None:
    weight = torch.tensor([[0.0, -0.0, 0.5, -0.5], [math.nextafter(0.5, 1), 0.25, -0.75, 1e-30]], dtype=torch.float64)
    masks = Bench(weight, magnitude_pruner({"*": threshold}), Window(0, 1)).follow(lambda weight, *_: weight.abs() > threshold, 1)
    assert masks[0].tolist() == [[False, False, threshold == 0, threshold == 0], [True, threshold == 0, True, threshold == 0]]


@pytest.mark.parametrize("level", [0.0, 0.1, 0.29, 0.5, 0.7, 0.999, 1.0])
def test_level(level: float) -> None:
    masks = Bench(torch.randn(SHAPE), level_pruner({"weight": level}), Window(0, 4)).follow(
        lambda w, kept, _: level_mask(w, kept, level), 4
    )
    assert {int(mask.numel() - mask.count_nonzero()) for mask in masks} == {int(level * math.prod(SHAPE))}


@given(st.lists(st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, 2.0]), min_size=1, max_size=24), st.floats(0, 1))
@settings(max_examples=60)
def test_level_with_ties_is_exact_and_prefers_the_dead(values: list[float], level: float) -> None:
    weight = torch.tensor([values])
    bench = Bench(weight, level_pruner({"weight": level}), Window(0, 3))
    for mask in bench.follow(lambda weight, kept, _: level_mask(weight, kept, level), 3, disturb=0.0):
        assert mask.numel() - int(mask.count_nonzero()) == int(level * len(values))


def test_a_level_too_small_for_a_single_weight_prunes_nothing() -> None:
    """The ancestor fails here with an IndexError."""
    masks = Bench(torch.randn(2, 5), level_pruner({"weight": 0.05}), Window(0, 1)).follow(lambda w, kept, _: level_mask(w, kept, 0.05), 1)
    assert masks[0].all()


def test_a_constant_tensor_is_not_pruned_as_a_whole() -> None:
    """The ancestor drops every weight that ties with the threshold."""
    masks = Bench(torch.ones(4, 5), level_pruner({"weight": 0.25}), Window(0, 1)).follow(lambda w, kept, _: level_mask(w, kept, 0.25), 1)
    assert masks[0].reshape(-1).tolist() == [False] * 5 + [True] * 15


@pytest.mark.parametrize(("begin", "end", "every", "start", "stop"), [(2, 20, 1, 0.05, 0.7), (1, 25, 3, 0.05, 0.85), (0, 18, 2, 0.8, 0.3)])
def test_agp_counts_are_exact_at_every_firing(begin: int, end: int, every: int, start: float, stop: float) -> None:
    def reference(weight: Tensor, kept: Tensor, epoch: int) -> Tensor:
        return level_mask(weight, kept, agp_level(epoch, begin, end, every, start, stop))

    masks = Bench(torch.randn(SHAPE), automated_gradual_pruner(start, stop, ["weight"]), Window(begin, end, every)).follow(
        reference, end + 2
    )
    n, fires = math.prod(SHAPE), range(begin, end, every)
    expected = [n - math.floor(agp_level(epoch, begin, end, every, start, stop) * n) for epoch in fires]
    assert [int(mask.count_nonzero()) for mask in masks] == expected
    assert expected[-1] == n - math.floor(stop * n)


@given(st.integers(1, 300), st.floats(0, 1), st.floats(0, 1), st.integers(2, 12), st.integers(1, 4))
@settings(max_examples=60)
def test_agp_law(n: int, start: float, stop: float, length: int, every: int) -> None:
    window = Window(1, 1 + length, every)
    bench = Bench(torch.randn(1, n), automated_gradual_pruner(start, stop, ["weight"]), window)
    for moment in window.firings():
        bench.scheduler.on_epoch_begin(moment.now)
        level = stop + (start - stop) * (1 - moment.progress) ** 3
        assert int(bench.scheduler.masks["weight"].count_nonzero()) == n - math.floor(level * n)
        if start <= stop:  # a falling sparsity brings weights back as zeros, to be trained
            assert int(bench.layer.weight.count_nonzero()) == n - math.floor(level * n)


def test_agp_over_listed_epochs() -> None:
    """The ancestor raises a TypeError here."""
    window = Window(only=(1, 2, 5))

    def reference(weight: Tensor, kept: Tensor, epoch: int) -> Tensor:
        return level_mask(weight, kept, agp_level(epoch, 1, 6, 1, 0.1, 0.6))

    assert len(Bench(torch.randn(SHAPE), automated_gradual_pruner(0.1, 0.6, ["weight"]), window).follow(reference, 7)) == 3


def test_agp_by_step() -> None:
    layer = nn.Linear(20, 20, bias=False)
    scheduler = Scheduler(layer, [(Window(2, 9, 3, "step"), Prune(automated_gradual_pruner(0.1, 0.7, ["weight"])))])
    counts = []
    for epoch in range(3):
        scheduler.on_epoch_begin(epoch)
        for step in range(4):
            scheduler.on_minibatch_begin(epoch, step, 4)
            counts.append(int(layer.weight.count_nonzero()))
            scheduler.on_minibatch_end(epoch, step, 4)
        scheduler.on_epoch_end(epoch)
    first, middle, last = (400 - math.floor(agp_level(step, 2, 9, 3, 0.1, 0.7) * 400) for step in (2, 5, 8))
    assert counts == [400, 400, *[first] * 3, *[middle] * 3, *[last] * 4]
    assert last == 120


def test_sensitivity_measures_the_dense_tensor_once() -> None:
    weight = torch.randn(SHAPE, dtype=torch.float64)
    threshold = 0.7 * float(weight.std())
    bench = Bench(weight, sensitivity_pruner({"weight": 0.7}), Window(1, 6, 2))
    with torch.no_grad():
        bench.layer.weight.mul_(2)  # before the window opens nothing has been measured
    bench.follow(lambda weight, *_: weight.abs() > 2 * threshold, 8, disturb=0.0)
    assert bench.scheduler.state_dict()["memo"] == {"weight": {"std": pytest.approx(2 * float(weight.std()), rel=1e-15)}}
    assert not torch.isclose(bench.layer.weight.std(), 2 * weight.std(), rtol=1e-3)  # a second measurement would give another mask


def test_sensitivity_keeps_its_measure_over_a_restart() -> None:
    pruner, window = sensitivity_pruner({"weight": 0.7}), Window(0, 9)
    first = Bench(torch.randn(SHAPE), pruner, window)
    first.scheduler.on_epoch_begin(0)
    second = Bench(first.layer.weight.detach(), pruner, window)
    second.scheduler.load_state_dict(first.scheduler.state_dict())
    for bench in (first, second):
        bench.scheduler.on_epoch_begin(1)
    assert torch.equal(first.layer.weight, second.layer.weight)
    assert second.scheduler.state_dict()["memo"] == first.scheduler.state_dict()["memo"]


def test_sensitivity_by_hand() -> None:
    weight = torch.tensor([[1.0, -1.0, 3.0, -3.0, 5.0, -5.0, 2.0, -2.0]], dtype=torch.float64)  # sum of squares 78: std = sqrt(78 / 7)
    std = math.sqrt(78 / 7)
    bench = Bench(weight, sensitivity_pruner({"weight": 2.5 / std}), Window(0, 1))
    assert bench.follow(lambda weight, *_: weight.abs() > 2.5, 1)[0].tolist() == [[False, False, True, True, True, True, False, False]]


@pytest.mark.parametrize("pruner", [sensitivity_pruner({"weight": 0.5}), splicing_pruner({"weight": 0.5}, 0.9, 1.1)])
@pytest.mark.parametrize(("value", "kept"), [(0.0, False), (3.0, True)])
@pytest.mark.parametrize("columns", [1, 6])
def test_a_tensor_without_deviation_has_a_threshold_all_the_same(pruner: Pruner, value: float, kept: bool, columns: int) -> None:
    bench = Bench(torch.full((1, columns), value), pruner, Window(0, 1))
    bench.scheduler.on_epoch_begin(0)
    assert bench.scheduler.masks["weight"].tolist() == [[kept] * columns]


@pytest.mark.parametrize("growth", [0.0, 0.25])
def test_splicing_drops_holds_and_revives(growth: float) -> None:
    weight = torch.randn(SHAPE, dtype=torch.float64)
    mean, deviation = float(weight.abs().mean()), float(weight.abs().std())
    revived = 0

    def reference(weight: Tensor, kept: Tensor, epoch: int) -> Tensor:
        sensitivity = 0.4 * (epoch * growth + 1)
        low, high = 0.8 * (mean + deviation * sensitivity), 1.1 * (mean + deviation * sensitivity)
        mask = kept.clone()
        mask[weight.abs() < low] = False
        mask[weight.abs() >= high] = True
        nonlocal revived
        revived += int((mask & ~kept).count_nonzero())
        return mask

    bench = Bench(weight, splicing_pruner({"weight": 0.4}, 0.8, 1.1, growth), Window(0, 12, 2))
    masks, mask = [], torch.ones(SHAPE, dtype=torch.bool)
    for epoch in range(12):  # a forward pass that is masked and weights that live on are soft pruning, so weights revive by hand here
        weight_now = bench.layer.weight.detach().clone()
        bench.scheduler.on_epoch_begin(epoch)
        if epoch % 2 == 0:
            mask = reference(weight_now, mask, epoch)
            assert torch.equal(bench.scheduler.masks["weight"], mask)
            masks.append(mask)
        with torch.no_grad():
            bench.layer.weight.add_(torch.randn(SHAPE, dtype=torch.float64))
        bench.scheduler.on_epoch_end(epoch)
    assert revived > 0
    assert bench.scheduler.state_dict()["memo"] == {"weight": {"mean": mean, "abs_std": deviation}}


def test_splicing_at_its_edges() -> None:
    weight = torch.tensor([[0.0, 4.0, 4.0, 8.0]], dtype=torch.float64)  # mean 4; sensitivity 0, so both thresholds are multiples of 4
    bench = Bench(weight, splicing_pruner({"weight": 0.0}, 1.0, 2.0), Window(0, 2))
    bench.scheduler.on_epoch_begin(0)
    assert bench.scheduler.masks["weight"].tolist() == [[False, True, True, True]]  # 4 is not below 4
    with torch.no_grad():
        bench.layer.weight.copy_(torch.tensor([[8.0, 3.9, 7.9, 4.0]]))
    bench.scheduler.on_epoch_begin(1)
    assert bench.scheduler.masks["weight"].tolist() == [[True, False, True, True]]  # 8 revives from 8 on


def test_baidu() -> None:
    begin, end, every, q, offset, mult = 4, 21, 3, 0.17, 3, 2.0

    def reference(weight: Tensor, _: Tensor, epoch: int) -> Tensor:
        ramp = begin + offset
        start_slope = 2 * q * every / (2 * (ramp - begin) + 3 * (end - ramp))
        if epoch < ramp:
            threshold = start_slope * (epoch - begin + 1) / every
        else:
            threshold = (start_slope * (ramp - begin + 1) + start_slope * mult * (epoch - ramp + 1)) / every
        return weight.abs() > threshold

    bench = Bench(0.2 * torch.randn(SHAPE), baidu_rnn_pruner(q, offset, mult, ["weight"]), Window(begin, end, every))
    counts = [int(mask.count_nonzero()) for mask in bench.follow(reference, 23, disturb=0.0)]
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) == 6


def test_one_baidu_pruner_serves_two_policies() -> None:
    """The ancestor caches the slopes of the first one."""
    pruner = baidu_rnn_pruner(0.2, 1, 2, ["weight"])
    early, late = Bench(torch.randn(SHAPE), pruner, Window(0, 5)), Bench(torch.randn(SHAPE), pruner, Window(0, 50, 5))
    early.scheduler.on_epoch_begin(0)
    late.scheduler.on_epoch_begin(0)
    for bench, slope in ((early, 2 * 0.2 / (2 + 3 * 4)), (late, 2 * 0.2 * 5 / (2 + 3 * 49))):
        expected = slope / bench.window.every
        assert bench.layer.weight[bench.layer.weight != 0].abs().min() > expected
        assert int(bench.layer.weight.count_nonzero()) == int(bench.scheduler.masks["weight"].count_nonzero())


def test_an_error_names_the_tensor() -> None:
    bench = Bench(torch.full((2, 3), math.nan), level_pruner({"weight": 0.5}), Window())
    with pytest.raises(MaskError, match=r"'weight': 6 of 6 \w+ are NaN"):
        bench.scheduler.on_epoch_begin(0)
    with pytest.raises(MaskError, match="'weight': ramp_epoch_offset 9 must lie within the window: from 0 to 3 epochs"):
        baidu_rnn_pruner(0.2, 9, 2, ["weight"]).masks({"weight": Site(torch.randn(2, 3))}, Moment(0, 0, 3))


def test_splicing_refuses_a_low_threshold_above_the_high_one() -> None:
    with pytest.raises(ValueError, match=r"low_thresh_mult 1.1 is above hi_thresh_mult 0.9, .*; let it be the lower one, or equal"):
        splicing_pruner({"weight": 0.5}, 1.1, 0.9)
    assert splicing_pruner({"weight": 0.5}, 0.9, 0.9).targets == {"weight": 0.5}
