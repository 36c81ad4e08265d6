"""Thinning in one step: capture, plan, try on a copy, apply."""

from __future__ import annotations

import dataclasses
from collections.abc import MutableMapping
from typing import Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from limbeck.errors import RecipeError
from limbeck.events import Coupled
from limbeck.graph import Coupling, Inputs, capture, coupling
from limbeck.graph.removal import silence
from limbeck.masks import Masks
from limbeck.names import unwrap
from limbeck.recipes import Recipe
from limbeck.thinning.apply import apply
from limbeck.thinning.plan import plan, tensors
from limbeck.thinning.trial import check

Shifts = Literal["keep", "drop"]
"""What becomes of filters of zeros to which a bias or a norm adds a constant."""


def thin(
    model: nn.Module,
    example_inputs: Inputs,
    masks: Masks | MutableMapping[str, Tensor] | None = None,
    optimizer: Optimizer | None = None,
    shifts: Shifts = "keep",
) -> Recipe:
    """Remove from a model all units that are zero, and return the recipe.

    The recipe is tried on a copy first. Where the model's code itself holds a size that would change (``x.view(-1, 256)``), the units that pass that
    line stay, and ``recipe.left`` says so.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> with torch.no_grad():
    ...     _ = net[0].weight[1].zero_(), net[0].bias[1].zero_()
    >>> recipe = thin(net, (torch.zeros(1, 2),))
    >>> net
    Sequential(
      (0): Linear(in_features=2, out_features=2, bias=True)
      (1): ReLU()
      (2): Linear(in_features=2, out_features=2, bias=True)
    )

    A filter of zeros to which a bias or a norm adds something gives a constant, and stays. With ``shifts="drop"`` it goes with its constant: what the
    model computes is then what it computes without these biases, scales and shifts.

    A model in training mode is judged in both modes: a batch norm, which has statistics of its own in each, may hold a filter of zeros in one
    alone. In evaluation mode what counts is what the model computes there.

    ``example_inputs`` are a sequence of what the model takes, or a mapping by name. Raises ``CaptureError`` for a model that cannot be captured,
    ``RecipeError`` where no part of the plan can be carried out.
    """
    graph = capture(unwrap(model), example_inputs)
    return thin_coupled(Coupled(graph, coupling(graph)), model, example_inputs, masks, optimizer, shifts)


def thin_coupled(
    units: Coupled,
    model: nn.Module,
    example_inputs: Inputs,
    masks: Masks | MutableMapping[str, Tensor] | None = None,
    optimizer: Optimizer | None = None,
    shifts: Shifts = "keep",
) -> Recipe:
    """``thin`` for a model whose graph and coupling are known."""
    graph, coupled, model = units.graph, units.coupling, unwrap(model)
    zeros = tensors(model) if shifts == "keep" else _without_shifts(units, model)
    leave: dict[int, str] = {}
    while True:
        recipe = plan(graph, coupled, zeros, leave, model.training)
        if not recipe:
            break
        trouble = check(recipe, model, example_inputs, zeros, units)
        if trouble is None:
            break
        lines = [line for line in trouble.lines if coupled.lines.get(line, frozenset()) - leave.keys()]
        held = set(coupled.lines[lines[0]] if lines else _assumed(coupled)) - leave.keys()
        if not held:
            raise RecipeError(f"a thinned copy of the model {trouble.text}; nothing was changed", [trouble.text])
        leave |= dict.fromkeys(held, f"{lines[0] if lines else 'a cut at given numbers'}: the model's code holds its size ({trouble.text})")
    notes = tuple(dict.fromkeys(leave.values()))
    recipe = dataclasses.replace(recipe, left=(*recipe.left, *notes))
    apply(recipe, model, masks, optimizer)
    return recipe


def _without_shifts(units: Coupled, model: nn.Module) -> dict[str, Tensor]:
    """The model's tensors, with zeros for all that belongs to filters of zeros in biases and norms."""
    found = tensors(model)
    kept = {name: found[name] != 0 for name in units.graph.tensors if name in found and found[name].dim() > 1}
    for name, keep in silence(units.graph, units.coupling, kept).vectors.items():
        found[name] = found[name] * keep.to(found[name].device)
    return found


def _assumed(coupled: Coupling) -> set[int]:
    return {unit for units in coupled.assumed.values() for unit in units}
