"""Reading a tensor group by group in its own layout gives what folding it gives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.pruning import _groupwise
from limbeck.pruning._groupwise import any_kept, reduced
from limbeck.tile import ALL, Tile


@st.composite
def tiled(draw: st.DrawFn) -> tuple[Tile, tuple[int, ...]]:
    """A shape, and a tile that cuts it, padded or not."""
    pad = draw(st.booleans())
    rank = draw(st.integers(1, 4))
    sizes = draw(st.lists(st.sampled_from([1, 2, 3, ALL]), max_size=rank))
    rest = draw(st.sampled_from([1, ALL]))
    blocks = [*sizes, *[rest] * (rank - len(sizes))]
    shape = []
    for size in blocks:
        length = draw(st.integers(1, 4))
        shape.append(length if size == ALL or pad else length * size)
    return Tile(tuple(sizes), rest, pad), tuple(shape)


@settings(max_examples=200, deadline=None)
@given(tiled(), st.sampled_from([1, 3, 16, 1 << 17]), st.booleans(), st.booleans())
def test_as_folding(case: tuple[Tile, tuple[int, ...]], chunk: int, largest: bool, transposed: bool) -> None:
    tile, shape = case
    weight = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))
    if transposed:
        weight = weight.transpose(0, -1).contiguous().transpose(0, -1)
    factor = torch.linspace(1, 2, shape[0], dtype=torch.float64).reshape(-1, *[1] * (len(shape) - 1))

    def measure(values: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        return values.abs() * factors

    folded = measure(tile.fold(weight), tile.fold(factor.expand(shape)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_groupwise, "CHUNK", chunk)
        found = reduced(tile, weight, measure, [factor], largest)
    torch.testing.assert_close(found, folded.amax(1) if largest else folded.sum(1), rtol=1e-12, atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(tiled(), st.sampled_from([1, 5, 1 << 17]))
def test_any_kept_as_folding(case: tuple[Tile, tuple[int, ...]], chunk: int) -> None:
    tile, shape = case
    keep = torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape))) > 0.7
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_groupwise, "CHUNK", chunk)
        found = any_kept(tile, keep)
    assert found.dtype == torch.bool
    assert torch.equal(found, tile.fold(keep).any(1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_numbers_of_16_bits_are_added_as_float32(dtype: torch.dtype) -> None:
    weight = torch.full((2, 60_000), 3.0, dtype=dtype)
    total = reduced(Tile((1,)), weight, torch.square)
    assert total.dtype == torch.float32
    assert total.tolist() == [540_000.0, 540_000.0]


def test_the_largest_of_negative_numbers() -> None:
    assert reduced(Tile((1,)), torch.tensor([[-3.0, -1.0], [-2.0, -5.0]]), torch.clone, largest=True).tolist() == [-1.0, -2.0]
    assert reduced(Tile(), torch.tensor([-3, -1]), torch.clone, largest=True).tolist() == [-1]


def test_gradients_are_not_recorded() -> None:
    weight = torch.ones(2, 3, requires_grad=True)
    assert not reduced(Tile((1,)), weight, torch.abs).requires_grad
