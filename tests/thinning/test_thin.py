from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.errors import RecipeError
from limbeck.graph import capture, coupling
from limbeck.masks import Masks
from limbeck.names import named_parameters
from limbeck.thinning import Change, Cut, Recipe, apply, plan, tensors, thin


class Residual(nn.Module):
    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.c = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.a(x))
        return self.c(F.relu(self.norm(self.b(y)) + y))


class Numbers(nn.Module):
    """Its code holds the width of one layer as a number."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.b(F.relu(self.a(x))))
        return self.c(y.view(-1, 4))


def clear(*rows: tuple[Tensor, int]) -> None:
    with torch.no_grad():
        for tensor, place in rows:
            tensor[place] = 0


def planned(model: nn.Module, x: Tensor) -> Recipe:
    graph = capture(model, (x,))
    return plan(graph, coupling(graph), tensors(model))


def test_filters_that_agree_go_and_others_are_reported_by_name() -> None:
    model = Residual(norm=False)
    clear((model.a.weight, 1), (model.a.bias, 1), (model.b.weight, 1), (model.a.weight, 2), (model.a.bias, 2), (model.b.weight, 3))
    recipe = planned(model, torch.zeros(1, 3, 4, 4))
    assert {(cut.tensor, cut.axis): cut.kept for cut in recipe.cuts} == dict.fromkeys(
        [("a.weight", 0), ("a.bias", 0), ("b.weight", 0), ("b.weight", 1), ("c.weight", 1)], (0, 2, 3)
    )
    assert recipe.left == (
        "a.weight: 1 of 4 along axis 0 zero but kept ([2]): coupled with 'b.weight', not zero there",
        "b.weight: 1 of 4 along axis 0 zero but kept ([3]): coupled with 'a.weight', not zero there",
    )
    assert Change("b", "in_channels", 4, 3) in recipe.changes


def test_a_shift_after_a_zero_filter_keeps_it() -> None:
    model = Residual()
    model.norm.bias.data.fill_(0.5)
    clear((model.a.weight, 1), (model.a.bias, 1), (model.b.weight, 1))
    recipe = planned(model, torch.zeros(1, 3, 4, 4))
    assert not recipe
    assert "'norm.bias' gives it another value" in " ".join(recipe.left) or "'norm.weight', 'norm.bias'" in " ".join(recipe.left)
    clear((model.norm.weight, 1), (model.norm.bias, 1))
    assert planned(model, torch.zeros(1, 3, 4, 4)).cuts


def test_a_running_mean_counts_as_a_shift() -> None:
    model = Residual()
    clear((model.a.weight, 1), (model.a.bias, 1), (model.b.weight, 1))
    assert planned(model, torch.zeros(1, 3, 4, 4))
    model.norm.running_mean[1] = -0.5
    assert not planned(model, torch.zeros(1, 3, 4, 4))


def test_channels_that_nothing_reads_go_with_what_computes_them() -> None:
    net = nn.Sequential(nn.Conv1d(2, 4, 1), nn.Tanh(), nn.Conv1d(4, 2, 1))
    net[2].weight.data[:, 3] = 0
    expected = net(x := torch.randn(2, 2, 5))
    assert {cut.tensor: cut.kept for cut in thin(net, (x,)).cuts} == dict.fromkeys(("0.weight", "0.bias", "2.weight"), (0, 1, 2))
    torch.testing.assert_close(net(x), expected)


def test_a_constant_other_than_zero_keeps_a_unit() -> None:
    net = nn.Sequential(nn.Linear(2, 4), nn.Sigmoid(), nn.Linear(4, 2))
    clear((net[0].weight, 1), (net[0].bias, 1))
    assert not planned(net, torch.zeros(1, 2))


def test_the_last_unit_stays() -> None:
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    net[0].weight.data.zero_()
    net[0].bias.data.zero_()
    thin(net, (x := torch.randn(3, 2),))
    assert net[0].weight.shape == (1, 2)
    torch.testing.assert_close(net(x), net[2].bias.expand(3, 2))


def test_masks_alone_say_what_is_zero() -> None:
    model = Residual(norm=False)
    keep = torch.tensor([True, False, True, True])
    masks = {
        "a.weight": keep.reshape(4, 1, 1, 1).expand(4, 3, 3, 3),
        "b.weight": keep.reshape(4, 1, 1, 1).expand(4, 4, 3, 3),
        "a.bias": keep,
    }
    graph = capture(model, (torch.zeros(1, 3, 4, 4),))
    assert plan(graph, coupling(graph), masks)
    del masks["a.bias"]
    assert plan(graph, coupling(graph), masks).left


@pytest.mark.parametrize("life", ["hard", "soft", "forward"])
def test_masks_and_optimizer_state_go_along(life: str) -> None:
    model = Residual(norm=False)
    masks = Masks(named_parameters(model))
    keep = torch.tensor([True, False, True, True])
    for name, parameter in model.named_parameters():
        if name[0] in "ab":
            masks.put(name, keep.reshape(4, *[1] * (parameter.dim() - 1)).expand(parameter.shape), life)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    model(x := torch.randn(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    masks.apply()
    momentum, dense = optimizer.state[model.b.weight]["momentum_buffer"].clone(), masks.dense("b.weight").clone()
    expected = model(x)
    thin(model, (x,), masks, optimizer)
    torch.testing.assert_close(model(x), expected)
    index = torch.tensor([0, 2, 3])
    torch.testing.assert_close(optimizer.state[model.b.weight]["momentum_buffer"], momentum[index][:, index])
    torch.testing.assert_close(masks.dense("b.weight"), dense[index][:, index])
    assert masks["b.weight"].all()
    assert masks.life("b.weight") == life
    optimizer.zero_grad()
    model(x).sum().backward()
    optimizer.step()
    masks.apply()


def test_a_recipe_that_does_not_fit_says_where_and_changes_nothing() -> None:
    net = nn.Sequential(nn.Linear(2, 3))
    before = copy.deepcopy(net.state_dict())
    recipe = Recipe(
        (Cut("0.weight", 0, 3, (0,)), Cut("0.bias", 0, 4, (0,)), Cut("1.weight", 0, 2, (0,))), (Change("0", "out_features", 4, 1),)
    )
    with pytest.raises(
        RecipeError, match=r"'0\.bias' has shape \(3,\), not 4 along axis 0.*no '1\.weight'.*out_features 3, not 4"
    ) as caught:
        apply(recipe, net)
    assert len(caught.value.faults) == 3
    assert {name: tensor.shape for name, tensor in net.state_dict().items()} == {name: tensor.shape for name, tensor in before.items()}


def test_text_that_is_no_recipe() -> None:
    with pytest.raises(RecipeError, match="no thinning recipe"):
        Recipe.from_json('{"cuts": [{}]}')


def test_thinning_twice_is_replayed_by_both_recipes() -> None:
    net = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 2))
    fresh, x = copy.deepcopy(net), torch.randn(3, 2)
    recipes = []
    for place in (1, 2):
        clear((net[0].weight, place), (net[0].bias, place))
        recipes.append(thin(net, (x,)))
    for recipe in recipes:
        apply(recipe, fresh)
    fresh.load_state_dict(net.state_dict())
    assert torch.equal(fresh(x), net(x))
    assert not thin(net, (x,))


def test_sizes_that_the_code_holds_stay_and_the_rest_goes() -> None:
    model = Numbers()
    clear((model.a.weight, 1), (model.a.bias, 1), (model.b.weight, 2), (model.b.bias, 2))
    expected = model(x := torch.randn(3, 3))
    recipe = thin(model, (x,))
    assert (model.a.out_features, model.b.out_features) == (3, 4)
    assert "test_thin.py" in recipe.left[-1]
    assert "holds its size" in recipe.left[-1]
    torch.testing.assert_close(model(x), expected)


def test_numbers_that_fail_without_an_error_are_found_too() -> None:
    class Silent(Numbers):
        def forward(self, x: Tensor) -> Tensor:
            y = F.relu(self.a(x))
            return self.c(y.view(-1, 2, 2).flatten(1)) if y.shape[1] == 4 else x

    model = Silent()
    clear(*[(tensor, place) for tensor in (model.a.weight, model.a.bias) for place in (1, 3)])
    expected = model(x := torch.randn(3, 3))
    recipe = thin(model, (x,))
    assert not recipe
    assert "holds its size" in recipe.left[-1]
    torch.testing.assert_close(model(x), expected)


def test_tied_weights_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.lstm = nn.Embedding(5, 4), nn.LSTM(4, 4)
            self.decoder = nn.Linear(4, 5, bias=False)
            self.decoder.weight = self.encoder.weight

        def forward(self, index: Tensor) -> Tensor:
            return self.decoder(self.lstm(self.encoder(index))[0])

    model = Tied()
    units = coupling(capture(model, (index := torch.zeros(2, 1, dtype=torch.int64),))).units("encoder.weight", 1)
    model.encoder.weight.data[:, 2] = 0
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        getattr(model.lstm, name).data.reshape(4, 4, -1)[:, 2] = 0
    assert len(set(units)) == 4
    thin(model, (index,))
    assert model.decoder.weight is model.encoder.weight
    assert (model.decoder.in_features, model.encoder.embedding_dim, model.lstm.hidden_size, model.lstm.input_size) == (3, 3, 3, 3)
    assert model.lstm.weight_hh_l0.shape == (12, 3)


def test_an_lstm_stays_wider_than_its_projection() -> None:
    class Projected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 4, proj_size=2, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(x)[0]

    model = Projected()
    for tensor in (model.lstm.weight_ih_l0, model.lstm.weight_hh_l0):
        tensor.data.reshape(4, 4, -1)[:, 1:3] = 0
    recipe = planned(model, torch.zeros(2, 1, 3))
    assert {(cut.tensor, cut.axis): len(cut.kept) for cut in recipe.cuts}["lstm.weight_hr_l0", 1] == 3


def test_channels_last_stays() -> None:
    model = Residual(norm=False).to(memory_format=torch.channels_last)
    clear((model.a.weight, 1), (model.a.bias, 1), (model.b.weight, 1))
    thin(model, (torch.randn(1, 3, 4, 4),))
    assert model.b.weight.shape == (3, 3, 3, 3)
    assert model.b.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_write_into_part_of_a_tensor_is_seen() -> None:
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            y[:, :2] += 1.0
            return self.b(y)

    model = Writing()
    clear((model.a.weight, 1), (model.a.bias, 1))
    assert not planned(model, torch.zeros(1, 3))


@pytest.mark.parametrize("training", [True, False])
def test_a_filter_that_a_norm_shifts_in_training_alone_goes_only_in_evaluation(training: bool) -> None:
    """In evaluation ``relu((0 - 2) / 1 * 1 + 0.5) = 0``; in training the batch's mean is 0, and ``relu(0.5)`` counts."""
    net = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 1))
    with torch.no_grad():
        net[0].weight[1] = 0
        net[1].bias.fill_(0.5)
        net[1].running_mean.fill_(2.0)
    recipe = thin(net.train(training), (torch.zeros(2, 1, 4, 4),))
    assert net[0].out_channels == (3 if training else 2)
    assert bool(recipe.left) == training
