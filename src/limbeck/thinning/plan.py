"""Which units can go so that the thinner model computes what the masked one does."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from limbeck.graph import Coupling, Graph, propagate
from limbeck.graph.removal import removable
from limbeck.names import canonical
from limbeck.recipes import Cut, Recipe
from limbeck.thinning.sizes import changes


def plan(graph: Graph, coupling: Coupling, tensors: Mapping[str, Tensor], leave: Collection[int] = (), training: bool = False) -> Recipe:
    """The recipe that removes every unit that computes, or is read as, nothing.

    ``tensors`` says what is zero, by name: a parameter's values, or its mask (bool, True = kept); what is not given is taken to be other than
    zero. To have biases, norms and running statistics judged, give all of ``model.state_dict()`` with the masks applied.

    A unit goes only where that is exact: at each place that reads it, either the unit is zero for every input, or its weight in every row that
    remains is. A zero filter whose bias or norm shifts it away from zero stays, as does, with ``training``, one that a batch norm shifts in training
    alone, where it takes the statistics of the batch. So do the classes in ``leave``. What weights leave out as a whole
    and yet stays is listed in ``recipe.left`` with its reason.

    >>> from torch import nn
    >>> from limbeck.graph import capture, coupling
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> graph = capture(net, (torch.zeros(1, 2),))
    >>> keep = torch.tensor([True, False, True])
    >>> recipe = plan(graph, coupling(graph), {"0.weight": keep.unsqueeze(1).expand(3, 2), "0.bias": keep})
    >>> [(cut.tensor, cut.axis, cut.kept) for cut in recipe.cuts]
    [('0.weight', 0, (0, 2)), ('0.bias', 0, (0, 2)), ('2.weight', 1, (0, 2))]
    >>> plan(graph, coupling(graph), {"0.weight": keep.unsqueeze(1).expand(3, 2)}).left
    ("0.weight: 1 of 3 along axis 0 zero but kept ([1]): '0.bias' gives it another value",)
    """
    flow = propagate(graph, tensors, coupling, training=training)
    dead = removable(flow, coupling, leave)
    gone = frozenset(dead.nonzero().reshape(-1).tolist())
    cuts = tuple(
        Cut(name, axis, len(units), tuple(place for place, unit in enumerate(units) if unit not in gone))
        for (name, axis), units in coupling.classes.items()
        if not gone.isdisjoint(units)
    )
    zero = {name: ~(value.known.expand(value.shape) != 0) for name, value in flow.stored.items()}
    zero = {name: value & ~flow.stored[name].known.expand(value.shape).isnan() for name, value in zero.items()}
    return Recipe(cuts, changes(graph, cuts), tuple(left(coupling, dead, zero)))


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers, by canonical name: what ``plan`` judges."""
    return {canonical(name): tensor.detach() for group in (model.named_parameters(), model.named_buffers()) for name, tensor in group}


def left(coupling: Coupling, dead: Tensor, zero: Mapping[str, Tensor]) -> list[str]:
    """Lines about the zero rows and columns of weights that stay."""
    lines = []
    for (name, axis), units in coupling.classes.items():
        tensor = zero[name]
        if tensor.dim() < 2 or axis > 1:
            continue
        blank = tensor.transpose(0, axis).flatten(1).all(1)
        reasons: dict[str, list[int]] = {}
        for place in blank.nonzero().reshape(-1).tolist():
            if not dead[units[place]]:
                reasons.setdefault(_reason(coupling, units[place], (name, axis), zero), []).append(place)
        lines += [
            f"{name}: {len(places)} of {len(units)} along axis {axis} zero but kept ({_few(places)}): {why}"
            for why, places in reasons.items()
        ]
    return lines


def _few(places: list[int]) -> str:
    return str(places) if len(places) <= 8 else f"{str(places[:8])[:-1]}, ...]"


def _reason(coupling: Coupling, unit: int, key: tuple[str, int], zero: Mapping[str, Tensor]) -> str:
    if unit in coupling.frozen:
        return "; ".join(coupling.frozen[unit])
    produces = key in coupling.produced
    members = {
        (name, axis): places
        for (name, axis), places in coupling.members(unit).items()
        if ((name, axis) in coupling.produced) == produces or name not in coupling.computing
    }
    alive = [name for (name, axis), places in members.items() if zero[name].dim() > 1 and not _blank(zero[name], axis, places)]
    if alive:
        return f"coupled with {_names(alive)}, not zero there"
    if not produces:
        return "the weights that read it are zero, but not the only place where it counts"
    vectors = [
        name for (name, axis), places in coupling.members(unit).items() if zero[name].dim() == 1 and not _blank(zero[name], axis, places)
    ]
    return f"{_names(vectors)} gives it another value" if vectors else "it is the last of its axis, or is not zero where it is read"


def _blank(zero: Tensor, axis: int, places: tuple[int, ...]) -> bool:
    return bool(zero.index_select(axis, torch.tensor(places)).all())


def _names(names: list[str]) -> str:
    names = list(dict.fromkeys(names))
    return ", ".join(f"'{name}'" for name in names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
