"""Histograms that grow are those that had known the range from the start."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.quantization.histogram import BINS, Histogram, Running

SIZES = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=5)


@given(sizes=SIZES, seed=st.integers(0, 99), bins=st.sampled_from([2, 16, 2048]))
@settings(max_examples=50)
def test_the_order_and_the_cut_of_batches_do_not_matter(sizes: list[float], seed: int, bins: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    batches = [torch.randn(20, generator=generator) * size for size in sizes]
    together, one_by_one = Histogram.of(torch.cat(batches), bins), Running(bins)
    for batch in reversed(batches):
        one_by_one.add(batch)
    assert one_by_one.histogram() == together
    assert sum(together.counts) == 20 * len(sizes)


@given(sizes=SIZES, seed=st.integers(0, 99))
@settings(max_examples=50)
def test_counts_are_numpys(sizes: list[float], seed: int) -> None:
    values = torch.cat([torch.randn(20, generator=torch.Generator().manual_seed(seed)) * size for size in sizes])
    found = Histogram.of(values)
    edges = (np.arange(len(found.counts) + 1) + found.first) * found.width
    assert math.log2(found.width) % 1 == 0
    assert found.counts == tuple(np.histogram(values.double().numpy(), np.append(edges[:-1], np.inf))[0])
    largest = values.abs().max().item()
    assert BINS / 2 <= largest / found.width < BINS
    assert found.magnitudes().sum() == len(values)
    assert np.array_equal(
        found.magnitudes(), Histogram.of(torch.where(values < 0, torch.nextafter(-values, torch.tensor(0.0)), values)).magnitudes()
    )


@given(sizes=SIZES, seed=st.integers(0, 99), shift=st.floats(-3, 3))
@settings(max_examples=50)
def test_the_mean_absolute_deviation_is_as_near_as_it_says(sizes: list[float], seed: int, shift: float) -> None:
    values = torch.cat([torch.randn(50, generator=torch.Generator().manual_seed(seed)) * size + shift for size in sizes]).double()
    running = Running()
    running.add(values)
    histogram, mean = running.histogram(), values.mean().item()
    exact = (values - mean).abs().mean().item()
    share = histogram.counts[math.floor(mean / histogram.width) - histogram.first] / len(values)
    slack = 1e-9 * values.abs().max().item()
    assert exact - histogram.width / 2 * share - slack <= running.deviation(mean) <= exact + slack


def test_what_is_not_spread_deviates_by_nothing() -> None:
    for constant in (0.0, -0.3, 7.0):
        running = Running()
        running.add(torch.full((10,), constant, dtype=torch.float64))
        assert running.deviation(constant) == pytest.approx(0.0, abs=1e-12)
    assert Histogram.of(torch.zeros(3)).counts == (3,)
    assert Histogram.of(torch.tensor([])).counts == (0,)


def test_a_number_of_bins_is_a_power_of_two() -> None:
    with pytest.raises(ValueError, match="100 bins; give a power of two, as 2048"):
        Running(100)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_type_is_counted(dtype: torch.dtype) -> None:
    assert Histogram.of(torch.tensor([-1.0, 0.5, 1.5], dtype=dtype), 2) == Histogram(1.0, -1, (1, 1, 1))
