"""Masks: bool tensors of their parameters' shape, applied in place, nothing registered on the model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import nn

from limbeck.errors import CheckpointError, MaskError
from limbeck.masks import Life, Masks
from limbeck.names import Named, named_parameters


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


@pytest.mark.parametrize("move", [lambda model: model.double(), lambda model: setattr(model.weight, "data", model.weight.data.clone())])
def test_masks_follow_weights_that_move(move: Callable[[nn.Linear], object]) -> None:
    """What was made ready for the old place must not be applied there."""
    model = nn.Linear(3, 2)
    masks = made(model)
    keep = torch.tensor([[True, False, True], [False, True, True]])
    masks.put("weight", keep)
    masks.apply()
    move(model)
    with torch.no_grad():
        model.weight.fill_(2.0)
    masks.apply()
    assert torch.equal(model.weight, 2.0 * keep)


def test_ids_are_those_of_the_parameters_with_a_mask() -> None:
    model = nn.Linear(3, 2)
    masks = made(model)
    assert masks.ids == frozenset()
    masks.put("weight", torch.ones(2, 3, dtype=torch.bool))
    assert masks.ids == {id(model.weight)}
    masks.drop(["weight"])
    assert masks.ids == frozenset()
    assert len(masks) == 0


def lives(life: Life, scale: float = 1.0) -> tuple[nn.Linear, Masks]:
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0]]))
    masks = made(model)
    masks.put("weight", torch.tensor([[True, False]]), life, scale)
    masks.apply()
    return model, masks


def step(model: nn.Linear, masks: Masks) -> None:
    """An optimizer's step that adds 10 to every weight."""
    masks.open()
    with torch.no_grad():
        model.weight.add_(10.0)
    masks.apply()


def test_a_soft_mask_keeps_a_dense_copy_that_the_step_changes() -> None:
    model, masks = lives("soft")
    assert model.weight.tolist() == [[1.0, 0.0]]
    assert masks.dense("weight").tolist() == [[1.0, 2.0]]
    step(model, masks)
    assert model.weight.tolist() == [[11.0, 0.0]]
    assert masks.dense("weight").tolist() == [[11.0, 12.0]]
    masks.put("weight", torch.tensor([[False, True]]), "soft")
    masks.apply()
    assert model.weight.tolist() == [[0.0, 12.0]]
    masks.drop(["weight"])
    assert model.weight.tolist() == [[11.0, 12.0]]


def test_a_mask_on_the_forward_pass_lets_the_step_begin_from_zero() -> None:
    model, masks = lives("forward")
    for _ in range(2):
        kept = model.weight[0, 0].item()
        step(model, masks)
        assert model.weight.tolist() == [[kept + 10, 0.0]]
        assert masks.dense("weight").tolist() == [[kept + 10, 10.0]]


def test_a_soft_mask_may_scale_what_it_keeps() -> None:
    model, masks = lives("soft", scale=2.0)
    for dense in ([1.0, 2.0], [11.0, 12.0]):
        assert model.weight.tolist() == [[2 * dense[0], 0.0]]
        assert masks.dense("weight").tolist() == [dense]
        masks.close()
        masks.apply()  # once more changes nothing
        assert model.weight.tolist() == [[2 * dense[0], 0.0]]
        step(model, masks)


@pytest.mark.parametrize("life", get_args(Life))
def test_what_is_kept_follows_a_parameter_that_is_moved(life: Life) -> None:
    """``model.to(device)`` keeps the parameter and gives it other data, which on a CPU alone cannot be had: another parameter stands for it."""
    parameters = named_parameters(nn.Linear(2, 1, bias=False))
    masks = Masks(parameters)
    masks.put("weight", torch.tensor([[True, False]]), life)
    masks.apply()
    parameters["weight"] = Named("weight", nn.Parameter(torch.zeros(1, 2, device="meta")))
    masks.follow()
    assert masks["weight"].is_meta
    assert all(aside["values"].is_meta for aside in masks.aside_state_dict().values())
    masks.open()
    masks.apply()


def test_a_hardened_mask_has_nothing_aside() -> None:
    model, masks = lives("soft")
    masks.harden(["weight"])
    assert masks.life("weight") == "hard"
    assert masks.aside_state_dict() == {}
    step(model, masks)
    assert model.weight.tolist() == [[11.0, 0.0]]


@pytest.mark.parametrize("life", get_args(Life))
def test_a_hard_mask_that_follows_is_made_of_the_dense_values(life: Life) -> None:
    model, masks = lives(life)
    step(model, masks)
    masks.put("weight", torch.tensor([[True, True]]))
    masks.apply()
    assert model.weight.tolist() == {"hard": [[11.0, 0.0]], "soft": [[11.0, 12.0]], "forward": [[11.0, 10.0]]}[life]
    assert masks.life("weight") == "hard"


def test_dense_copies_go_and_come() -> None:
    model, masks = lives("soft", scale=4.0)
    twin = copy.deepcopy(model)
    again = made(twin)
    again.load_state_dict(masks.state_dict(), masks.aside_state_dict())
    for one, other in ((model, masks), (twin, again)):
        step(one, other)
    assert torch.equal(model.weight, twin.weight)
    assert torch.equal(masks.dense("weight"), again.dense("weight"))
    with pytest.raises(CheckpointError, match="the model lacks"):
        again.load_state_dict({}, masks.aside_state_dict())


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
