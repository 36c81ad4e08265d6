"""Models as users write them: exactly what each loses, and what it says of the rest."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

from laws.thinned import Trained, agree, chosen, gone, masks_of, randomised, removable
from laws.users import IMAGE, USERS, WORDS, Patches
from limbeck.errors import CaptureError
from limbeck.graph import capture, coupling
from limbeck.thinning import thin


@pytest.mark.parametrize("name", USERS)
def test_what_a_model_loses(name: str) -> None:
    user = USERS[name]
    torch.manual_seed(3)
    model = randomised(user.build())
    found = coupling(capture(model, user.inputs))
    free, recurrent = set(removable(found)), ("_hh_", "_hr_", "_reverse", "_l1", "weight_hh", "bias")
    loses = {
        tensor
        for (tensor, axis) in found.produced
        if free & set(found.classes[tensor, axis]) and not any(end in tensor for end in recurrent)
    }
    assert loses == set(user.loses)
    units = chosen(found, 0.35, 1)
    masked = Trained.of(model, masks_of(model, found, units), "sgd").model
    thinned = copy.deepcopy(masked)
    recipe = thin(thinned, user.inputs)
    assert gone(recipe, found) == units
    agree(masked, thinned, user.inputs)


@pytest.mark.parametrize("like", [torch.randn_like, torch.zeros_like])
def test_heads_that_the_code_counts_stay(like: torch.nn.Module) -> None:
    """Four heads of what is left, not so many as are left: it would run, and compute something else, and on inputs all alike the same."""
    torch.manual_seed(3)
    model, x = randomised(Patches(counted=True)), like(IMAGE)
    found = coupling(capture(model, (x,)))
    head = next(unit for unit in found.units("q.weight") if unit in removable(found))
    feature = found.units("up.weight")[1]
    masked = Trained.of(model, masks_of(model, found, frozenset({head, feature})), "sgd").model
    thinned = copy.deepcopy(masked)
    recipe = thin(thinned, (x,))
    assert gone(recipe, found) == {feature}
    assert "users.py" in recipe.left[-1]
    assert "holds its size" in recipe.left[-1]
    agree(masked, thinned, (IMAGE,))


def test_what_torch_has_pruned_is_thinned() -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    prune.ln_structured(net[0], "weight", 0.5, n=1, dim=0)
    with torch.no_grad():
        net[0].bias[net[0].weight_mask.sum((1, 2, 3)) == 0] = 0
    expected = net(IMAGE)
    thin(net, (IMAGE,))
    torch.testing.assert_close(net(IMAGE), expected)
    assert (net[0].out_channels, net[0].weight_orig.shape, net[0].weight_mask.shape, net[2].in_channels) == (
        3,
        (3, 3, 3, 3),
        (3, 3, 3, 3),
        3,
    )


def test_weights_that_are_computed_stay() -> None:
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 6)), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        net[0].parametrizations.weight.original1[1] = 1e-3
        for tensor in (net[0].bias, net[2].weight, net[2].bias):
            tensor[1] = 0
    assert {cut.tensor for cut in thin(net, (torch.randn(2, 3),)).cuts} == {"2.weight", "2.bias", "4.weight"}


class Depends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) if x.sum() > 0 else self.b(x)


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.rnn = nn.Embedding(9, 4), nn.LSTM(4, 5, batch_first=True)

    def forward(self, index: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(self.embedding(index), lengths, batch_first=True)
        return self.rnn(packed)[1][0]


@pytest.mark.parametrize(
    ("model", "inputs", "line"),
    [(Depends(), (torch.ones(2, 3),), r"if x\.sum\(\) > 0"), (Packed(), (WORDS, torch.tensor([5, 3])), r"self\.rnn\(packed\)")],
)
def test_what_depends_on_values_is_refused_with_its_line(
    model: nn.Module, inputs: tuple[Tensor, ...], line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CaptureError, match=rf"test_thinning_users\.py:\d+.*{line}"):
        thin(model, inputs)
    assert capfd.readouterr() == ("", "")


def test_a_single_unit_is_no_number_of_axes() -> None:
    """Without its last but one channel, ``squeeze()`` drops the axis too: what passes that line stays."""

    class Squeezed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 2, 1), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = F.adaptive_avg_pool2d(F.relu(self.a(x)), 1)
            y = y.squeeze()
            return self.b(y)

    model = Squeezed()
    for tensor in (model.a.weight, model.a.bias):
        tensor.data[1] = 0
    expected = model(IMAGE)
    recipe = thin(model, (IMAGE,))
    assert not recipe
    assert "holds its size" in recipe.left[-1]
    torch.testing.assert_close(model(IMAGE), expected)
