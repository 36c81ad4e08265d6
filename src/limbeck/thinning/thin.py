"""Thinning in one step: capture, plan, try on a copy, apply."""

from __future__ import annotations

import copy
import dataclasses
import traceback
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from limbeck.errors import RecipeError
from limbeck.events import Coupled
from limbeck.graph import Coupling, Inputs, arguments, capture, coupling
from limbeck.graph.removal import silence
from limbeck.masks import Masks
from limbeck.names import canonical, unwrap
from limbeck.recipes import Recipe
from limbeck.thinning.apply import apply
from limbeck.thinning.plan import plan

TOLERANCE = 1e-5

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
        recipe = plan(graph, coupled, zeros, leave)
        if not recipe:
            break
        trouble = check(recipe, model, example_inputs, zeros)
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


def _with_cut(recipe: Recipe, model: nn.Module, values: Mapping[str, Tensor]) -> nn.Module:
    """The model, or, where what is cut of its vectors has other ``values``, a copy that has them there."""
    own, cuts = tensors(model), [cut for cut in recipe.cuts if len(values[cut.tensor].shape) == 1]
    places = {cut.tensor: torch.ones(cut.size, dtype=torch.bool).index_fill(0, torch.tensor(cut.kept), value=False) for cut in cuts}
    if all(torch.equal(own[name][gone], values[name][gone]) for name, gone in places.items()):
        return model
    changed = copy.deepcopy(model)
    for name, tensor in tensors(changed).items():
        if name in places:
            tensor[places[name]] = values[name][places[name]]
    return changed


def _assumed(coupled: Coupling) -> set[int]:
    return {unit for units in coupled.assumed.values() for unit in units}


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers, by canonical name: what ``plan`` judges."""
    return {canonical(name): tensor.detach() for group in (model.named_parameters(), model.named_buffers()) for name, tensor in group}


@dataclasses.dataclass(frozen=True)
class Trouble:
    """What went wrong with a thinned copy, and the lines of code it went through, innermost first."""

    text: str
    lines: tuple[str, ...] = ()


def check(recipe: Recipe, model: nn.Module, example_inputs: Inputs, values: Mapping[str, Tensor] | None = None) -> Trouble | None:
    """Whether a thinned copy of a model computes what the model does, to 1e-5 of the largest output; None when it does.

    ``values`` take the place of some of the model's where the recipe cuts vectors.
    """
    model = model if values is None else _with_cut(recipe, model, values)
    modes = [(module, module.training) for module in model.modules()]
    thinned = copy.deepcopy(model)
    apply(recipe, thinned)
    args, kwargs = arguments(example_inputs)
    try:
        with torch.no_grad():
            expected = list(_flat(model.eval()(*args, **kwargs)))
            try:
                found = list(_flat(thinned.eval()(*args, **kwargs)))
            except Exception as error:
                frames = reversed(traceback.extract_tb(error.__traceback__))
                text = f"fails: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
                return Trouble(text, tuple(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames))
    finally:
        for module, mode in modes:
            module.training = mode
    for one, other in zip(expected, found, strict=True):
        if one.shape != other.shape:
            return Trouble(f"gives a result of shape {tuple(other.shape)}, not {tuple(one.shape)}")
        scale = max(1.0, float(one.abs().max())) if one.numel() else 1.0
        if not torch.allclose(one.double(), other.double(), rtol=0, atol=TOLERANCE * scale, equal_nan=True):
            return Trouble(f"differs by {float((one - other).abs().max()):.1e}")
    return None


def _flat(result: Any) -> Iterator[Tensor]:
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, Mapping):
        for value in result.values():
            yield from _flat(value)
    elif isinstance(result, (list, tuple)):
        for value in result:
            yield from _flat(value)
