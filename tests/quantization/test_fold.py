"""Batch norms as a part of the layer before: what that computes, and where it cannot be."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limbeck.graph import capture
from limbeck.quantization.fold import folded, foldings
from limbeck.quantization.kinds import leaves
from limbeck.quantization.paths import Paths
from limbeck.quantization.post_train import PostTrainLinearQuantizer


def worn(norm: nn.Module) -> nn.Module:
    """A batch norm that has seen something."""
    for name in ("running_mean", "running_var", "weight", "bias"):
        tensor = getattr(norm, name)
        if tensor is not None:
            tensor.data.uniform_(0.5, 2.0)
    return norm


LAYERS: dict[str, Any] = {
    "conv": (lambda: nn.Conv2d(3, 4, 3), lambda: nn.BatchNorm2d(4), (2, 3, 5, 5)),
    "conv without a bias": (lambda: nn.Conv1d(3, 4, 1, bias=False), lambda: nn.BatchNorm1d(4), (2, 3, 5)),
    "groups": (lambda: nn.Conv2d(4, 4, 3, groups=4), lambda: nn.BatchNorm2d(4), (2, 4, 5, 5)),
    "norm without a scale": (lambda: nn.Conv2d(3, 4, 3), lambda: nn.BatchNorm2d(4, affine=False), (2, 3, 5, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 3), lambda: nn.BatchNorm2d(4), (2, 3, 5, 5)),
    "linear": (lambda: nn.Linear(3, 4), lambda: nn.BatchNorm1d(4), (5, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_with_its_norm_computes_what_both_did(name: str) -> None:
    make, norm_of, shape = LAYERS[name]
    layer, norm = make(), worn(norm_of()).eval()
    x = torch.randn(shape)
    weight, bias = folded(layer.weight, layer.bias, norm, int(name == "transposed"))
    twin = copy.deepcopy(layer)
    twin.weight, twin.bias = nn.Parameter(weight), nn.Parameter(bias)
    torch.testing.assert_close(twin(x), norm(layer(x)), rtol=1e-5, atol=1e-5)


def test_by_hand_and_a_zero_stays_a_zero() -> None:
    """gamma 3, beta 1, mean 2, variance 4: (w x + .5 - 2) * 3 / 2 + 1."""
    norm = nn.BatchNorm1d(1, eps=0.0).eval()
    for name, value in (("weight", 3.0), ("bias", 1.0), ("running_mean", 2.0), ("running_var", 4.0)):
        getattr(norm, name).data.fill_(value)
    weight, bias = folded(torch.tensor([[2.0, 0.0]]), torch.tensor([0.5]), norm)
    assert (weight.tolist(), bias.tolist()) == ([[3.0, 0.0]], [-1.25])


class Places(nn.Module):
    """Norms that can be folded, and those that cannot, each for a reason of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.plain_norm = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)
        self.read, self.read_norm = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)
        self.twice, self.twice_norm = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)
        self.tied, self.tied_norm, self.other = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1)
        self.other.weight = self.tied.weight
        self.shared, self.shared_norm = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)
        self.batch, self.batch_norm = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, track_running_stats=False)
        self.first_norm = nn.BatchNorm2d(2)
        self.steps, self.steps_norm = nn.Linear(3, 3), nn.BatchNorm1d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first_norm(x)
        x = self.plain_norm(self.plain(x))
        read = self.read(x)
        x = self.read_norm(read) + read
        x = self.twice(self.twice_norm(self.twice(x)))
        x = self.other(self.tied_norm(self.tied(x)))
        x = self.shared_norm(self.shared_norm(self.shared(x)))
        x = self.batch_norm(self.batch(x))
        result: Tensor = self.steps_norm(self.steps(x.flatten(2)[..., :3]))
        return result


def test_what_can_be_folded_is_read_off_the_graph() -> None:
    model = Places().eval()
    found = leaves(model)
    paths = Paths(capture(model, [torch.randn(2, 2, 2, 2)]), found)
    assert {name: each.norm for name, each in foldings(paths, found).items()} == {"plain": "plain_norm"}


@pytest.mark.parametrize("bits", [8, None])
def test_a_quantizer_folds_also_what_stays_in_floats(bits: int | None) -> None:
    """The model computes what it did, and where it does not, only because of integers; what it was made of is as it was."""
    conv, norm = nn.Conv2d(3, 4, 3, bias=False), worn(nn.BatchNorm2d(4))
    conv.weight.data[0].zero_()
    before = conv.weight.detach().clone()
    model = nn.Sequential(conv, norm, nn.Flatten()).eval()
    x = torch.randn(2, 3, 5, 5)
    with torch.no_grad():
        expected = model(x)
        quantizer = PostTrainLinearQuantizer(
            model, bits_activations=bits, bits_parameters=bits, mode="asymmetric_signed", per_channel_wts=True
        )
        quantizer.prepare_model([x])
        torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=0.1 if bits else 1e-5)
    assert isinstance(model[1], nn.Identity)
    assert quantizer.settings["1"].make_identity
    assert torch.equal(before, conv.weight) == (bits is not None)
    if bits:
        assert next(row for row in quantizer.rows() if row.tensor == "weight").zeros_before == 27
