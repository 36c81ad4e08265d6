"""Tile: fold and unfold are inverse, and groups are the blocks that they claim to be."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limbeck.tile import ALL, CHANNELS, ELEMENT, FILTERS, KERNELS, TENSOR, Tile

Case = tuple[Tile, tuple[int, ...], tuple[int, ...]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A tile, a shape that it tiles, and an order of axes for strides that are not the usual ones."""
    block = draw(st.lists(st.integers(1, 4), min_size=0, max_size=4))
    grid = draw(st.lists(st.integers(1, 4), min_size=len(block), max_size=len(block)))
    shape = tuple(size * number for size, number in zip(block, grid, strict=True))
    sizes = tuple(draw(st.sampled_from([size, ALL] if size == length else [size])) for size, length in zip(block, shape, strict=True))
    given_sizes = draw(st.integers(0, len(sizes)))
    rest = set(sizes[given_sizes:])
    if len(rest) == 1:
        return Tile(sizes[:given_sizes], rest.pop()), shape, tuple(draw(st.permutations(range(len(shape)))))
    return Tile(sizes), shape, tuple(draw(st.permutations(range(len(shape)))))


def strided(shape: tuple[int, ...], axes: tuple[int, ...]) -> Tensor:
    """Distinct numbers in a tensor of ``shape`` whose strides follow ``axes``."""
    numbers = torch.arange(math.prod(shape), dtype=torch.float32)
    inverse = [axes.index(axis) for axis in range(len(axes))]
    return numbers.reshape([shape[axis] for axis in axes]).permute(inverse)


@given(cases())
@settings(deadline=None, max_examples=150)
def test_unfold_is_the_inverse_of_fold(case: Case) -> None:
    tile, shape, axes = case
    tensor = strided(shape, axes)
    groups = tile.fold(tensor)
    assert groups.shape == (math.prod(tile.grid(shape)), math.prod(tile.block(shape)))
    assert torch.equal(tile.unfold(groups, shape), tensor)
    assert torch.equal(tile.fold(tile.unfold(groups, shape)), groups)


@given(cases())
@settings(deadline=None, max_examples=100)
def test_groups_are_the_blocks_in_row_major_order(case: Case) -> None:
    tile, shape, axes = case
    tensor, block = strided(shape, axes), tile.block(shape)
    corners = product(*[range(0, length, size) for length, size in zip(shape, block, strict=True)])
    blocks = [tensor[tuple(slice(at, at + size) for at, size in zip(corner, block, strict=True))].reshape(-1) for corner in corners]
    assert torch.equal(tile.fold(tensor), torch.stack(blocks))


@given(cases())
@settings(deadline=None, max_examples=50)
def test_one_number_a_group_is_spread_over_its_members(case: Case) -> None:
    tile, shape, axes = case
    sums = tile.fold(strided(shape, axes)).sum(1, keepdim=True)
    spread = tile.unfold(sums, shape)
    assert spread.shape == shape
    assert torch.equal(tile.fold(spread), sums.expand(-1, math.prod(tile.block(shape))))


@st.composite
def padded_cases(draw: st.DrawFn) -> Case:
    """A tile that pads, a shape that it need not tile, and an order of axes."""
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=0, max_size=4)))
    sizes = tuple(draw(st.integers(1, 5) | st.just(ALL)) for _ in shape)
    named = draw(st.integers(0, len(sizes)))
    rest = sizes[-1] if sizes else 1
    return Tile(sizes[:named], rest, pad=True), shape, tuple(draw(st.permutations(range(len(shape)))))


@given(padded_cases())
@settings(deadline=None, max_examples=150)
def test_padded_groups_are_those_of_the_tensor_set_into_a_larger_one(case: Case) -> None:
    tile, shape, axes = case
    tensor = strided(shape, axes)
    whole = tuple(math.ceil(length / size) * size for length, size in zip(shape, tile.block(shape), strict=True))
    larger = torch.full(whole, -1.0)
    larger[tuple(slice(length) for length in shape)] = tensor
    groups = tile.fold(tensor, fill=-1.0)
    assert torch.equal(groups, Tile(tile.block(shape)).fold(larger))
    assert groups.shape == (math.prod(tile.grid(shape)), math.prod(tile.block(shape)))
    assert torch.equal(tile.unfold(groups, shape), tensor)
    assert torch.equal(tile.unfold(groups[:, :1], shape), tile.unfold(groups[:, :1].expand_as(groups), shape))


def test_a_tile_that_pads_is_the_same_where_sizes_divide() -> None:
    weight = torch.arange(24.0).reshape(4, 6)
    for sizes in ((1, 3), (2,), (ALL, 2)):
        padded = Tile(sizes, pad=True)
        assert torch.equal(padded.fold(weight), Tile(sizes).fold(weight))
        assert padded.unfold(padded.fold(weight), (4, 6)).is_contiguous()


def test_masks_are_padded_with_what_is_not_kept() -> None:
    kept = torch.ones(2, 3, dtype=torch.bool)
    assert Tile((1, 2), pad=True).fold(kept, fill=False).tolist() == [[True, True], [True, False]] * 2
    scores = Tile((1, 2), pad=True).fold(torch.zeros(1, 3, dtype=torch.bfloat16), fill=-math.inf)
    assert scores.tolist() == [[0.0, 0.0], [0.0, -math.inf]]


def test_the_named_tiles() -> None:
    weight = torch.arange(2 * 3 * 2 * 2.0).reshape(2, 3, 2, 2)
    assert torch.equal(ELEMENT.fold(weight), weight.reshape(-1, 1))
    assert torch.equal(TENSOR.fold(weight), weight.reshape(1, -1))
    assert torch.equal(FILTERS.fold(weight), weight.reshape(2, -1))
    assert torch.equal(CHANNELS.fold(weight), weight.transpose(0, 1).reshape(3, -1))
    assert torch.equal(KERNELS.fold(weight), weight.reshape(6, 4))


def test_fold_is_a_view_where_strides_allow() -> None:
    weight = torch.zeros(4, 6)
    for tile in (ELEMENT, TENSOR, FILTERS):
        assert tile.fold(weight).data_ptr() == weight.data_ptr()


def test_a_scalar_and_an_empty_tensor_fold() -> None:
    scalar = torch.tensor(3.0)
    for tile in (ELEMENT, TENSOR):
        assert torch.equal(tile.unfold(tile.fold(scalar), ()), scalar)
    assert ELEMENT.fold(torch.zeros(0, 3)).shape == (0, 1)


@pytest.mark.parametrize(
    ("tile", "shape"),
    [
        (Tile((2,)), (3, 4)),
        (Tile((1, 1, 1)), (3, 4)),
        (Tile(rest=3), (3, 4)),
        (Tile((0,)), (3, 4)),
        (Tile((-2,)), (4,)),
        (Tile((1, 1, 1), pad=True), (3, 4)),
        (Tile((0,), pad=True), (3, 4)),
    ],
)
def test_a_tile_that_does_not_fit_says_so(tile: Tile, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"(does not tile|do not fill) a tensor of shape"):
        tile.fold(torch.zeros(shape))


def test_a_tile_says_what_it_is() -> None:
    assert repr(Tile((1, 4))) == "Tile(sizes=(1, 4), rest=-1)"
    assert repr(Tile((1, 4), rest=1, pad=True)) == "Tile(sizes=(1, 4), rest=1, pad=True)"
