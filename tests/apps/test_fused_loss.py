"""The softmax layer and its loss in one: equal to torch's two functions, in value and in every gradient."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.apps import fused_loss as module
from limbeck.apps.fused_loss import Scratch, linear_cross_entropy, smoothed_cross_entropy


def layer(tokens: int, features: int, vocabulary: int) -> tuple[Tensor, nn.Parameter, nn.Parameter, Tensor]:
    """Input, weight, bias, and targets that repeat words."""
    hidden = torch.randn(tokens, features, requires_grad=True)
    weight, bias = nn.Parameter(torch.randn(vocabulary, features)), nn.Parameter(torch.randn(vocabulary))
    return hidden, weight, bias, torch.randint(max(1, vocabulary // 2), (tokens,))


@pytest.mark.parametrize(("tokens", "features", "vocabulary"), [(1, 1, 1), (1, 3, 7), (6, 4, 64), (13, 8, 101), (40, 5, 3)])
@pytest.mark.parametrize("tile_elements", [1, 64, 1 << 19])
def test_value_and_gradients(monkeypatch: pytest.MonkeyPatch, tokens: int, features: int, vocabulary: int, tile_elements: int) -> None:
    monkeypatch.setattr(module, "_TILE_ELEMENTS", tile_elements)
    hidden, weight, bias, target = layer(tokens, features, vocabulary)
    for scale in (1.0, -2.5):  # what a penalty or a mean over parts makes of the gradient from above
        ours, torchs = linear_cross_entropy(hidden, weight, bias, target), F.cross_entropy(F.linear(hidden, weight, bias), target)
        torch.testing.assert_close(ours, torchs)
        inputs = (hidden, weight, bias)
        torch.testing.assert_close(torch.autograd.grad(scale * ours, inputs), torch.autograd.grad(scale * torchs, inputs))


def test_logits_of_any_size() -> None:
    hidden, weight, bias, target = layer(5, 4, 30)
    scaled = (hidden * 1e4, weight, bias, target)
    loss = linear_cross_entropy(*scaled)
    assert loss.isfinite()
    torch.testing.assert_close(loss, F.cross_entropy(F.linear(*scaled[:3]), target))


def test_memory_is_used_again_without_mixing_steps() -> None:
    scratch = Scratch()
    for tokens in (9, 4, 12):
        hidden, weight, bias, target = layer(tokens, 3, 17)
        loss = linear_cross_entropy(hidden, weight, bias, target, scratch)
        torch.testing.assert_close(loss, linear_cross_entropy(hidden, weight, bias, target))
    assert scratch.take(1, hidden).data_ptr() == scratch.take(17 * 12, hidden).data_ptr()
    assert copy.deepcopy(scratch).take(1, hidden).data_ptr() != scratch.take(1, hidden).data_ptr()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_an_evaluation_forms_no_gradients(monkeypatch: pytest.MonkeyPatch, mode: type[torch.no_grad]) -> None:
    hidden, weight, bias, target = layer(6, 4, 20)
    expected = linear_cross_entropy(hidden, weight, bias, target)
    monkeypatch.delattr(module, "_gradients")
    with mode():
        assert torch.equal(linear_cross_entropy(hidden, weight, bias, target), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_go_to_torch(dtype: torch.dtype) -> None:
    hidden, weight, bias, target = layer(6, 4, 20)
    given = (hidden.to(dtype), weight.to(dtype), bias.to(dtype))
    assert torch.equal(linear_cross_entropy(*given, target), F.cross_entropy(F.linear(*given).float(), target))


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(("tokens", "most"), [(1, 4), (4, 4), (13, 4), (13, 1024)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_smoothing_in_parts(monkeypatch: pytest.MonkeyPatch, tokens: int, most: int, smoothing: float, biased: bool) -> None:
    """torch's smoothing spreads over the target too, so that one of V tokens gets (V - 1) / V of what the others get here."""
    monkeypatch.setattr(module, "_MOST_TOKENS", most)
    monkeypatch.setattr(module, "_TILE_ELEMENTS", 32)
    hidden, weight, bias, target = layer(tokens, 5, 21)
    inputs = (hidden, weight, bias) if biased else (hidden, weight)
    given = bias if biased else None
    loss, nll = smoothed_cross_entropy(hidden, weight, given, target, smoothing)
    logits = F.linear(hidden, weight, given)
    expected = F.cross_entropy(logits, target, label_smoothing=smoothing * 21 / 20)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(nll, F.cross_entropy(logits, target))
    assert not nll.requires_grad
    torch.testing.assert_close(torch.autograd.grad(3 * loss, inputs), torch.autograd.grad(3 * expected, inputs))


def test_smoothing_elsewhere_is_the_same() -> None:
    hidden, weight, bias, target = layer(6, 4, 20)
    ours = smoothed_cross_entropy(hidden, weight, bias, target, 0.2)
    exact = smoothed_cross_entropy(hidden.double(), weight.double(), bias.double(), target, 0.2)
    torch.testing.assert_close(ours, exact)
