"""The composition: units of a target's own, padded pools, one verdict for several tensors, pools over all of them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from limbeck.errors import MaskError, ScheduleError
from limbeck.groups import group
from limbeck.pruning import Prune, Pruner, Site
from limbeck.pruning.criteria import BATCH_NORM, Units, l1
from limbeck.pruning.pruner import Cut, first
from limbeck.pruning.selectors import Lowest
from limbeck.ramps import Ramp
from limbeck.scheduler import Scheduler
from limbeck.schedules import Moment, Window
from limbeck.tile import ELEMENT, Tile

FILTERS = group("Filters")


def masks(pruner: Pruner, moment: Moment | None = None, **weights: Tensor) -> dict[str, Tensor]:
    return pruner.masks({name: Site(weight) for name, weight in weights.items()}, moment or Moment())


def test_each_target_may_have_a_unit_of_its_own() -> None:
    pruner = Pruner({"conv": Cut(0.5, FILTERS), "fc": 0.5, "other": Cut(0.25)})
    assert [pruner.unit_of(name) for name in pruner.targets] == [FILTERS, ELEMENT, ELEMENT]
    found = masks(
        pruner, conv=torch.tensor([[1.0, 9.0], [4.0, 4.0]]), fc=torch.tensor([[1.0, 9.0], [4.0, 5.0]]), other=torch.arange(1.0, 5)
    )
    assert found["conv"].tolist() == [[True, True], [False, False]]
    assert found["fc"].tolist() == [[False, True], [False, True]]
    assert found["other"].tolist() == [False, True, True, True]


def test_a_cut_is_a_schedule() -> None:
    assert Cut(Ramp(0.0, 0.8), FILTERS)(Moment(2, 0, 3)) == 0.8
    assert Cut(0.3)(Moment()) == 0.3


def test_of_a_partial_pool_is_kept_what_a_full_one_would_keep() -> None:
    """2:4 along rows of seven: two of the first four, two of the last three."""
    pruner = Pruner({"fc": 0.5}, pool=Tile((1, 4), pad=True))
    keep = masks(pruner, fc=torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 6.0]]))["fc"]
    assert keep.tolist() == [[False, False, True, True, False, True, True]]
    assert masks(pruner, fc=torch.tensor([[1.0, 2.0, 3.0, 4.0, 0.0, 0.0]]))["fc"].tolist() == [[False, False, True, True, True, True]]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([(1, 2), (1, 4), (2, 4), (3, 4), (4, 8)]), st.booleans())
def test_n_of_m_keeps_at_most_n_and_all_that_fits(rows: int, columns: int, n_of_m: tuple[int, int], again: bool) -> None:
    n, m = n_of_m
    pruner = Pruner({"fc": (m - n) / m}, pool=Tile((1, m), pad=True))
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows * 10 + columns))
    keep = masks(pruner, fc=weight)["fc"]
    if again:
        keep = pruner.masks({"fc": Site(weight * keep, keep)}, Moment())["fc"]
    for begin in range(0, columns, m):
        part = keep[:, begin : begin + m]
        assert part.sum(1).tolist() == [min(n, part.shape[1])] * rows


def test_a_leader_decides_for_all_wherever_the_model_has_it() -> None:
    weights = {"a": torch.tensor([[1.0], [2.0], [3.0]]), "b": torch.tensor([[3.0, 3.0], [1.0, 1.0], [2.0, 2.0]])}
    led = masks(Pruner({"a": 0.4, "b": Cut(0.4, leads=True)}, unit=FILTERS, tie=first), **weights)
    assert led["a"].tolist() == [[True], [False], [True]]
    assert led["b"].tolist() == [[True, True], [False, False], [True, True]]
    without = masks(Pruner({"a": 0.4, "b": 0.4}, unit=FILTERS, tie=first), **weights)
    assert without["b"].tolist() == [[False, False], [True, True], [True, True]]


def test_a_tie_of_scores_may_be_their_sum() -> None:
    weights = {"a": torch.tensor([[1.0], [2.0], [3.0]]), "b": torch.tensor([[9.0], [1.0], [2.0]])}
    found = masks(Pruner(dict.fromkeys(weights, 0.4), unit=FILTERS, tie=lambda scores: torch.stack(scores).sum(0)), **weights)
    assert [found[name].flatten().tolist() for name in weights] == [[True, False, True]] * 2


def test_tied_tensors_with_different_masks_so_far_get_one_mask() -> None:
    keep = {"a": torch.tensor([[True], [False], [True]]), "b": torch.tensor([[False], [True], [True]])}
    pruner = Pruner(dict.fromkeys(keep, 0.4), unit=FILTERS, tie=first)
    found = pruner.masks({name: Site(torch.ones(3, 1), keep[name]) for name in keep}, Moment())
    assert torch.equal(found["a"], found["b"])
    assert int(found["a"].sum()) == 2


def test_what_cannot_share_a_verdict_is_named() -> None:
    pruner = Pruner({"a": 0.4, "b": 0.4}, unit=FILTERS, tie=first)
    with pytest.raises(MaskError, match=r"^'b' has 2 units and 'a' 3: one verdict for both needs equally many"):
        masks(pruner, a=torch.ones(3, 1), b=torch.ones(2, 1))
    with pytest.raises(MaskError, match=r"one verdict for all tensors needs one amount for all of them, not {'a': 0.4, 'b': 0.5}"):
        masks(Pruner({"a": 0.4, "b": 0.5}, unit=FILTERS, tie=first), a=torch.ones(3, 1), b=torch.ones(3, 1))


def test_a_pool_of_all_tensors_may_hold_units_of_different_kinds() -> None:
    pruner = Pruner({"conv": Cut(0.5, FILTERS), "fc": Cut(0.5)}, pool=None)
    found = masks(pruner, conv=torch.tensor([[1.0, 2.0], [8.0, 8.0]]), fc=torch.tensor([1.0, 9.0]))
    assert found["conv"].tolist() == [[False, False], [True, True]]
    assert found["fc"].tolist() == [False, True]


def test_of_equal_units_those_already_dropped_fall_first() -> None:
    keep = torch.tensor([[True, True], [True, True], [False, False], [False, False]])
    found = Pruner({"w": 0.5}, unit=FILTERS).masks({"w": Site(torch.zeros(4, 2), keep)}, Moment())["w"]
    assert torch.equal(found, keep)


def test_plain_magnitudes_heed_the_batch_norm_too() -> None:
    site = Site(torch.tensor([[1.0], [2.0]]), stats={BATCH_NORM: torch.tensor([[4.0], [1.0]])})
    assert Pruner({"w": 0.5}).masks({"w": site}, Moment())["w"].tolist() == [[True], [False]]


def test_a_criterion_sees_the_name_and_what_is_kept() -> None:
    seen: list[tuple[str, list[bool] | None]] = []

    def criterion(units: Units) -> Tensor:
        seen.append((units.name, None if units.kept is None else units.kept.tolist()))
        return l1(units)

    pruner = Pruner({"a": 0.5, "b": 0.5}, criterion, FILTERS)
    pruner.masks({"a": Site(torch.ones(2, 2)), "b": Site(torch.ones(2, 2), torch.tensor([[True, False], [False, False]]))}, Moment())
    assert seen == [("a", None), ("b", [True, False])]


def test_a_pruner_needs_what_its_criterion_needs() -> None:
    class Needy:
        needs = "gradients"

        def __call__(self, units: Units) -> Tensor:
            return l1(units)

    assert Pruner({"w": 0.5}, Needy()).needs == "gradients"
    assert Pruner({"w": 0.5}).needs is None


def test_misfits_are_told_by_shape_alone() -> None:
    pruner = Pruner({}, unit=group("2D"))
    assert list(
        pruner.misfits({"fc": 0.5, "conv": 0.5, "mixed": Cut(0.5, FILTERS)}, {"fc": (4, 3), "conv": (4, 3, 3, 3), "mixed": (4, 3)})
    ) == ["'fc' cannot be cut into units: a shape of (4, 3) has no groups of type 2D; they take 3 axes or more"]
    led = Pruner({}, unit=FILTERS, tie=first)
    targets = {"a": 0.5, "b": Cut(0.5, leads=True), "c": 0.5}
    assert list(led.misfits(targets, {"a": (4, 3), "b": (4, 9), "c": (8, 3)})) == [
        "'c' has 8 units and 'b' 4: one verdict for both needs equally many; leave one of them out"
    ]
    pooled = Pruner({}, pool=Tile((1, 4)))
    assert [fault.partition(":")[0] for fault in pooled.misfits({"fc": 0.5}, {"fc": (2, 6)})] == ["'fc' cannot be cut into units"]
    assert list(Pruner({}).misfits({"empty": 0.5}, {"empty": (0,)})) == []


def test_a_scheduler_refuses_them_before_training() -> None:
    with pytest.raises(ScheduleError, match=r"'weight' cannot be cut into units: a shape of \(2, 4\) has no groups of type 2D"):
        Scheduler(nn.Linear(4, 2), [(Window(), Prune(Pruner({"weight": 0.5}, unit=group("2D"))))])


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["2D", "Filters", "Channels", "4D", "Cols", "Blocks"]),
    st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)),
    st.floats(0, 1),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    st.booleans(),
)
def test_units_live_or_die_whole_and_exactly_as_many_as_asked(
    kind: str, cells: tuple[int, int, int, int], amount: float, dtype: torch.dtype, constant: bool
) -> None:
    unit = group(kind, [1, 2] if kind == "Blocks" else None)
    shape = (cells[0], cells[1] * 2, *cells[2:])
    weight = torch.ones(shape) if constant else torch.randn(shape, generator=torch.Generator().manual_seed(sum(cells)))
    keep = masks(Pruner({"w": amount}, unit=unit), w=weight.to(dtype))["w"]
    units = unit.fold(keep)
    assert keep.shape == shape
    assert keep.is_contiguous()
    assert torch.equal(units.any(1), units.all(1))
    assert int((~units[:, 0]).sum()) == Lowest().dropped(amount, len(units))


def failing(units: Units) -> Tensor:
    return units.stats["gardient"][:, 0]


def test_a_criterion_that_raises_is_named_with_its_tensor() -> None:
    with pytest.raises(MaskError, match=r"^'fc.weight': the criterion 'failing' of its pruner raised KeyError: 'gardient'$") as caught:
        masks(Pruner({"fc.weight": 0.5}, failing), **{"fc.weight": torch.ones(4, 2)})
    causes = [caught.value, caught.value.__cause__, caught.value.__cause__ and caught.value.__cause__.__cause__]
    assert [type(cause) for cause in causes] == [MaskError, MaskError, KeyError]


class OnlyMatrices:
    """A criterion of a user's own that refuses what it cannot score."""

    def __call__(self, units: Units) -> Tensor:
        return l1(units)

    def misfit(self, name: str, shape: Sequence[int], unit: Tile) -> str | None:
        return None if len(shape) == 2 else f"has {len(shape)} axes"


def test_a_criterion_may_refuse_what_it_cannot_score() -> None:
    pruner = Pruner({}, OnlyMatrices())
    assert list(pruner.misfits({"fc": 0.5, "conv": 0.5}, {"fc": (4, 3), "conv": (4, 3, 3)})) == ["'conv' has 3 axes"]


def test_a_nan_is_refused_by_name() -> None:
    weight = torch.ones(4, 2)
    weight[1, 1] = float("nan")
    with pytest.raises(MaskError, match="'w': 1 of 4 scores are NaN"):
        masks(Pruner({"w": 0.5}, unit=FILTERS), w=weight)
