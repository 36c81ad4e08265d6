"""Group types as tiles, against where their elements lie in the tensor."""

from __future__ import annotations

import pytest
import torch

from limbeck.groups import GROUPS, group, groupings, misfit
from limbeck.tile import TENSOR, Tile

CONVOLUTION = torch.arange(2 * 3 * 2 * 2.0).reshape(2, 3, 2, 2)
MATRIX = torch.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize(
    ("name", "weight", "groups"),
    [
        ("2D", CONVOLUTION, [CONVOLUTION[i, j] for i in range(2) for j in range(3)]),
        ("3D", CONVOLUTION, list(CONVOLUTION)),
        ("Filters", CONVOLUTION, list(CONVOLUTION)),
        ("4D", CONVOLUTION, [CONVOLUTION]),
        ("Channels", CONVOLUTION, [CONVOLUTION[:, j] for j in range(3)]),
        ("Rows", CONVOLUTION, list(CONVOLUTION.reshape(2, 12))),
        ("Cols", CONVOLUTION, list(CONVOLUTION.reshape(2, 12).T)),
        ("Filters", MATRIX, list(MATRIX)),
        ("Channels", MATRIX, list(MATRIX.T)),
        ("Rows", MATRIX, list(MATRIX)),
        ("Cols", MATRIX, list(MATRIX.T)),
        ("4D", MATRIX, [MATRIX]),
    ],
)
def test_members(name: str, weight: torch.Tensor, groups: list[torch.Tensor]) -> None:
    assert torch.equal(group(name).fold(weight), torch.stack([members.reshape(-1) for members in groups]))


def test_a_block_is_consecutive_input_channels_at_one_place_of_one_filter() -> None:
    weight = torch.arange(2 * 16 * 3 * 3.0).reshape(2, 16, 3, 3)
    blocks = group("Blocks", [1, 8, 1, 1]).fold(weight)
    assert blocks.shape == (2 * 2 * 9, 8)
    assert torch.equal(blocks[0], weight[0, :8, 0, 0])
    assert torch.equal(blocks[-1], weight[1, 8:, 2, 2])


def test_a_block_shape_may_leave_out_sizes_of_one() -> None:
    assert group("Blocks", [4]).grid((8, 3, 5)) == group("Blocks", [4, 1, 1]).grid((8, 3, 5)) == (2, 3, 5)


def test_pairs() -> None:
    assert groupings("Rows+Cols") == (GROUPS["Rows"], GROUPS["Cols"])
    assert groupings("Cols+Rows") == (GROUPS["Cols"], GROUPS["Rows"])
    assert groupings("Channels+4D") == (GROUPS["Channels"], TENSOR)
    assert groupings("2D") == (GROUPS["2D"],)


@pytest.mark.parametrize(
    ("name", "block_shape", "message"),
    [
        ("Rows+Cols", None, "'Rows.Cols' is no single group type; choose one of 2D, 3D"),
        ("5D", None, "'5D' is no single group type"),
        ("Blocks", None, r"Blocks needs block_shape, .* as in \[1, 8, 1, 1\]$"),
        ("Blocks", [], r"not \[\]"),
        ("Blocks", [1, 0], r"not \[1, 0\]"),
        ("Filters", [1, 8], r"block_shape \[1, 8\] goes with the group type Blocks, not with 'Filters'"),
    ],
)
def test_refused(name: str, block_shape: list[int] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        group(name, block_shape)


@pytest.mark.parametrize(
    ("tile", "shape", "message"),
    [
        (GROUPS["2D"], (4, 3), "a shape of (4, 3) has no groups of type 2D; they take 3 axes or more"),
        (GROUPS["Channels"], (4,), "a shape of (4,) has no groups of type Channels; they take 2 axes or more"),
        (GROUPS["Filters"], (4,), "a shape of (4,) has no groups of type 3D or Filters or Rows; they take 2 axes or more"),
        (group("Blocks", [1, 8, 1, 1]), (4, 8), "a shape of (4, 8) has no blocks of [1, 8, 1, 1]; they take 4 axes or more"),
        (
            group("Blocks", [1, 8]),
            (4, 3),
            "blocks of 1 x 8 do not fill a tensor of shape (4, 3): 8 does not divide 3",
        ),
        (GROUPS["4D"], (4,), None),
        (Tile((1, 4), pad=True), (4, 3), None),
    ],
)
def test_misfit(tile: Tile, shape: tuple[int, ...], message: str | None) -> None:
    assert misfit(tile, shape) == message
