"""The pruners of structures against the ancestor's formulas, written down a second time here, and against its counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from limbeck.errors import MaskError
from limbeck.pruning import Prune, Pruner, Site
from limbeck.pruning.structures import (
    STRUCTURE_PRUNERS,
    bernoulli_filter_pruner,
    bernoulli_filter_pruner_agp,
    geometric_median_pruner,
    l1_ranked_structure_pruner,
    l1_ranked_structure_pruner_agp,
    l2_ranked_structure_pruner,
    l2_ranked_structure_pruner_agp,
    random_level_structure_pruner,
    random_ranked_filter_pruner,
    random_ranked_filter_pruner_agp,
    structure_pruner,
)
from limbeck.scheduler import Scheduler
from limbeck.schedules import Moment, Window

CONVOLUTION = torch.randn(16, 8, 3, 3, generator=torch.Generator().manual_seed(1))
MATRIX = torch.randn(12, 10, generator=torch.Generator().manual_seed(2))


def mask(pruner: Pruner, weight: Tensor, moment: Moment | None = None) -> Tensor:
    return pruner.masks({"w": Site(weight)}, moment or Moment())["w"]


def dropped(keep: Tensor) -> int:
    """How many filters or rows are dropped whole."""
    return int((~keep.flatten(1).any(1)).sum())


# Distiller's (structures, fraction) -> how many fall: facts/distiller.md, 2.5
COUNTS = [(16, 0.6, 9), (16, 0.7, 11), (16, 0.1, 1), (16, 0.99, 15), (16, 1.0, 16), (10, 0.95, 9), (2, 0.99, 1)]


@pytest.mark.parametrize(("filters", "fraction", "count"), COUNTS)
@pytest.mark.parametrize("builder", [l1_ranked_structure_pruner, l2_ranked_structure_pruner, geometric_median_pruner])
def test_counts(builder: Callable[..., Pruner], filters: int, fraction: float, count: int) -> None:
    weight = torch.randn(filters, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    assert dropped(mask(builder("Filters", fraction, ["w"]), weight)) == count
    assert dropped(mask(random_ranked_filter_pruner("3D", fraction, ["w"]), weight)) == count


def lowest(scores: Tensor, fraction: float) -> Tensor:
    """Distiller's criterion where no scores are equal: what exceeds the n-th smallest."""
    return scores > scores.flatten().sort().values[int(fraction * scores.numel()) - 1]


def by_blocks(weight: Tensor, power: int, fraction: float) -> Tensor:
    """Distiller's view of blocks of [1, 8, 1, 1]: (filters * channels / 8, 8, kernel places)."""
    filters, channels, *kernel = weight.shape
    view = weight.view(filters * channels // 8, 8, math.prod(kernel))
    keep = lowest(view.abs().pow(power).sum(1), fraction)
    return keep[:, None].expand_as(view).reshape(weight.shape)


REFERENCES: dict[str, Callable[[Tensor, int, float], Tensor]] = {
    "3D": lambda w, p, f: lowest(w.abs().pow(p).sum((1, 2, 3), keepdim=True), f).expand_as(w),
    "Filters": lambda w, p, f: lowest(w.abs().pow(p).sum((1, 2, 3), keepdim=True), f).expand_as(w),
    "Channels": lambda w, p, f: lowest(w.abs().pow(p).sum((0, 2, 3), keepdim=True), f).expand_as(w),
    "2D": lambda w, p, f: lowest(w.abs().pow(p).sum((2, 3), keepdim=True), f).expand_as(w),
    "Blocks": by_blocks,
}


@pytest.mark.parametrize("kind", REFERENCES)
@pytest.mark.parametrize(("builder", "power"), [(l1_ranked_structure_pruner, 1), (l2_ranked_structure_pruner, 2)])
def test_ranks_of_a_convolution(builder: Callable[..., Pruner], power: int, kind: str) -> None:
    kwargs = {"block_shape": [1, 8, 1, 1]} if kind == "Blocks" else None
    found = mask(builder(kind, 0.6, ["w"], kwargs=kwargs), CONVOLUTION)
    assert torch.equal(found, REFERENCES[kind](CONVOLUTION, power, 0.6))


def test_ranks_of_a_matrix() -> None:
    rows, columns = lowest(MATRIX.abs().sum(1), 0.5), lowest(MATRIX.abs().sum(0), 0.5)
    for kind in ("Rows", "Filters"):
        assert torch.equal(mask(l1_ranked_structure_pruner(kind, 0.5, ["w"]), MATRIX), rows[:, None].expand_as(MATRIX))
    for kind in ("Cols", "Channels"):
        assert torch.equal(mask(l1_ranked_structure_pruner(kind, 0.5, ["w"]), MATRIX), columns.expand_as(MATRIX))
    old = l1_ranked_structure_pruner("Rows", 0.5, ["w"], rows_are_columns=True)
    assert torch.equal(mask(old, MATRIX), columns.expand_as(MATRIX))
    with pytest.raises(ValueError, match="rows_are_columns goes with the group type Rows, not with Filters"):
        l1_ranked_structure_pruner("Filters", 0.5, ["w"], rows_are_columns=True)


def test_a_ramp_follows_the_ancestor_s_levels() -> None:
    """resnet20_filters.schedule_agp.yaml, 0.1 to 0.5 in epochs 0:30:2: .1 .179738 .248105 ... .499854 .5 (facts, 2.4); of 64 filters."""
    pruner = l1_ranked_structure_pruner_agp(0.1, 0.5, "3D", ["w"])
    weight = torch.randn(64, 2, 3, 3, generator=torch.Generator().manual_seed(3))
    levels = {0: 0.1, 2: 0.179738, 4: 0.248105, 26: 0.499854, 28: 0.5}
    for epoch, level in levels.items():
        assert dropped(mask(pruner, weight, Moment(epoch, 0, 30, 2))) == int(level * 64)
    l2 = l2_ranked_structure_pruner_agp(0.1, 0.5, "Channels", ["w"], kwargs=None)
    assert int((~mask(l2, CONVOLUTION, Moment(28, 0, 30, 2))[0].flatten(1).any(1)).sum()) == 4


def test_group_size_and_rounding() -> None:
    """By hand: 0.6 of 16 is 9.6, which is 9, 10 or 10, and in multiples of 4 is 8, 12 or 8."""

    def count(rounding: Callable[[float], float], size: int = 1) -> int:
        return dropped(mask(l1_ranked_structure_pruner("Filters", 0.6, ["w"], group_size=size, rounding_fn=rounding), CONVOLUTION))

    assert [count(rounding) for rounding in (math.floor, math.ceil, round)] == [9, 10, 10]
    assert [count(rounding, 4) for rounding in (math.floor, math.ceil, round)] == [8, 12, 8]


@pytest.mark.parametrize("amount", [0.5, 0.01])
def test_a_leader_decides_for_all_also_when_it_drops_nothing(amount: float) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 1))
    pruner = l2_ranked_structure_pruner("Filters", amount, ["2.weight", "0.weight", "1.weight"], group_dependency="Leader")
    leader = model[2].weight.detach().clone()
    scheduler = Scheduler(model, [(Window(), Prune(pruner))])
    scheduler.on_epoch_begin(0)
    kept = [scheduler.masks[f"{index}.weight"].flatten(1).any(1) for index in range(3)]
    expected = lowest(leader.square().sum((1, 2, 3)), amount) if amount == 0.5 else torch.ones(8, dtype=torch.bool)
    assert all(torch.equal(one, expected) for one in kept)


def test_noise_is_reproducible_and_the_leader_s_is_everyone_s() -> None:
    quiet = mask(l1_ranked_structure_pruner("Filters", 0.5, ["w"]), CONVOLUTION)
    noisy = l1_ranked_structure_pruner("Filters", 0.5, ["w"], noise=1.0, seed=3)
    assert torch.equal(mask(noisy, CONVOLUTION), mask(noisy, CONVOLUTION))
    assert not torch.equal(mask(noisy, CONVOLUTION), quiet)
    assert dropped(mask(noisy, CONVOLUTION)) == 8
    led = l1_ranked_structure_pruner("Filters", 0.5, ["a", "b"], "Leader", noise=1.0)
    found = led.masks({"b": Site(CONVOLUTION), "a": Site(CONVOLUTION + 1)}, Moment())
    assert torch.equal(found["a"], found["b"])


def test_thresholds() -> None:
    """Distiller: a structure lives if its mean, or its largest, magnitude exceeds the threshold."""
    weight = torch.tensor([[[[0.5, -0.1]], [[0.0, 0.0]]], [[[0.3, 0.3]], [[0.2, 0.4]]]])  # filters: mean .15, max .5; mean .3, max .4
    assert mask(structure_pruner({"w": (0.15, "Filters")}), weight).flatten(1).any(1).tolist() == [False, True]
    assert mask(structure_pruner({"w": (0.45, "3D")}, "Max"), weight).flatten(1).any(1).tolist() == [True, False]
    kernels = mask(structure_pruner({"w": (0.25, "2D")}), weight)[:, :, 0, 0]
    assert kernels.tolist() == [[True, False], [True, True]]
    both = structure_pruner({"w": (0.25, "Channels"), "fc": (1.0, "Rows")})
    found = both.masks({"w": Site(weight), "fc": Site(torch.tensor([[2.0, 1.0], [0.5, 1.0]]))}, Moment())
    assert found["w"][0, :, 0, 0].tolist() == [True, False]
    assert found["fc"].tolist() == [[True, True], [False, False]]
    blocks = structure_pruner({"w": (0.15, "Blocks")}, "Mean_Abs", {"block_shape": [2]})
    assert mask(blocks, weight)[0, :, 0].tolist() == [[True, True], [False, True]]


def test_levels_drawn_from_a_range() -> None:
    pruner = random_level_structure_pruner("Filters", (0.25, 0.75), ["a", "b"], seed=5)
    moments = [Moment(epoch, 0, 40) for epoch in range(40)]
    sites = {"a": Site(CONVOLUTION), "b": Site(CONVOLUTION)}
    counts = [tuple(dropped(keep) for keep in pruner.masks(sites, moment).values()) for moment in moments]
    assert counts == [tuple(dropped(keep) for keep in pruner.masks(sites, moment).values()) for moment in moments]
    assert {count for pair in counts for count in pair} == set(range(4, 12))
    assert any(one != other for one, other in counts)
    led = random_level_structure_pruner("Filters", (0.25, 0.75), ["a", "b"], "Leader")
    assert all(torch.equal(*led.masks(sites, moment).values()) for moment in moments)
    with pytest.raises(ValueError, match=r"the range from 0.75 to 0.25 is empty"):
        random_level_structure_pruner("Filters", (0.75, 0.25), ["a"])


def test_a_random_order_is_nested_unless_it_is_drawn_anew() -> None:
    once, anew = (random_ranked_filter_pruner_agp(0.1, 0.9, "Filters", ["w"], redraw=redraw) for redraw in (False, True))
    moments = [Moment(epoch, 0, 5) for epoch in range(5)]
    kept = [mask(once, CONVOLUTION, moment).flatten(1).any(1) for moment in moments]
    assert all(bool((later <= earlier).all()) for earlier, later in pairwise(kept))
    kept = [mask(anew, CONVOLUTION, moment).flatten(1).any(1) for moment in moments]
    assert not all(bool((later <= earlier).all()) for earlier, later in pairwise(kept))
    other = random_ranked_filter_pruner("Filters", 0.5, ["w"], seed=1)
    assert not torch.equal(mask(other, CONVOLUTION), mask(random_ranked_filter_pruner("Filters", 0.5, ["w"]), CONVOLUTION))


def test_each_filter_falls_with_its_probability_and_one_stays() -> None:
    pruner = bernoulli_filter_pruner(0.7, "Filters", ["w"])
    assert pruner.rescale
    weight = torch.ones(2000, 1, 1, 1)
    assert abs(dropped(mask(pruner, weight)) - 1400) < 4 * (2000 * 0.7 * 0.3) ** 0.5
    few = [dropped(mask(bernoulli_filter_pruner(0.5, "3D", ["w"]), weight[:2], Moment(now, 0, 99))) for now in range(99)]
    assert set(few) == {0, 1}
    assert dropped(mask(bernoulli_filter_pruner(1.0, "Filters", ["w"]), weight)) == 2000
    assert dropped(mask(bernoulli_filter_pruner(0.0, "Filters", ["w"]), weight)) == 0
    ramp = bernoulli_filter_pruner_agp(0.1, 0.9, "Filters", ["w"])
    assert abs(dropped(mask(ramp, weight, Moment(0, 0, 3))) - 200) < 4 * (2000 * 0.1 * 0.9) ** 0.5
    assert abs(dropped(mask(ramp, weight, Moment(2, 0, 3))) - 1800) < 4 * (2000 * 0.1 * 0.9) ** 0.5


def test_filters_are_dropped_anew_in_each_minibatch_and_what_stays_is_scaled_up() -> None:
    layer = nn.Conv2d(1, 64, 1, bias=False)
    nn.init.ones_(layer.weight)
    action = Prune(bernoulli_filter_pruner(0.5, "Filters", ["weight"]), mini_batch_pruning_frequency=1, use_double_copies=True)
    scheduler = Scheduler(layer, [(Window(0, 1), action)], torch.optim.SGD(layer.parameters(), lr=0.0))
    scheduler.on_epoch_begin(0)
    seen = []
    for minibatch in range(3):
        scheduler.on_minibatch_begin(0, minibatch, 3)
        weight = layer.weight.detach().flatten().clone()
        torch.testing.assert_close(weight.sum().item(), 64.0)
        assert len(weight.unique()) == 2
        seen.append(tuple((weight != 0).tolist()))
        scheduler.on_minibatch_end(0, minibatch, 3)
    assert len(set(seen)) == 3


def test_a_nan_is_an_error() -> None:
    for name in ("L2RankedStructureParameterPruner", "GeometricMedianPruner"):
        with pytest.raises(MaskError, match=r"'w': .* scores are NaN"):
            mask(STRUCTURE_PRUNERS[name]("Filters", 0.5, ["w"]), torch.full((4, 2), math.nan))
