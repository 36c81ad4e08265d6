"""Laws of masks, for weights of any shape, precision and kind."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from laws.rows import Row, every_counter, every_magnitude, every_pruner
from laws.sites import MOMENTS, Case, asked, cases
from limbeck.errors import MaskError
from limbeck.pruning import Pruner, Site
from limbeck.pruning.pruner import Cut
from limbeck.tile import Tile

some = settings(max_examples=10)
Masks = Mapping[str, Tensor]


def data(row: Row) -> st.SearchStrategy[Case]:
    return cases(row)


def units_kept(pruner: Pruner, name: str, mask: Tensor) -> Tensor:
    """Which units are kept, in the grid of units; fails for one of which a part is kept."""
    unit = pruner.unit_of(name)
    inside, outside = (unit.fold(mask.float(), fill=fill) > 0 for fill in (1.0, 0.0))
    assert torch.equal(inside.all(1), outside.any(1)), name
    return outside.any(1).reshape(unit.grid(mask.shape))


def pools_kept(pruner: Pruner, masks: Masks) -> list[tuple[int, int, int, float]]:
    """Of each pool: its size, how many of its units exist, how many are kept, and the amount that is asked of it."""
    kept = {name: units_kept(pruner, name, mask) for name, mask in masks.items()}
    amounts = pruner.amounts({name: mask.shape for name, mask in masks.items()}, MOMENTS[0])
    if pruner.pool is None:
        whole = sum(grid.numel() for grid in kept.values())
        return [(whole, whole, sum(int(grid.sum()) for grid in kept.values()), next(iter(amounts.values())))]
    found = []
    for name, grid in kept.items():
        there = pruner.pool.fold(torch.ones(grid.shape)).sum(1)
        stay = pruner.pool.fold(grid.float()).sum(1)
        size = pruner.pool.fold(grid.float()).shape[1]
        found += [(size, int(one), int(other), amounts[name]) for one, other in zip(there, stay, strict=True)]
    return found


@every_pruner
def test_law_masks_are_bool_and_of_the_weight_s_shape_and_units_live_or_die_whole(row: Row) -> None:
    @some
    @given(cases(row))
    def holds(case: Case) -> None:
        if not case.fits:
            return
        before = copy.deepcopy(case.sites)
        masks = case.masks()
        assert masks.keys() == case.sites.keys()
        for name, mask in masks.items():
            assert (mask.dtype, tuple(mask.shape), mask.is_contiguous()) == (torch.bool, case.shape, True)
            units_kept(case.pruner, name, mask)
            assert torch.equal(case.sites[name].weight, before[name].weight)
        if case.pruner.tie is not None:
            verdicts = [units_kept(case.pruner, name, mask).flatten() for name, mask in masks.items()]
            assert all(torch.equal(verdict, verdicts[0]) for verdict in verdicts)

    holds()


@every_counter
def test_law_the_sparsity_that_is_asked_for_is_the_one_that_is_reached(row: Row) -> None:
    """Exactly, of zeros, ties and what was dropped before, whatever was asked."""

    @settings(max_examples=20)
    @given(cases(row))
    def holds(case: Case) -> None:
        assert row.count is not None
        if not case.fits:
            return
        for size, there, kept, amount in pools_kept(case.pruner, case.masks()):
            assert kept == min(size - row.count(amount, size), there)

    holds()


@every_pruner
def test_law_a_shape_that_does_not_fit_is_named_and_never_cut_wrongly(row: Row) -> None:
    @some
    @given(cases(row))
    def holds(case: Case) -> None:
        if not case.fits:
            with pytest.raises(MaskError, match=f"'{next(iter(case.sites))}'"):
                case.masks()

    holds()


@every_pruner
def test_law_a_pruner_is_a_pure_function_of_what_it_is_given(row: Row) -> None:
    """Whatever the layout in memory, twice the same, and with no number of chance that others draw taken."""

    @some
    @given(cases(row))
    def holds(case: Case) -> None:
        if not case.fits:
            return
        twins, strided, before = copy.deepcopy(case.sites), copy.deepcopy(case.sites), torch.get_rng_state()
        for site in strided.values():
            site.memo = {}
            site.weight = site.weight.permute(*range(site.weight.dim())[::-1]).contiguous().permute(*range(site.weight.dim())[::-1])
        masks = case.masks()
        assert torch.equal(torch.get_rng_state(), before)
        for other in (twins, strided):
            again = case.pruner.masks(other, case.moment)
            assert all(torch.equal(masks[name], again[name]) for name in masks)

    holds()


@every_pruner
def test_law_pruning_twice_at_one_moment_is_pruning_once(row: Row) -> None:
    if not row.lasting:
        return

    @some
    @given(cases(row))
    def holds(case: Case) -> None:
        if not case.fits:
            return
        masks = case.masks()
        for name, site in case.sites.items():
            site.keep, site.weight = masks[name], site.weight * masks[name]
        again = case.masks()
        assert all(torch.equal(masks[name], again[name]) for name in masks)

    holds()


@every_magnitude
def test_law_larger_units_outlive_smaller_ones_whatever_their_signs_and_precision(row: Row) -> None:
    @some
    @given(cases(row))
    def holds(case: Case) -> None:
        assert row.size is not None
        if not case.fits or (row.name == "SplicingPruner" and any(site.keep is not None for site in case.sites.values())):
            return  # between its thresholds splicing leaves a weight as it was
        masks, flipped, wider = case.masks(), copy.deepcopy(case.sites), copy.deepcopy(case.sites)
        for one, other in zip(flipped.values(), wider.values(), strict=True):
            one.weight, other.weight = -one.weight, other.weight.float()
            one.memo, other.memo = {}, {}
        sizes, kept = [], []
        for name, mask in masks.items():
            kept.append(units_kept(case.pruner, name, mask).flatten())
            sizes.append(measured(row, case.pruner.unit_of(name), case.sites[name].weight))
        size, keep = torch.cat(sizes), torch.cat(kept)
        pooled = len(masks) == 1 or case.pruner.pool is None
        if pooled and keep.any() and not keep.all():
            assert size[keep].min() >= size[~keep].max() * (1 - 1e-5)
        for other in (flipped, wider) if row.name not in ROUNDED else (flipped,):
            again = case.pruner.masks(other, case.moment)
            assert all(torch.equal(masks[name], again[name]) for name in masks)

    holds()


ROUNDED = ("SensitivityPruner", "SplicingPruner")
"""What these measure of a tensor is rounded to its own precision."""


def measured(row: Row, unit: Tile, weight: Tensor) -> Tensor:
    """How large each unit is, of its members alone: what pads the last ones counts for nothing."""
    assert row.size is not None
    there = unit.fold(torch.ones_like(weight, dtype=torch.float64)) > 0
    return torch.cat([row.size(unit[here][None]) for unit, here in zip(unit.fold(weight.double()), there, strict=True)])


@every_magnitude
def test_law_a_rising_sparsity_drops_what_it_dropped_before_and_more(row: Row) -> None:
    """Of equal units, too: those that are gone already go first."""
    if row.count is None:
        return

    @some
    @given(cases(row), st.lists(st.floats(0, 1), min_size=2, max_size=3))
    def holds(case: Case, amounts: list[float]) -> None:
        if not case.fits:
            return
        for amount in sorted(amounts):
            masks = asked(case.pruner, amount).masks(case.sites, case.moment)
            for name, site in case.sites.items():
                fresh = site.keep is None or amount == min(amounts)
                assert fresh or not (masks[name] & ~site.keep).any()
                site.keep, site.weight = masks[name], site.weight * masks[name]

    holds()


@every_pruner
def test_law_a_run_that_diverged_is_not_pruned(row: Row) -> None:
    """What is no number is named by its tensor, wherever it stands, and whatever is asked."""
    if row.reads == "chance":
        return

    @some
    @given(cases(row), st.integers(0, 1))
    def holds(case: Case, place: int) -> None:
        if not case.fits:
            return
        name = list(case.sites)[min(place, len(case.sites) - 1)]
        site = case.sites[name]
        if row.reads == "seen":
            site.stats = {key: torch.full_like(measured, math.nan) for key, measured in site.stats.items()}
        elif site.keep is None and getattr(case.pruner.score, "start", None) == "random":
            return  # the first mask of RigL is one of chance
        else:
            site.weight, site.keep = site.weight.clone(), None if site.keep is None else site.keep.clone()
            site.weight.view(-1)[-1] = math.nan
            if site.keep is not None:
                site.keep.view(-1)[-1] = True
        with pytest.raises(MaskError, match=rf"'{name}': .* NaN"):
            case.masks()

    holds()


@every_counter
def test_law_what_is_known_before_training_is_what_falls(row: Row) -> None:
    """At every firing of the row's own window, by the row's own ramp."""
    pruner, shape = row.pruner(), (6, 4, 2, 2)[: max(row.ranks)]
    for moment in row.window.firings():
        sites = {name: Site(torch.randn(shape)) for name in pruner.targets}
        if pruner.needs is not None:
            return
        amounts = pruner.amounts(dict.fromkeys(sites, shape), moment)
        masks = pruner.masks(sites, moment)
        fixed = {name: Cut(amounts[name], pruner.unit_of(name)) for name in sites}
        for size, there, kept, amount in pools_kept(Pruner(fixed, pool=pruner.pool), masks):
            assert kept == min(size - row.count(amount, size), there)  # type: ignore[misc]
