"""Clipping: by hand, against the equations of the papers, and as laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limbeck.quantization import clipping as table
from limbeck.quantization.affine import Mode, fake_quantize, integers, qparams
from limbeck.quantization.clipping import CLIPPINGS, Grid, OfTensor, named_clipping
from limbeck.quantization.histogram import Histogram
from limbeck.quantization.thresholds import least_divergence, least_error
from limbeck.tile import FILTERS, TENSOR, Tile

ASYMMETRIC = Mode.ASYMMETRIC_SIGNED
BATCH = torch.tensor([[-2.0, 0.0, 4.0], [-1.0, 1.0, 10.0]])  # mean 2, deviations 4 2 2 3 1 8: b 20 / 6; squares 98, so variance 98 / 5
B, STD = 20 / 6, math.sqrt(98 / 5)


@pytest.mark.parametrize(
    ("name", "grid", "low", "high"),
    [
        ("none", Grid(), -2.0, 10.0),
        ("AVG", Grid(), -1.5, 7.0),
        ("N_STD", Grid(n_stds=1.5), -(2 + 1.5 * STD), 2 + 1.5 * STD),
        ("n_std", Grid(mode=ASYMMETRIC, n_stds=0.5), 2 - STD / 2, 2 + STD / 2),
        ("n_std", Grid(mode=ASYMMETRIC, n_stds=3), -2.0, 10.0),
        ("LAPLACE", Grid(bits=4), -(2 + 5.03 * B), 2 + 5.03 * B),
        ("laplace", Grid(bits=4, half_range=True), -(2 + 5.03 * B), 2 + 5.03 * B),
        ("laplace", Grid(bits=1, mode=ASYMMETRIC), -2.0, -2 + 2 * 1.86 * B),
        ("laplace", Grid(bits=3, mode=ASYMMETRIC, half_range=True), -2.0, -2 + 5.02 * B),
        ("GAUSS", Grid(bits=8), -(2 + 3.92 * STD), 2 + 3.92 * STD),
        ("gauss", Grid(bits=2, mode=ASYMMETRIC), -2.0, -2 + 2 * 1.71 * STD),
        ("gauss", Grid(bits=8, mode=ASYMMETRIC, half_range=True), -2.0, -2 + 4.2 * STD),
    ],
)
def test_ranges_by_hand(name: str, grid: Grid, low: float, high: float) -> None:
    found = named_clipping(name)(OfTensor(BATCH), grid)
    assert [bound.item() for bound in found] == pytest.approx([low, high], rel=1e-6)


def test_a_range_of_aciq_may_begin_above_the_lowest_value() -> None:
    outlier = torch.cat([torch.full((1, 1), -100.0), torch.ones(1, 999)], 1)  # mean 0.899, b 2 * 0.999 * 0.101
    low, _ = named_clipping("laplace")(OfTensor(outlier), Grid(bits=2, mode=ASYMMETRIC))
    assert low.item() == pytest.approx(0.899 - 2.83 * 2 * 0.999 * 0.101, rel=1e-4)


def test_averages_are_of_samples_where_there_are_any() -> None:
    """Distiller's rule: over the slices of the first axis, unless each is a single number."""
    for shape in ((6,), (6, 1), (1, 6)):
        seen = OfTensor(BATCH.reshape(shape))
        assert (seen.avg_min.item(), seen.avg_max.item()) == (-2.0, 10.0)
    by_row = OfTensor(BATCH, FILTERS)
    assert (by_row.avg_min.tolist(), by_row.avg_max.tolist()) == ([-2.0, -1.0], [4.0, 10.0])


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_tables_of_aciq_solve_its_equations(bits: int) -> None:
    """The mean squared error of a clipped, uniformly quantized density, minimized on a grid (ACIQ, equations 5 and 8)."""
    alpha = torch.linspace(0.5, 13, 12501, dtype=torch.float64)
    for half, (laplace, gauss) in enumerate(
        [(table.ACIQ_LAPLACE, table.ACIQ_GAUSS), (table.ACIQ_LAPLACE_POSITIVE, table.ACIQ_GAUSS_POSITIVE)]
    ):
        rounding = alpha**2 / (3 * 4.0 ** (bits + half))  # half the range in as many steps is the whole in twice as many
        beyond = 2 * torch.exp(-alpha)
        assert alpha[(beyond + rounding).argmin()].item() == pytest.approx(laplace[bits - 1], abs=0.015)
        beyond = (alpha**2 + 1) * torch.erfc(alpha / math.sqrt(2)) - math.sqrt(2 / math.pi) * alpha * torch.exp(-(alpha**2) / 2)
        assert alpha[(beyond + rounding).argmin()].item() == pytest.approx(gauss[bits - 1], abs=0.03)


def divergence_of_the_slides(counts: list[int], kept: int, levels: int) -> float:
    """Migacz 2017, step by step."""
    reference = [float(count) for count in counts[:kept]]
    reference[-1] += sum(counts[kept:])
    spread = [0.0] * kept
    for level in range(levels):
        bins = range(level * kept // levels, (level + 1) * kept // levels)
        filled = [place for place in bins if counts[place]]
        for place in filled:
            spread[place] = sum(counts[other] for other in bins) / len(filled)
    if not sum(spread):
        return math.inf
    p, q = [value / sum(reference) for value in reference], [value / sum(spread) for value in spread]
    return sum(a * math.log(a / b) if b else math.inf for a, b in zip(p, q, strict=True) if a)


def test_the_example_of_the_slides() -> None:
    """P = 1 0 2 3 5 3 1 7 in two levels is 6 and 16, and spread again 2 0 2 2 4 4 4 4."""
    p, q = [1, 2, 3, 5, 3, 1, 7], [2, 2, 2, 4, 4, 4, 4]
    by_hand = sum(a / 22 * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert divergence_of_the_slides([1, 0, 2, 3, 5, 3, 1, 7], 8, 2) == pytest.approx(by_hand)


@given(counts=st.lists(st.sampled_from([0, 0, 1, 2, 5, 30, 400]), max_size=40), levels=st.integers(1, 8))
@settings(max_examples=50)
def test_the_least_divergence_is_the_least(counts: list[int], levels: int) -> None:
    found = least_divergence(np.array(counts, dtype=np.int64), levels)
    used = max((place + 1 for place, count in enumerate(counts) if count), default=0)
    kept = int(found)
    assert found == kept + 0.5
    if used <= levels:
        assert kept == used
    else:
        numbers = [number for number in range(levels, used + 1) if 2 * sum(counts[:number]) >= sum(counts)]
        each = {number: divergence_of_the_slides(counts[:used], number, levels) for number in numbers}
        assert each[kept] == pytest.approx(min(each.values()), abs=1e-9)


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_the_zeros_that_a_relu_leaves_do_not_pull_the_range_of_kl_in(bits: int) -> None:
    positive, grid = torch.randn(20_000).abs() + 0.01, Grid(bits, Mode.ASYMMETRIC_UNSIGNED, half_range=True)
    low, high = named_clipping("kl")(OfTensor(torch.cat([positive, torch.zeros(60_000)])), grid)
    torch.testing.assert_close((low, high), named_clipping("kl")(OfTensor(torch.cat([positive, torch.zeros(1)])), grid))
    assert 1.5 < float(high) < 4.5


def test_kl_cuts_outliers_off() -> None:
    values = torch.cat([torch.randn(20000), torch.tensor([60.0])])
    for mode, low in ((Mode.SYMMETRIC, None), (ASYMMETRIC, values.min().item())):
        found = [bound.item() for bound in named_clipping("kl")(OfTensor(values), Grid(mode=mode))]
        assert 2 < found[1] < 10
        assert found[0] == (-found[1] if low is None else max(low, -found[1]))
    gates = torch.linspace(0.2, 0.9, 5000)  # as behind a sigmoid: nothing near 0
    assert named_clipping("kl")(OfTensor(gates), Grid(mode=Mode.ASYMMETRIC_UNSIGNED))[1].item() > 0.8
    assert named_clipping("kl")(OfTensor(values), Grid(bits=16))[1].item() == 60.0  # more levels than bins


def error(values: Tensor, low: float, high: float, grid: Grid, power: int) -> float:
    params = qparams(low, high, grid.bits, grid.mode)
    return float((fake_quantize(values, params) - values).abs().pow(power).sum(dtype=torch.float64))


@pytest.mark.parametrize(
    ("name", "power", "mode"),
    [("l1", 1, Mode.SYMMETRIC), ("mse", 2, Mode.SYMMETRIC_RESTRICTED), ("l3", 3, ASYMMETRIC), ("l2", 2, ASYMMETRIC)],
)
def test_norms_find_what_an_exhaustive_search_finds(name: str, power: int, mode: Mode) -> None:
    values, grid = torch.distributions.Laplace(0.3, 1.0).sample((1, 500)), Grid(bits=3, mode=mode)
    low, high = (bound.item() for bound in named_clipping(name)(OfTensor(values), grid))
    largest = values.abs().max().item()
    if mode.is_symmetric:
        least = min(error(values, -largest * part / 128, largest * part / 128, grid, power) for part in range(2, 129, 3))
    else:
        bounds = values.min().item(), values.max().item()
        parts = [(one, other) for one in range(2, 17, 2) for other in range(2, 17, 2)]
        least = min(error(values, bounds[0] * one / 16, bounds[1] * other / 16, grid, power) for one, other in parts)
    assert error(values, low, high, grid, power) <= 1.05 * least
    assert error(values, low, high, grid, power) < error(values, values.min().item(), values.max().item(), grid, power)


@given(mode=st.sampled_from(list(Mode)), bits=st.integers(2, 8), power=st.integers(1, 3), groups=st.integers(1, 4), seed=st.integers(0, 99))
@settings(max_examples=4)
def test_each_group_is_searched_as_if_it_were_alone(mode: Mode, bits: int, power: int, groups: int, seed: int) -> None:
    values = torch.randn(groups, 30, generator=torch.Generator().manual_seed(seed))
    found = least_error(values, None, (values.amin(1), values.amax(1)), (bits, mode), power)
    for row in range(groups):
        own = values[row : row + 1]
        alone = least_error(own, None, (own.amin(1), own.amax(1)), (bits, mode), power)
        assert [bound[row] for bound in found] == [bound[0] for bound in alone]
        whole = error(own, own.min().item(), own.max().item(), Grid(bits, mode), power)
        assert error(own, found[0][row].item(), found[1][row].item(), Grid(bits, mode), power) <= whole * (1 + 1e-6)


def test_a_large_tensor_is_searched_by_its_histogram() -> None:
    values, grid = torch.randn(1, 70000), Grid(bits=4)
    by_histogram = named_clipping("mse")(OfTensor(values), grid)[1].item()
    directly = least_error(values, None, (values.amin(1), values.amax(1)), (4, Mode.SYMMETRIC), 2)[1].item()
    assert by_histogram == pytest.approx(directly, rel=0.02)
    # the best clipping of a normal density in 16 equal steps that reach to both ends: ACIQ's 2.55 for 4 bits
    assert by_histogram == pytest.approx(2.55, rel=0.1)


@pytest.mark.parametrize("name", CLIPPINGS)
@pytest.mark.parametrize(("mode", "tile"), [(Mode.SYMMETRIC, TENSOR), *[(mode, FILTERS) for mode in Mode], (ASYMMETRIC, Tile((1, 2)))])
def test_every_clipping_gives_every_group_a_range(name: str, mode: Mode, tile: Tile) -> None:
    weight = torch.randn(3, 4)
    weight[1] = 0.0
    weight[2] = 0.7  # a constant
    seen = OfTensor(weight, tile)
    low, high = CLIPPINGS[name](seen, Grid(bits=4, mode=mode, n_stds=2.0))
    assert low.shape == high.shape == seen.min.shape == (math.prod(tile.grid(weight.shape)),)
    params = qparams(low, high, 4, mode, tile)
    assert not fake_quantize(weight, params)[1].any()
    assert (params.low, params.high) == integers(4, mode)
    if tile == FILTERS and name not in ("laplace", "gauss"):
        assert fake_quantize(weight, params)[2] == pytest.approx(torch.full((4,), 0.7), abs=0.06)


def test_faults_are_named() -> None:
    seen = OfTensor(BATCH)
    with pytest.raises(ValueError, match=r"no clipping is named 'laplac'; did you mean 'laplace'\?"):
        named_clipping("laplac")
    with pytest.raises(ValueError, match="no clipping is named 'x'; there are none, avg, n_std"):
        named_clipping("x")
    with pytest.raises(ValueError, match="'n_std' with n_stds=None; give the number of standard deviations to keep"):
        named_clipping("n_std")(seen, Grid())
    with pytest.raises(ValueError, match="known for 1 to 8 bits, not 9; take 'mse' or 'none'"):
        named_clipping("gauss")(seen, Grid(bits=9))
    with pytest.raises(ValueError, match="no elements, and so no range"):
        OfTensor(BATCH[:0])
    with pytest.raises(ValueError, match="NaN or infinite have no place in a histogram"):
        Histogram.of(torch.tensor([math.nan]))
