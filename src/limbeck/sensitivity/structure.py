"""A model as its costs: what goes with a unit of each parameter, and which parameters' units can be taken out on their own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck.graph import Coupling, Graph, capture, coupling
from limbeck.graph.removal import silence
from limbeck.names import named_parameters
from limbeck.recipes import Recipe
from limbeck.sensitivity.costs import Axis, Costs
from limbeck.sensitivity.scan import Group, Masks
from limbeck.summaries.compute import counted
from limbeck.thinning import plan, tensors

Kind = Literal["sparsity", "parameters", "macs"]
AXES: Mapping[Group, int] = {"filter": 0, "channel": 1}
"""Along which axis of a weight its structures lie."""
SHARED = ("for other layers compute the same units (sums, groups)", "for other layers read the same units (branches, groups)")
"""By axis: why units of one parameter do not go alone."""
FOLLOWS = "for its units go with those of an earlier layer"


@dataclass(frozen=True)
class Structure:
    """A model's graph, its coupled units, and what its weights cost.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
    >>> structure = Structure.of(net, (torch.zeros(1, 3, 4, 4),))
    >>> structure.multiplied
    {'0.weight': 4.0, '3.weight': 1.0}
    >>> half = structure.costs(["0.weight"], "filter", "macs")
    >>> half.total({}), half.total({"0.weight": 4})
    (928.0, 464.0)
    """

    graph: Graph
    coupling: Coupling
    shapes: Mapping[str, tuple[int, ...]]
    """Of the weights: the parameters of two dimensions or more."""
    multiplied: Mapping[str, float]
    """How often each element of a weight is multiplied in one forward pass of the example inputs."""
    other_macs: float
    """Those that no weight has a part in, as of queries with keys."""

    @staticmethod
    def of(model: nn.Module, example_inputs: Sequence[Any]) -> Structure:
        """Raises ``CaptureError`` for a model that cannot be captured."""
        graph = capture(model, example_inputs)
        shapes = {name: tuple(named.parameter.shape) for name, named in named_parameters(model).items() if named.parameter.dim() > 1}
        multiplied, others = dict.fromkeys(shapes, 0.0), 0.0
        for row in counted(model, graph).rows:
            read = [name for name in row.reads if name in shapes]
            elements = sum(math.prod(shapes[name]) for name in read)
            for name in read:
                multiplied[name] += (row.macs or 0) / elements
            others += 0 if read else row.macs or 0
        return Structure(graph, coupling(graph), shapes, multiplied, others)

    def costs(self, names: Sequence[str], group: Group, kind: Kind) -> Costs:
        """What pruning these parameters saves of a kind; ``sparsity`` counts the weights that masks leave, the others what thinning does.

        Of single elements all kinds go by masks.
        """
        prices = self.multiplied if kind == "macs" else dict.fromkeys(self.shapes, 1.0)
        if group == "element":
            sizes = {name: (math.prod(shape),) for name, shape in self.shapes.items()}
            return Costs(sizes, prices, {name: sizes[name][0] for name in names}, {name: {(name, 0): 1} for name in names})
        axis = AXES[group]
        units = {name: self.shapes[name][axis] for name in names}
        if kind == "sparsity":
            return Costs(self.shapes, prices, units, {name: {(name, axis): 1} for name in names})
        return Costs(self.shapes, prices, units, {name: self._shortened(name, axis) for name in names})

    def _shortened(self, name: str, axis: int) -> dict[Axis, float]:
        """How many places of each weight's axes go with a unit, on average."""
        units, found = self.coupling.units(name, axis), dict[Axis, float]()
        for unit in units:
            for key, places in self.coupling.members(unit).items():
                if key[0] in self.shapes:
                    found[key] = found.get(key, 0.0) + len(places) / len(units)
        return found

    def thinned(self, recipe: Recipe) -> dict[str, int]:
        """How many elements a thinning leaves of each weight."""
        sizes = {name: list(shape) for name, shape in self.shapes.items()}
        for cut in recipe.cuts:
            if cut.tensor in sizes:
                sizes[cut.tensor][cut.axis] = len(cut.kept)
        return {name: math.prod(lengths) for name, lengths in sizes.items()}

    def macs(self, elements: Mapping[str, int]) -> float:
        """Multiplications in one forward pass when so many elements are left of each weight; 1 at least."""
        return max(1.0, self.other_macs + sum(times * elements[name] for name, times in self.multiplied.items()))

    def recipe(self, model: nn.Module, masks: Masks) -> Recipe:
        """What thinning takes out of a model with these masks and those that follow them."""
        values = tensors(model)
        masked = {name: torch.where(keep, values[name], 0) for name, keep in self.follow(masks).items()}
        return plan(self.graph, self.coupling, values | masked)

    def follow(self, masks: Masks) -> Masks:
        """These masks, with those of the biases, scales and shifts that fall silent: what structured pruners of a schedule mask as well."""
        vectors = silence(self.graph, self.coupling, masks).vectors
        return {**masks, **{name: keep for name, keep in vectors.items() if not bool(keep.all())}}

    def removable(self, model: nn.Module, names: Sequence[str], group: Group) -> dict[str, str]:
        """By parameter: an empty text where thinning takes out units that are pruned in it alone, or else why not.

        It is tried: one unit is masked in each, no two of them coupled, and thinning planned. Where several could lose the same units (a
        convolution and the depthwise one behind it) it is the first that does.
        """
        axis, taken, masks, tried = AXES[group], set[int](), dict[str, Tensor](), dict[str, int]()
        for name in names:
            units = self.coupling.units(name, axis)
            place = next((place for place, unit in enumerate(units) if unit not in taken and units.count(unit) == 1), None)
            if place is not None and len(units) > 1:
                tried[name] = place
                taken.add(units[place])
                masks[name] = torch.ones(self.shapes[name], dtype=torch.bool)
                masks[name].select(axis, place).fill_(False)
        recipe = self.recipe(model, masks)
        cuts = {(cut.tensor, cut.axis): set(cut.kept) for cut in recipe.cuts}
        reasons, owned = dict[str, str](), set[int]()
        for name in names:
            units = self.coupling.units(name, axis)
            if name not in tried or (name, axis) not in cuts or tried[name] in cuts[name, axis]:
                reasons[name] = _reason(recipe, name, axis)
            elif not owned.isdisjoint(units):
                reasons[name] = FOLLOWS
            else:
                reasons[name] = ""
                owned.update(units)
        return reasons


def _reason(recipe: Recipe, name: str, axis: int) -> str:
    """Why thinning has left a unit, from what it says of it; one text for all that it says of units of several parameters."""
    for line in recipe.left:
        if line.startswith(f"{name}: ") and f" along axis {axis} " in line:
            reason = line.split("): ", 1)[1]
            return SHARED[axis] if reason.startswith("coupled with") else reason
    return SHARED[axis]
