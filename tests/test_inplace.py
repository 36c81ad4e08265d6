"""``apply_mask_``: exact zeros where the mask drops, the same bits where it keeps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from limbeck._inplace import CHUNK, apply_mask_

BITS = {torch.float16: torch.int16, torch.bfloat16: torch.int16, torch.float32: torch.int32, torch.float64: torch.int64}
AWKWARD = [1.5, -2.0, 0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1e-40, -6e-8]


def expected(weight: Tensor, keep: Tensor) -> Tensor:
    """The bits by another way: 0 is all bits clear in every float format."""
    return torch.where(keep, weight.view(BITS[weight.dtype]), 0)


@given(st.data(), st.sampled_from(list(BITS)))
def test_dropped_is_positive_zero_and_kept_is_untouched_bit_for_bit(data: st.DataObject, dtype: torch.dtype) -> None:
    values = data.draw(st.lists(st.sampled_from(AWKWARD), min_size=1, max_size=20))
    weight = torch.tensor(values, dtype=dtype)
    keep = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))))
    wanted = expected(weight, keep)
    apply_mask_(weight, keep)
    assert torch.equal(weight.view(BITS[dtype]), wanted)


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, 3 * CHUNK + 5])
def test_sizes_around_the_chunk(size: int) -> None:
    weight, keep = torch.randn(size), torch.rand(size) > 0.5
    wanted = expected(weight, keep)
    apply_mask_(weight, keep)
    assert torch.equal(weight.view(torch.int32), wanted)


@pytest.mark.parametrize(
    "view", [lambda t: t.t(), lambda t: t[:, ::2], lambda t: t[1:, 3:]], ids=["transposed", "every second column", "a corner"]
)
@pytest.mark.parametrize("fold_keep", [False, True])
def test_weights_and_masks_that_are_not_contiguous(view, fold_keep: bool) -> None:  # noqa: ANN001
    base = torch.randn(8, 10)
    weight = view(base)
    keep = torch.rand(weight.shape[::-1]).t() > 0.5 if fold_keep else torch.rand(weight.shape) > 0.5
    outside, wanted = base.clone(), torch.where(keep, weight, 0)
    apply_mask_(weight, keep)
    assert torch.equal(weight, wanted)
    view(outside).copy_(wanted)
    assert torch.equal(base, outside), "elements outside the view must stay"


def test_channels_last() -> None:
    weight = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last)
    keep = torch.rand(4, 3, 5, 5) > 0.5
    wanted = torch.where(keep, weight, 0)
    apply_mask_(weight, keep)
    assert torch.equal(weight, wanted)


def test_a_parameter_stays_a_trainable_leaf_and_the_optimizer_goes_on() -> None:
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    keep = torch.tensor([[True, False, True], [False, True, False]])
    for _ in range(3):
        optimizer.zero_grad()
        layer(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        apply_mask_(layer.weight, keep)
    assert layer.weight.is_leaf
    assert layer.weight.requires_grad
    assert torch.equal(layer.weight != 0, keep)


def test_autograd_notices_a_weight_that_changes_between_forward_and_backward() -> None:
    weight = torch.ones(2, requires_grad=True)
    loss = weight.square().sum()
    apply_mask_(weight, torch.tensor([True, False]))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
