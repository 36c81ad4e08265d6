"""A recipe carried out: on a model, its masks and its optimizer."""

from __future__ import annotations

from collections.abc import MutableMapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from limbeck.errors import RecipeError
from limbeck.masks import Masks
from limbeck.names import canonical
from limbeck.recipes import Cut, Recipe


def apply(
    recipe: Recipe, model: nn.Module, masks: Masks | MutableMapping[str, Tensor] | None = None, optimizer: Optimizer | None = None
) -> None:
    """Make a model thinner in place, with its masks and every state tensor of a parameter's shape that the optimizer keeps.

    Parameters stay the same objects: tied weights stay tied, and an optimizer keeps its parameters.

    >>> from limbeck.thinning import Change
    >>> layer = nn.Linear(2, 3)
    >>> apply(Recipe((Cut("weight", 0, 3, (0, 2)), Cut("bias", 0, 3, (0, 2))), (Change("", "out_features", 3, 2),)), layer)
    >>> layer, layer(torch.ones(1, 2)).shape
    (Linear(in_features=2, out_features=2, bias=True), torch.Size([1, 2]))

    Raises ``RecipeError`` that lists every place where the recipe does not fit, and changes nothing then.
    """
    tensors = {
        canonical(name): tensor
        for group in (model.named_buffers(remove_duplicate=False), model.named_parameters(remove_duplicate=False))
        for name, tensor in group
    }
    modules = {canonical(name): module for name, module in model.named_modules()}
    _refuse(recipe, tensors, modules)
    by_tensor: dict[str, list[Cut]] = {}
    for cut in recipe.cuts:
        by_tensor.setdefault(cut.tensor, []).append(cut)
    kept = _thinned_masks(masks, by_tensor)
    for name, cuts in by_tensor.items():
        _cut(tensors[name], cuts, optimizer)
    for change in recipe.changes:
        setattr(modules[change.module], change.attribute, change.after)
    for module in modules.values():
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters()
    if isinstance(masks, Masks):
        masks.load_state_dict(*kept)
    elif masks is not None:
        masks.update(kept[0])


def _refuse(recipe: Recipe, tensors: dict[str, Tensor], modules: dict[str, nn.Module]) -> None:
    faults = [fault for cut in recipe.cuts if (fault := _misfit(cut, tensors))]
    for change in recipe.changes:
        found = getattr(modules.get(change.module), change.attribute, None)
        if found != change.before:
            faults.append(f"module '{change.module}' has {change.attribute} {found}, not {change.before}")
    if faults:
        raise RecipeError(f"the recipe does not fit this model: {'; '.join(faults[:5])}{' ...' if len(faults) > 5 else ''}", faults)


def _misfit(cut: Cut, tensors: dict[str, Tensor]) -> str | None:
    if cut.tensor not in tensors:
        return f"it has no '{cut.tensor}'"
    shape = tuple(tensors[cut.tensor].shape)
    if cut.axis >= len(shape) or shape[cut.axis] != cut.size:
        return f"'{cut.tensor}' has shape {shape}, not {cut.size} along axis {cut.axis}"
    if not cut.kept or not all(0 <= place < cut.size for place in cut.kept):
        return f"'{cut.tensor}' would keep {len(cut.kept)} of {cut.size} along axis {cut.axis}, or places that it lacks"
    return None


def thinner(tensor: Tensor, cuts: list[Cut]) -> Tensor:
    """The kept positions of every cut axis, in the same memory format."""
    result = tensor.detach()
    for cut in cuts:
        result = result.index_select(cut.axis, torch.tensor(cut.kept, device=tensor.device))
    if tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last):
        return result.contiguous(memory_format=torch.channels_last)
    return result


def _cut(tensor: Tensor, cuts: list[Cut], optimizer: Optimizer | None) -> None:
    before, grad = tensor.shape, tensor.grad
    tensor.grad = None
    state = {} if optimizer is None else optimizer.state.get(tensor, {})
    thinned = thinner(tensor, cuts)
    if (
        tensor.requires_grad
    ):  # a graph that is still held (a loss of the step before) knows the old shape; another dtype makes autograd forget it
        tensor.data = tensor.detach()[:0].to(torch.float32 if tensor.dtype != torch.float32 else torch.float64)
    tensor.data = thinned
    if grad is not None:
        tensor.grad = thinner(grad, cuts)
    for key, value in state.items():
        if isinstance(value, Tensor) and value.shape == before:
            state[key] = thinner(value, cuts)


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
