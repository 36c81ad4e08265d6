"""Group norms and the variance of channels against formulas that visit one group after the other, in float64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limbeck.regularization import group_lasso_regularizer, group_variance_regularizer
from limbeck.regularization.norms import CHUNK, GroupNorm, InverseVariance, group_norms, l1_norm
from limbeck.tile import CHANNELS, FILTERS, KERNELS, TENSOR, Tile

SMOOTHED = "Channels"
KINDS = ("2D", "3D", "Filters", "4D", "Channels", "Rows", "Cols", "Rows+Cols", "Cols+Rows", "Channels+4D")
shapes = st.lists(st.integers(1, 3), min_size=2, max_size=4).map(tuple)


def groups_of(kind: str, shape: tuple[int, ...]) -> Iterator[list[tuple[int, ...]]]:
    """The places of each group: which indices of a place its members share."""
    shared = {"2D": (0, 1), "3D": (0,), "Filters": (0,), "Rows": (0,), "4D": (), "Channels": (1,), "Cols": range(1, len(shape))}[kind]
    places = list(itertools.product(*map(range, shape)))
    for key in sorted({tuple(place[axis] for axis in shared) for place in places}):
        yield [place for place in places if tuple(place[axis] for axis in shared) == key]


def group_lasso(weight: Tensor, kinds: str) -> tuple[float, Tensor]:
    """The penalty and its gradient, group by group."""
    penalty, gradient = 0.0, torch.zeros_like(weight)
    for kind in kinds.split("+"):
        for places in groups_of(kind, tuple(weight.shape)):
            norm = math.sqrt(math.fsum(float(weight[place]) ** 2 for place in places) + (1e-8 if kind == SMOOTHED else 0.0))
            penalty += norm
            for place in places:
                gradient[place] += float(weight[place]) / norm if norm else 0.0
    return penalty, gradient


def inverse_variance(weight: Tensor) -> tuple[float, Tensor]:
    """1 / variance of the channels' norms, and its gradient."""
    members = list(groups_of("Channels", tuple(weight.shape)))
    norms = [math.sqrt(math.fsum(float(weight[place]) ** 2 for place in places)) for places in members]
    mean = sum(norms) / len(norms)
    variance = sum((norm - mean) ** 2 for norm in norms) / (len(norms) - 1)
    gradient = torch.zeros_like(weight)
    for norm, places in zip(norms, members, strict=True):
        for place in places:
            slope = float(weight[place]) / norm if norm else 0.0
            gradient[place] = -1 / variance**2 * 2 * (norm - mean) / (len(norms) - 1) * slope
    return 1 / variance, gradient


def drawn(shape: tuple[int, ...], seed: int) -> Tensor:
    """A weight of which some elements, and the first filter, are zero."""
    weight = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    weight[weight.abs() < 0.3] = 0.0
    weight[0] = 0.0
    return weight


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(shape=shapes, seed=st.integers(0, 9), strength=st.floats(1e-6, 1e3))
def test_group_lasso_and_its_gradient(kind: str, shape: tuple[int, ...], seed: int, strength: float) -> None:
    if kind == "2D" and len(shape) < 3:
        shape = (*shape, 3)
    weight = drawn(shape, seed).requires_grad_()
    penalty = group_lasso_regularizer({"weight": (strength, kind)}).targets["weight"]  # type: ignore[arg-type]  # a str of the ten
    value, gradient = group_lasso(weight.detach(), kind)
    loss = penalty.strength * penalty.norm(weight)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(strength * value, rel=1e-13)
    assert torch.allclose(weight.grad, strength * gradient, rtol=1e-12, atol=0)


@settings(max_examples=30)
@given(shape=shapes, seed=st.integers(0, 9))
def test_inverse_variance_and_its_gradient(shape: tuple[int, ...], seed: int) -> None:
    shape = (shape[0] + 1, shape[1] + 1, *shape[2:])
    weight = drawn(shape, seed).requires_grad_()
    loss = InverseVariance(CHANNELS)(weight)
    loss.backward()
    value, gradient = inverse_variance(weight.detach())
    assert float(loss.detach()) == pytest.approx(value, rel=1e-9)
    assert torch.allclose(weight.grad, gradient, rtol=1e-9, atol=1e-9 * float(gradient.abs().max()))


@pytest.mark.parametrize("tile", [FILTERS, CHANNELS, KERNELS, TENSOR, Tile((2, 3)), Tile((1, 1), rest=1)], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed"])
def test_any_tile_and_any_strides_up_to_the_second_derivative(tile: Tile, layout: str) -> None:
    weight = torch.randn(4, 6, 1, 2, dtype=torch.float64)
    weight = weight.to(memory_format=torch.channels_last) if layout == "channels_last" else weight
    weight = weight.transpose(0, 1).contiguous().transpose(0, 1) if layout == "transposed" else weight
    weight.requires_grad_()
    expected = tile.fold(weight).square().sum(1).add(1e-3).sqrt()
    assert torch.allclose(group_norms(weight, tile, 1e-3).flatten(), expected, rtol=1e-14)
    assert torch.autograd.gradcheck(lambda weight: group_norms(weight, tile, 1e-3), weight)
    assert torch.autograd.gradgradcheck(lambda weight: group_norms(weight, tile, 1e-3).square(), weight)


@pytest.mark.parametrize("norm", [GroupNorm(FILTERS), GroupNorm(CHANNELS, 1e-8), GroupNorm(TENSOR), InverseVariance(CHANNELS), l1_norm])
def test_zeros_have_a_finite_penalty_and_a_gradient_of_zero(norm: GroupNorm) -> None:
    weight = torch.zeros(4, 5, 3, 3, requires_grad=True)
    loss = norm(weight)
    loss.backward()
    assert loss.isfinite()
    assert torch.equal(weight.grad, torch.zeros(4, 5, 3, 3))


def test_channels_of_one_size_have_no_gradient() -> None:
    weight = torch.ones(4, 5, requires_grad=True)
    InverseVariance(CHANNELS)(weight).backward()
    assert torch.equal(weight.grad, torch.zeros(4, 5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("norm", [GroupNorm(FILTERS), GroupNorm(CHANNELS, 1e-8), InverseVariance(CHANNELS), l1_norm])
def test_half_precision_is_added_up_in_single(dtype: torch.dtype, norm: GroupNorm) -> None:
    weight = (300 * torch.randn(40, 50)).to(dtype).requires_grad_()  # squares of these are beyond float16
    twin = weight.detach().float().requires_grad_()
    norm(weight).backward()
    norm(twin).backward()
    assert norm(weight).dtype == torch.float32
    assert torch.equal(norm(weight).detach(), norm(twin).detach())
    assert torch.equal(weight.grad, twin.grad.to(dtype))


@pytest.mark.parametrize("tile", [FILTERS, CHANNELS, KERNELS, TENSOR], ids=str)
@pytest.mark.parametrize("shape", [(300, 50, 3, 3), (1, 1000, 3, 50), (2000, 1, 10, 10)], ids=str)
def test_large_weights_are_read_in_pieces(tile: Tile, shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert weight.numel() > CHUNK
    group_norms(weight, tile).sum().backward()
    norms = tile.fold(weight.detach()).norm(dim=1, keepdim=True)
    assert torch.allclose(group_norms(weight, tile).detach().flatten(), norms.flatten())
    assert torch.allclose(weight.grad, weight.detach() / tile.unfold(norms, shape))
    weight.grad = None
    l1_norm(weight).backward()
    assert float(l1_norm(weight).detach()) == pytest.approx(float(weight.detach().abs().sum()))
    assert torch.equal(weight.grad, weight.detach().sign())


def test_a_run_that_diverged_shows() -> None:
    weight = torch.ones(3, 4)
    weight[1, 2] = math.nan
    for norm in (GroupNorm(FILTERS), InverseVariance(CHANNELS), l1_norm):
        assert norm(weight).isnan()


def test_the_strength_of_a_variance_may_stand_alone_or_with_its_group() -> None:
    alone, listed = (group_variance_regularizer({"weight": value}) for value in (0.3, (0.3, "Channels")))  # type: ignore[dict-item]  # either
    assert alone == listed
