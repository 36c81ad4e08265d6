"""The ancestor's thinning: its functions, its extension, and its schedule with a net_thinner at one epoch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.compat import distiller
from limbeck.errors import RecipeError, ScheduleError
from limbeck.recipes import Recipe
from limbeck.thinning import tensors

SCHEDULE = """
version: 1

pruners:
  low_pruner:
    class: L1RankedStructureParameterPruner_AGP
    initial_sparsity : 0.10
    final_sparsity: 0.50
    group_type: Filters
    weights: [module.layer.conv1.weight]
  fine_pruner:
    class: AutomatedGradualPruner
    initial_sparsity : 0.05
    final_sparsity: 0.50
    weights: [module.layer.conv2.weight]

extensions:
  net_thinner:
      class: 'FilterRemover'
      thinning_func_str: remove_filters
      arch: 'resnet20_cifar'
      dataset: 'cifar10'

policies:
  - pruner:
      instance_name : low_pruner
    starting_epoch: 0
    ending_epoch: 3
    frequency: 1

  - extension:
      instance_name: net_thinner
    epochs: [3]

  - pruner:
      instance_name : fine_pruner
    starting_epoch: 3
    ending_epoch: 5
    frequency: 1
"""
"""In the manner of resnet20_filters.schedule_agp.yaml, facts 2.3: the thinner stands before a pruner that begins with it."""


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.layer, self.fc = nn.Conv2d(3, 4, 3, stride=4), Block(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer(F.relu(self.stem(x))).mean((2, 3)))


def net() -> Net:
    torch.manual_seed(1)
    return Net()


IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def train(model: nn.Module, scheduler: Any, optimizer: torch.optim.Optimizer, epochs: range, batches: int = 2) -> None:
    """The ancestor's loop."""
    for epoch in epochs:
        scheduler.on_epoch_begin(epoch, optimizer)
        for step in range(batches):
            scheduler.on_minibatch_begin(epoch, step, batches, optimizer)
            loss = F.cross_entropy(model(IMAGES), torch.tensor([0, 1, 2, 0]))
            loss = scheduler.before_backward_pass(epoch, step, batches, loss, optimizer=optimizer)
            optimizer.zero_grad()
            loss.backward()
            scheduler.before_parameter_optimization(epoch, step, batches, optimizer)
            optimizer.step()
            scheduler.on_minibatch_end(epoch, step, batches, optimizer)
        scheduler.on_epoch_end(epoch, optimizer)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_a_schedule_with_a_net_thinner_just_works(kind: str) -> None:
    model = nn.DataParallel(net())
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=1e-4) if kind == "sgd" else torch.optim.Adam(parameters)
    scheduler = distiller.dict_config(model, optimizer, yaml.safe_load(SCHEDULE))
    train(model, scheduler, optimizer, range(3))
    layer = model.module.layer
    assert distiller.sparsity_3D(layer.conv1.weight) == 0.5
    train(model, scheduler, optimizer, range(3, 5))
    assert (layer.conv1.out_channels, layer.bn1.num_features, layer.conv2.in_channels) == (4, 4, 4)
    assert distiller.sparsity(layer.conv2.weight) == 0.5
    assert all(name.startswith("module.") for name in model.state_dict())


def test_a_resumed_run_is_thinned_first() -> None:
    def begun() -> tuple[Net, torch.optim.Optimizer, Any]:
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        return model, optimizer, distiller.dict_config(model, optimizer, yaml.safe_load(SCHEDULE))

    model, optimizer, scheduler = begun()
    train(model, scheduler, optimizer, range(4))
    state = copy.deepcopy((model.state_dict(), optimizer.state_dict(), scheduler.state_dict()))
    train(model, scheduler, optimizer, range(4, 6))
    other, its, resumed = begun()
    distiller.execute_thinning_recipes_list(other, None, [Recipe.from_json(text) for text in state[2]["limbeck"]["recipes"]])
    other.load_state_dict(state[0])
    resumed.load_state_dict(state[2])
    its.load_state_dict(state[1])
    train(other, resumed, its, range(4, 6))
    assert all(torch.equal(one, two) for one, two in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("function", [distiller.remove_filters, distiller.remove_channels, distiller.contract_model])
def test_filters_of_zeros_go_with_their_norm(function: Any) -> None:
    model = net()
    with torch.no_grad():
        model.layer.conv1.weight[[1, 4, 5]] = 0
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for vector in (twin.layer.bn1.weight, twin.layer.bn1.bias):
            vector[[1, 4, 5]] = 0
    masks = distiller.create_model_masks_dict(model)
    masks["module.layer.conv1.weight"].mask = model.layer.conv1.weight != 0
    optimizer = torch.optim.Adam(model.parameters())
    function(model, masks, "resnet20_cifar", "cifar10", optimizer)
    assert tensors(model)["layer.conv1.weight"].shape == (5, 4, 3, 3)
    assert masks["layer.conv1.weight"].mask.shape == (5, 4, 3, 3)
    assert torch.allclose(model.eval()(IMAGES), twin.eval()(IMAGES), atol=1e-6)
    [recipe] = model.thinning_recipes
    assert isinstance(recipe, distiller.ThinningRecipe)
    fresh = net()
    distiller.execute_thinning_recipe(fresh, None, recipe)
    distiller.execute_thinning_recipes_list(fresh, None, [recipe])
    fresh.load_state_dict(model.state_dict())


def test_filters_that_one_side_of_a_sum_has_lost_stay() -> None:
    """Where the ancestor added channels of other numbers."""
    model = net()
    with torch.no_grad():
        model.layer.conv2.weight[1] = 0
    before = copy.deepcopy(model.state_dict())
    distiller.remove_filters(model, None, "", "cifar10", None)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.thinning_recipes == []


def test_a_scheduler_s_masks_know_its_recipes() -> None:
    model = net()
    scheduler = distiller.CompressionScheduler(model)
    keep = torch.ones_like(model.layer.conv1.weight)
    keep[2] = 0
    scheduler.zeros_mask_dict["layer.conv1.weight"].mask = keep
    distiller.remove_filters(model, scheduler.zeros_mask_dict, "", "cifar10", None)
    assert len(scheduler.scheduler.recipes) == 1
    assert scheduler.zeros_mask_dict["layer.conv1.weight"].mask.shape[0] == 7


def test_what_is_wrong_is_told() -> None:
    with pytest.raises(RecipeError, match="no data set is named 'cifar100'; give one of cifar10, imagenet, mnist"):
        distiller.remove_filters(net(), None, "", "cifar100", None)
    with pytest.raises(ScheduleError, match="give input_shape"):
        distiller.CompressionScheduler(net()).add_policy(distiller.FilterRemover("remove_filters", "x", "cifar100"), epochs=[1])
    with pytest.raises(ValueError, match=r"all channels of 'fc\.weight' are zero"):
        distiller.find_nonzero_channels(torch.zeros(2, 3), "fc.weight")
    assert distiller.find_nonzero_channels_list(torch.tensor([[[[0.0]], [[1.0]]]]), "conv.weight") == [1]
