"""A recipe carried out: on a model, its masks and its optimizer."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from limbeck.errors import RecipeError
from limbeck.masks import Masks
from limbeck.names import canonical
from limbeck.recipes import Cut, Recipe, by_tensor, shapes, thinner
from limbeck.thinning.moments import Moments


def apply(
    recipe: Recipe, model: nn.Module, masks: Masks | MutableMapping[str, Tensor] | None = None, optimizer: Optimizer | None = None
) -> None:
    """Make a model thinner in place, with its masks and all that the optimizer keeps of its parameters.

    Parameters stay the same objects: tied weights stay tied, and an optimizer keeps its parameters.

    >>> from limbeck.thinning import Change
    >>> layer = nn.Linear(2, 3)
    >>> apply(Recipe((Cut("weight", 0, 3, (0, 2)), Cut("bias", 0, 3, (0, 2))), (Change("", "out_features", 3, 2),)), layer)
    >>> layer, layer(torch.ones(1, 2)).shape
    (Linear(in_features=2, out_features=2, bias=True), torch.Size([1, 2]))

    Raises ``RecipeError`` that lists every place where the recipe does not fit, and changes nothing then.
    """
    refuse([recipe], model, optimizer)
    tensors, modules, cuts = _tensors(model), _modules(model), by_tensor(recipe.cuts)
    moments = Moments(optimizer, {name: (tensors[name], of) for name, of in cuts.items()})
    kept = _thinned_masks(masks, cuts)
    for name, of in cuts.items():
        _cut(tensors[name], of)
    moments.put()
    for change in recipe.changes:
        setattr(modules[change.module], change.attribute, change.after)
    for module in modules.values():
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters()
    if isinstance(masks, Masks):
        masks.load_state_dict(*kept)
    elif masks is not None:
        masks.update(kept[0])


def refuse(recipes: Sequence[Recipe], model: nn.Module, optimizer: Optimizer | None = None) -> None:
    """Raise ``RecipeError`` that lists every place where recipes, carried out one after the other, do not fit a model."""
    sizes, modules, changed = shapes(model), _modules(model), dict[tuple[str, str], Any]()
    faults: list[str] = []
    for recipe in recipes:
        faults += [fault for cut in recipe.cuts if (fault := _misfit(cut, sizes))]
        for change in recipe.changes:
            key = (change.module, change.attribute)
            found = changed.get(key, getattr(modules.get(change.module), change.attribute, None))
            if found != change.before:
                faults.append(f"module '{change.module}' has {change.attribute} {found}, not {change.before}")
            changed[key] = change.after
        if faults:
            break
        for cut in recipe.cuts:
            shape = sizes[cut.tensor]
            sizes[cut.tensor] = (*shape[: cut.axis], len(cut.kept), *shape[cut.axis + 1 :])
    if not faults and optimizer is not None:
        tensors = _tensors(model)
        cuts = {cut.tensor: [cut] for recipe in recipes for cut in recipe.cuts}
        faults += Moments(optimizer, {name: (tensors[name], []) for name in cuts}).faults
    if faults:
        raise RecipeError(f"the recipe does not fit this model: {'; '.join(faults[:5])}{' ...' if len(faults) > 5 else ''}", faults)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {
        canonical(name): tensor
        for group in (model.named_buffers(remove_duplicate=False), model.named_parameters(remove_duplicate=False))
        for name, tensor in group
    }


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    """The modules by canonical name; a wrapper's is that of what it wraps, which comes after it."""
    return {canonical(name): module for name, module in model.named_modules()}


def _misfit(cut: Cut, sizes: Mapping[str, tuple[int, ...]]) -> str | None:
    if cut.tensor not in sizes:
        return f"it has no '{cut.tensor}'"
    shape = sizes[cut.tensor]
    if cut.axis >= len(shape) or shape[cut.axis] != cut.size:
        return f"'{cut.tensor}' has shape {shape}, not {cut.size} along axis {cut.axis}"
    if not cut.kept or not all(0 <= place < cut.size for place in cut.kept):
        return f"'{cut.tensor}' would keep {len(cut.kept)} of {cut.size} along axis {cut.axis}, or places that it lacks"
    return None


def _cut(tensor: Tensor, cuts: list[Cut]) -> None:
    grad, tensor.grad = tensor.grad, None
    thinned = thinner(tensor, cuts)
    if tensor.requires_grad:
        # a graph that is still held (a loss of the step before) knows the old shape; another dtype makes autograd forget it
        tensor.data = tensor.detach()[:0].to(torch.float32 if tensor.dtype != torch.float32 else torch.float64)
    tensor.data = thinned
    if grad is not None:
        tensor.grad = thinner(grad, cuts)


def _thinned_masks(
    masks: Masks | MutableMapping[str, Tensor] | None, cuts: dict[str, list[Cut]]
) -> tuple[dict[str, Tensor], dict[str, dict[str, object]]]:
    """All masks, and what is kept aside, after the cuts."""
    if masks is None:
        return {}, {}
    found = {name: thinner(mask, cuts.get(name, [])) for name, mask in masks.items()}
    if not isinstance(masks, Masks):
        return found, {}
    aside = masks.aside_state_dict()
    return found, {name: {**saved, "values": thinner(saved["values"], cuts.get(name, []))} for name, saved in aside.items()}
