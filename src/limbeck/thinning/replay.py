"""Recipes carried out again, in their order, on another model of the class that they were made for."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence

from torch import Tensor, nn
from torch.optim import Optimizer

from limbeck.masks import Masks
from limbeck.recipes import Recipe, remaining, shapes
from limbeck.thinning.apply import apply, refuse


def replay(
    recipes: Sequence[Recipe],
    model: nn.Module,
    masks: Masks | MutableMapping[str, Tensor] | None = None,
    optimizer: Optimizer | None = None,
) -> None:
    """Make a model as thin as the one whose recipes these are; those that it has been through already are passed over.

    >>> from limbeck.recipes import Change, Cut
    >>> recipes = [Recipe((Cut("weight", 0, size, (0, 1)),), (Change("", "out_features", size, 2),)) for size in (3, )]
    >>> layer = nn.Linear(2, 3, bias=False)
    >>> replay(recipes, layer)
    >>> replay(recipes, layer)
    >>> layer
    Linear(in_features=2, out_features=2, bias=False)

    Raises ``RecipeError`` that lists every place where they do not fit, and changes nothing then.
    """
    todo = remaining(recipes, shapes(model))
    refuse(todo, model, optimizer)
    for recipe in todo:
        apply(recipe, model, masks, optimizer)
