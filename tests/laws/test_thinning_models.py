"""The laws of thinning for every image classifier of ``MODELS``: the small ones here, the others with ``-m long``."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from laws.thinned import Trained, chosen, gone, masks_of, randomised, same
from limbeck.apps.images.models import MODELS, input_shape
from limbeck.events import Coupled
from limbeck.graph import capture, coupling
from limbeck.recipes import Recipe
from limbeck.thinning import load_thinned, save_thinned
from limbeck.thinning.thin import thin_coupled

SMALL = ("mobilenet_025", "preact_resnet20_cifar", "resnet20_cifar", "simplenet_mnist")


def example(name: str) -> Tensor:
    """Images as small as the model takes them."""
    channels, height, _ = input_shape(name)
    size = height if height < 100 or name.endswith("earlyexit") else 64
    return torch.randn(2, channels, size, size)


def built(name: str) -> nn.Module:
    """A model that drops nothing at random: a thinner one would draw other numbers."""
    model = MODELS[name](num_classes=10)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def size(model: nn.Module) -> int:
    return sum(map(torch.numel, model.parameters()))


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in SMALL else pytest.mark.long) for name in MODELS])
def test_every_model_thinned_is_the_masked_one(name: str, tmp_path: Path) -> None:
    """Within 1e-5 in evaluation, after a step of SGD with momentum too; saved and loaded into a fresh model it goes on bit for bit."""
    model, x = randomised(built(name)), example(name)
    graph = capture(model, (x,))
    found = coupling(graph)
    units = chosen(found, 0.4, 1)
    masked = Trained.of(model, masks_of(model, found, units), "sgd")
    if small := size(model) < 30e6:
        model.double()  # two orders of summation come to the same, in training too
    typed = x.to(next(model.parameters()).dtype)
    masked.step(typed)
    thinned = masked.twin()
    recipe = thin_coupled(Coupled(graph, found), thinned.model, (typed,), thinned.masks, thinned.optimizer)
    assert len(units) >= 20
    assert gone(recipe, found) == units
    assert size(thinned.model) < 0.85 * size(model)
    same(masked, thinned, recipe, 0.0)
    close(masked.model, thinned.model, x)
    for trained in (masked, thinned):
        trained.step(typed)
    if small:
        same(masked, thinned, recipe, 1e-7)
    again = Trained.of(built(name).to(typed.dtype), {}, "sgd")
    save_thinned(tmp_path / "thin.safetensors", thinned.model, [recipe])
    assert load_thinned(tmp_path / "thin.safetensors", again.model) == (recipe,)
    again.masks.load_state_dict(thinned.masks.state_dict())
    again.optimizer.load_state_dict(copy.deepcopy(thinned.optimizer.state_dict()))
    for trained in (thinned, again):
        trained.step(typed)
    same(thinned, again, Recipe(), 0.0)


def close(masked: nn.Module, thinned: nn.Module, x: Tensor) -> None:
    """In evaluation and float32, within 1e-5 of the largest result."""
    with torch.no_grad():
        expected, found = (torch.cat(list(outputs(copy.deepcopy(model).float().eval()(x))), -1) for model in (masked, thinned))
    assert bool(expected.isfinite().all())
    assert (expected - found).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))


def outputs(result: Tensor | list[Tensor] | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """One, or those of early exits."""
    return (result,) if isinstance(result, Tensor) else tuple(result)
