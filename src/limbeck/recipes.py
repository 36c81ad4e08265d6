"""What a thinning does to a model, as frozen data: which positions of which tensors are kept, which sizes of which modules change."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import RecipeError
from limbeck.names import canonical


@dataclass(frozen=True)
class Cut:
    """The positions of a tensor's axis that are kept."""

    tensor: str
    axis: int
    size: int
    """How many there were."""
    kept: tuple[int, ...]


@dataclass(frozen=True)
class Change:
    """A module's attribute that is a size."""

    module: str
    attribute: str
    before: int
    after: int


@dataclass(frozen=True)
class Recipe:
    """A thinning: apply it to the model that it was made for, or to a fresh one of the same class.

    >>> recipe = Recipe((Cut("fc.weight", 0, 4, (0, 2)),), (Change("fc", "out_features", 4, 2),))
    >>> Recipe.from_json(recipe.to_json()) == recipe
    True
    """

    cuts: tuple[Cut, ...] = ()
    changes: tuple[Change, ...] = ()
    left: tuple[str, ...] = ()
    """What weights leave out and yet stays, each with its reason."""

    def __bool__(self) -> bool:
        return bool(self.cuts)

    def to_json(self) -> str:
        """As text."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Recipe:
        """Of text that ``to_json`` wrote; raises ``RecipeError`` for any other."""
        try:
            data: Any = json.loads(text)
            cuts = tuple(Cut(str(cut["tensor"]), int(cut["axis"]), int(cut["size"]), tuple(map(int, cut["kept"]))) for cut in data["cuts"])
            changes = tuple(_change(change) for change in data["changes"])
            return Recipe(cuts, changes, tuple(map(str, data.get("left", ()))))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecipeError(
                f"this is no thinning recipe: {type(error).__name__}: {error}; it is JSON that Recipe.to_json wrote"
            ) from error


def removed(recipes: Iterable[Recipe]) -> dict[str, dict[int, int]]:
    """How many positions the recipes have taken out in all: by tensor, then axis.

    >>> half, third = (Recipe((Cut("fc.weight", 0, size, (0, 1)),)) for size in (4, 2))
    >>> removed([half, third])
    {'fc.weight': {0: 2}}
    """
    found: dict[str, dict[int, int]] = {}
    for recipe in recipes:
        for cut in recipe.cuts:
            axes = found.setdefault(cut.tensor, {})
            axes[cut.axis] = axes.get(cut.axis, 0) + cut.size - len(cut.kept)
    return found


def unfinished(recipes: Iterable[Recipe], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """A line for each tensor that is not as the recipes, carried out in their order, leave it; ``shapes`` are the model's, by name.

    >>> unfinished([Recipe((Cut("fc.weight", 0, 4, (0, 2)),))], {"fc.weight": (4, 3)})
    ["'fc.weight' has shape (4, 3), not 2 along axis 0"]
    """
    sizes = {(cut.tensor, cut.axis): len(cut.kept) for recipe in recipes for cut in recipe.cuts}
    lines = []
    for (name, axis), size in sizes.items():
        shape = shapes.get(name)
        if shape is None:
            lines.append(f"it has no '{name}'")
        elif axis >= len(shape) or shape[axis] != size:
            lines.append(f"'{name}' has shape {shape}, not {size} along axis {axis}")
    return lines


def remaining(recipes: Sequence[Recipe], shapes: Mapping[str, tuple[int, ...]]) -> Sequence[Recipe]:
    """The recipes that a model of these shapes has yet to go through: none of its own class's, all of a fresh one's.

    >>> recipes = [Recipe((Cut("fc.weight", 0, size, (0, 1)),)) for size in (4, 2)]
    >>> [len(remaining(recipes, {"fc.weight": (rows, 3)})) for rows in (4, 2)]
    [2, 1]
    """
    for done in range(len(recipes) + 1):
        rest = recipes[done:]
        first = {(cut.tensor, cut.axis): cut.size for recipe in reversed(rest) for cut in recipe.cuts}
        before = Recipe(tuple(cut for recipe in recipes[:done] for cut in recipe.cuts if (cut.tensor, cut.axis) not in first))
        fits = all(axis < len(shapes.get(name, ())) and shapes[name][axis] == size for (name, axis), size in first.items())
        if fits and not unfinished([before], shapes):
            return rest
    return recipes


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter and buffer, by canonical name."""
    named = (*model.named_buffers(remove_duplicate=False), *model.named_parameters(remove_duplicate=False))
    return {canonical(name): tuple(tensor.shape) for name, tensor in named}


def thinner(tensor: Tensor, cuts: Iterable[Cut]) -> Tensor:
    """The kept positions of every cut axis, in the same memory format.

    >>> thinner(torch.tensor([[1, 2, 3], [4, 5, 6]]), [Cut("fc.weight", 1, 3, (0, 2))])
    tensor([[1, 3],
            [4, 6]])
    """
    result = tensor.detach()
    for cut in cuts:
        result = result.index_select(cut.axis, torch.tensor(cut.kept, device=tensor.device))
    for layout in (torch.channels_last, torch.channels_last_3d):
        fits = tensor.dim() == (4 if layout == torch.channels_last else 5)
        if fits and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=layout):
            return result.contiguous(memory_format=layout)
    return result


def by_tensor(cuts: Iterable[Cut]) -> dict[str, list[Cut]]:
    """The cuts of each tensor."""
    found: dict[str, list[Cut]] = {}
    for cut in cuts:
        found.setdefault(cut.tensor, []).append(cut)
    return found


def _change(data: Mapping[str, Any]) -> Change:
    return Change(str(data["module"]), str(data["attribute"]), int(data["before"]), int(data["after"]))
