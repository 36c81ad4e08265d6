"""The ancestor's thinning functions over ``limbeck.thinning``.

What goes is what can: where the ancestor mixed up channels (residual sums whose branches had lost different filters), failed, or asked for SGD, a unit
stays, with all that is coupled to it, or goes everywhere. A filter whose weights are all zero takes its bias and its norm along, as it did there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from limbeck.compat.distiller.maskers import MaskDict
from limbeck.errors import RecipeError
from limbeck.masks import Masks
from limbeck.recipes import Recipe
from limbeck.thinning import Thin, replay, thin
from limbeck.thinning.action import random_inputs, thin_now
from limbeck.thinning.extensions import SHAPES

ThinningRecipe = Recipe
"""What was taken out, as frozen data; it is JSON (``to_json``), and no code runs to read it."""

RECIPES = "thinning_recipes"
"""Where the ancestor kept the recipes on a model."""


def contract_model(
    model: nn.Module, zeros_mask_dict: Any, arch: str | None = None, dataset: str | None = None, optimizer: Optimizer | None = None
) -> None:
    """Take out of a model, its masks and its optimizer all units that are zero; the recipe is appended to ``model.thinning_recipes``.

    ``dataset`` (cifar10, imagenet, mnist) tells what the model takes, unless its scheduler knows; ``arch`` is not needed. Masks may be a
    scheduler's ``zeros_mask_dict``, ``create_model_masks_dict(model)``, or None.

    >>> import torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    >>> with torch.no_grad():
    ...     _ = net[0].weight[1].zero_()
    >>> remove_filters(net, None, "", "cifar10", None)
    >>> net[0].out_channels, net[2].in_channels, len(net.thinning_recipes)
    (3, 3, 1)

    Raises ``limbeck.CaptureError`` for a model that cannot be captured, ``RecipeError`` without a data set.
    """
    state = zeros_mask_dict.state if isinstance(zeros_mask_dict, MaskDict) else None
    inputs = state.inputs() if state is not None else None
    if inputs is None:
        if dataset is None or dataset not in SHAPES:
            raise RecipeError(
                f"no data set is named '{dataset}'; give one of {', '.join(SHAPES)}, or use limbeck.thinning.thin(model, example_inputs)"
            )
        inputs = tuple(value.to(next(model.parameters()).device) for value in random_inputs(SHAPES[dataset]))
    if state is not None and state.model is model:
        state.example_inputs = inputs
        recipe = thin_now(state, shifts="drop")
    else:
        recipe = thin(model, inputs, _masks(zeros_mask_dict), optimizer, shifts="drop")
    _note(model, [recipe] if recipe else [])


remove_filters = remove_channels = contract_model


def StructureRemover(thinning_func_str: str, arch: str | None = None, dataset: str | None = None) -> Thin:  # noqa: N802  # the ancestor's name
    """An extension for ``add_policy``: thins in the first minibatch of each epoch of its window."""
    return Thin(SHAPES.get(dataset or ""), shifts="drop")


FilterRemover = ChannelRemover = StructureRemover


def execute_thinning_recipe(
    model: nn.Module, zeros_mask_dict: Any, recipe: Recipe, optimizer: Optimizer | None = None, loaded_from_file: bool = False
) -> None:
    """Thin a model by a recipe, unless it is as thin already; raises ``RecipeError`` that says where it does not fit."""
    replay([recipe], model, _masks(zeros_mask_dict), optimizer)


def execute_thinning_recipes_list(model: nn.Module, zeros_mask_dict: Any, recipes_list: Iterable[Recipe]) -> None:
    """Thin a fresh model as the one was whose ``thinning_recipes`` these are; they are noted on it, too."""
    recipes = list(recipes_list)
    replay(recipes, model, _masks(zeros_mask_dict))
    _note(model, recipes)


def find_nonzero_channels(param: Tensor, param_name: str) -> Tensor:
    """The numbers of the input channels of a convolution, or the columns of a matrix, that are not all zero.

    >>> import torch
    >>> find_nonzero_channels(torch.tensor([[1.0, 0.0], [2.0, 0.0]]), "fc.weight")
    tensor([0])

    Raises ``ValueError`` where all are zero.
    """
    found = param.detach().transpose(0, 1).flatten(1).any(1).nonzero().reshape(-1)
    if not len(found):
        raise ValueError(f"all channels of '{param_name}' are zero; a thinned layer keeps one at least")
    return found


def find_nonzero_channels_list(param: Tensor, param_name: str) -> list[int]:
    """The same as a list."""
    return [int(place) for place in find_nonzero_channels(param, param_name)]


def _masks(given: Any) -> Masks | MutableMapping[str, Tensor] | None:
    """The masks behind the ancestor's dictionary of maskers, or of tensors."""
    if isinstance(given, MaskDict):
        return given.masks
    if isinstance(given, Mapping):
        return {name: keep for name, keep in given.items() if isinstance(keep, Tensor)}
    return None


def _note(model: nn.Module, recipes: list[Recipe]) -> None:
    """Keep recipes on a model where the ancestor did: ``model.thinning_recipes``."""
    setattr(model, RECIPES, [*getattr(model, RECIPES, []), *recipes])
