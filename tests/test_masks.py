"""Masks: bool tensors of their parameters' shape, applied in place, nothing registered on the model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.errors import CheckpointError, MaskError
from limbeck.masks import Masks
from limbeck.names import named_parameters


def made(model: nn.Module) -> Masks:
    return Masks(named_parameters(model))


def test_put_get_drop() -> None:
    masks = made(nn.Linear(3, 2))
    keep = torch.tensor([[True, False, True], [False, True, True]])
    masks.put("weight", keep)
    assert "weight" in masks
    assert "bias" not in masks
    assert list(masks) == ["weight"]
    assert len(masks) == 1
    assert masks.get("bias") is None
    assert torch.equal(masks["weight"], keep)
    assert [name for name, _ in masks.items()] == ["weight"]
    with pytest.raises(KeyError):
        masks["bias"]


def test_apply_zeroes_what_is_dropped_and_nothing_else() -> None:
    model = nn.Linear(40, 30)
    before = model.weight.detach().clone()
    keep = torch.rand(30, 40) > 0.5
    masks = made(model)
    masks.put("weight", keep)
    assert torch.equal(model.weight, before)  # not before it is applied
    masks.apply()
    assert torch.equal(model.weight, torch.where(keep, before, 0.0))
    assert not torch.signbit(model.weight[~keep]).any()


def test_apply_to_named_parameters_only() -> None:
    model = nn.Linear(3, 2)
    before = model.bias.detach().clone()
    masks = made(model)
    masks.put("weight", torch.zeros(2, 3, dtype=torch.bool))
    masks.put("bias", torch.zeros(2, dtype=torch.bool))
    masks.apply(["weight"])
    assert torch.equal(model.bias, before)
    assert model.weight.count_nonzero() == 0


def test_autograd_notices_masks_that_are_applied_between_forward_and_backward() -> None:
    model = nn.Linear(3, 2, bias=False)
    masks = made(model)
    masks.put("weight", torch.zeros(2, 3, dtype=torch.bool))
    loss = model.weight.square().sum()
    masks.apply()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_apply_in_any_float_and_any_strides(dtype: torch.dtype) -> None:
    model = nn.Conv2d(4, 6, 3).to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's annotation
    before, keep = model.weight.detach().clone(), torch.rand(6, 4, 3, 3) > 0.3
    masks = made(model)
    masks.put("weight", keep)
    masks.apply()
    assert torch.equal(model.weight, before * keep)


def test_what_has_diverged_is_zeroed_too() -> None:
    model = nn.Linear(3, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[float("nan"), float("inf"), 1.0]]))
    masks = made(model)
    masks.put("weight", torch.tensor([[False, False, True]]))
    masks.apply()
    assert torch.equal(model.weight, torch.tensor([[0.0, 0.0, 1.0]]))


def test_nothing_is_registered_on_the_model() -> None:
    model = nn.Linear(3, 2)
    keys, parameter = list(model.state_dict()), model.weight
    masks = made(model)
    masks.put("weight", torch.ones(2, 3, dtype=torch.bool))
    masks.apply()
    assert list(model.state_dict()) == keys
    assert model.weight is parameter
    assert not model.weight._backward_hooks


@pytest.mark.parametrize("keep", [torch.ones(2, 3), torch.ones(3, 2, dtype=torch.bool), torch.ones(6, dtype=torch.bool)])
def test_another_type_or_shape_is_refused(keep: torch.Tensor) -> None:
    with pytest.raises(MaskError, match=r"the mask of 'weight' must be bool of shape \(2, 3\)"):
        made(nn.Linear(3, 2)).put("weight", keep)


def test_state_goes_and_comes_and_replaces() -> None:
    saved = made(nn.Linear(3, 2))
    saved.put("weight", torch.rand(2, 3) > 0.5)
    fresh = made(nn.Linear(3, 2))
    fresh.put("bias", torch.ones(2, dtype=torch.bool))
    fresh.load_state_dict(saved.state_dict())
    assert list(fresh) == ["weight"]
    assert torch.equal(fresh["weight"], saved["weight"])


def test_state_of_another_model_is_refused() -> None:
    masks = made(nn.Linear(3, 2))
    with pytest.raises(CheckpointError, match=r"masks for \['conv.weight'\], which the model lacks"):
        masks.load_state_dict({"conv.weight": torch.ones(1, dtype=torch.bool)})
    with pytest.raises(CheckpointError, match=r"'weight' must be bool of shape \(2, 3\), not torch.bool of \(5, 5\)"):
        masks.load_state_dict({"weight": torch.ones(5, 5, dtype=torch.bool)})
    assert len(masks) == 0
