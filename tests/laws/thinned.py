"""What every thinning must keep: functions that thin a model beside its masked twin, and compare the two."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from limbeck.events import Coupled
from limbeck.graph import Coupling, capture, coupling
from limbeck.masks import Masks
from limbeck.names import named_parameters
from limbeck.recipes import Cut, Recipe, thinner
from limbeck.thinning import load_thinned, save_thinned
from limbeck.thinning.thin import thin_coupled

OPTIMIZERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-3, foreach=False),
    "adam": lambda model: torch.optim.Adam(model.parameters(), lr=0.01, amsgrad=True, foreach=False),
}
STATISTICS = ("running_mean", "running_var")


def randomised(model: nn.Module) -> nn.Module:
    """With biases, norms and running statistics as training leaves them."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.dim() == 1 and tensor.is_floating_point():
            tensor.data = torch.rand_like(tensor) + 0.5 if "var" in name else torch.randn_like(tensor)
    return model


def removable(found: Coupling) -> list[int]:
    """The units that weights compute and nothing holds, in order."""
    computed = {unit for key in found.produced for unit in found.classes[key]}
    return sorted(computed - found.frozen.keys())


def chosen(found: Coupling, share: float, seed: int) -> frozenset[int]:
    """So many of the removable units, at random, but never all of an axis."""
    units = removable(found)
    order = torch.randperm(len(units), generator=torch.Generator().manual_seed(seed)).tolist()
    picked = {units[place] for place in order[: max(1, round(share * len(units)))]}
    for (name, axis), classes in found.classes.items():
        if set(classes) <= picked:
            picked.discard(classes[0])
        if name.endswith("weight_hr_l0") and axis == 1:  # an LSTM must stay wider than its projection
            room = len(classes) - 1 - len(found.classes[name, 0])
            picked.difference_update(sorted(picked.intersection(classes))[max(room, 0) :])
    return frozenset(picked)


def masks_of(model: nn.Module, found: Coupling, units: frozenset[int]) -> dict[str, Tensor]:
    """The masks, True = kept, that drop units in everything but the weights that read them: weights, biases, gains, shifts, positions."""
    parameters = {name: named.parameter for name, named in named_parameters(model).items()}
    masks: dict[str, Tensor] = {}
    for (name, axis), classes in found.classes.items():
        places = [place for place, unit in enumerate(classes) if unit in units]
        if places and name in parameters and ((name, axis) in found.produced or name not in found.computing):
            mask = masks.setdefault(name, torch.ones(parameters[name].shape, dtype=torch.bool))
            mask.index_fill_(axis, torch.tensor(places), False)
    return masks


def gone(recipe: Recipe, found: Coupling) -> frozenset[int]:
    """The units that a recipe takes out."""
    return frozenset(found.classes[cut.tensor, cut.axis][place] for cut in recipe.cuts for place in set(range(cut.size)) - set(cut.kept))


@dataclass
class Trained:
    """A model in training, with its masks and its optimizer."""

    model: nn.Module
    masks: Masks
    optimizer: Optimizer

    @staticmethod
    def of(model: nn.Module, masks: Mapping[str, Tensor], optimizer: str) -> Trained:
        kept = Masks(named_parameters(model))
        for name, mask in masks.items():
            kept.put(name, mask)
        kept.apply()
        return Trained(model, kept, OPTIMIZERS[optimizer](model))

    def twin(self) -> Trained:
        """A copy of all three."""
        model = copy.deepcopy(self.model)
        twin = Trained.of(model, dict(self.masks.items()), "adam" if isinstance(self.optimizer, torch.optim.Adam) else "sgd")
        twin.optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        return twin

    def step(self, *inputs: Tensor) -> None:
        """One training step."""
        self.optimizer.zero_grad()
        torch.stack([result.square().mean() for result in flat(self.model.train()(*inputs))]).sum().backward()
        self.optimizer.step()
        self.masks.apply()

    def tensors(self) -> Iterator[tuple[str, str, Tensor]]:
        """Parameters, buffers and all that the optimizer keeps of a parameter's shape: (name, what, values)."""
        yield from ((name, "", tensor.detach()) for name, tensor in (*self.model.named_parameters(), *self.model.named_buffers()))
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                yield name, key, value


def flat(result: Any) -> Iterator[Tensor]:
    """All tensors of a result."""
    if isinstance(result, Tensor):
        yield result
    else:
        for part in result.values() if isinstance(result, dict) else result:
            yield from flat(part)


def kept(recipe: Recipe, name: str, tensor: Tensor) -> Tensor:
    """What a recipe leaves of a tensor, or of what an optimizer keeps for it."""
    cuts = [cut for cut in recipe.cuts if cut.tensor == name]
    return thinner(tensor, cuts) if tensor.dim() else tensor


def agree(one: nn.Module, other: nn.Module, inputs: tuple[Tensor, ...], within: float = 1e-5) -> None:
    """Both compute the same, in evaluation and in training mode, to so many parts of the largest result."""
    with torch.no_grad():
        for training in (False, True):
            twins = [copy.deepcopy(model).train(training) for model in (one, other)]  # training moves running statistics
            for expected, found in zip(*[list(flat(model(*inputs))) for model in twins], strict=True):
                assert expected.shape == found.shape
                assert (expected - found).abs().max() <= within * max(1.0, float(expected.abs().max()))


def same(one: Trained, other: Trained, recipe: Recipe, within: float) -> None:
    """The kept entries of one are the other's: parameters, buffers, optimizer."""
    twins = {(name, what): tensor for name, what, tensor in other.tensors()}
    assert len(twins) == len(list(one.tensors()))
    for name, what, tensor in one.tensors():
        expected, found = kept(recipe, name, tensor), twins[name, what]
        assert expected.shape == found.shape, (name, what)
        scale = max(1.0, float(expected.abs().max())) if expected.is_floating_point() else 1.0
        assert (expected.double() - found.double()).abs().max() <= within * scale, (name, what)


def holds(build: Callable[[], nn.Module], inputs: tuple[Tensor, ...], seed: int, folder: Path, optimizer: str = "sgd") -> Recipe:
    """All laws of thinning, in float64 where two orders of summation must come to the same; returns the recipe."""
    torch.manual_seed(seed)
    inputs = tuple(part.double() if part.is_floating_point() else part for part in inputs)
    model = randomised(build()).double()
    graph = capture(model, inputs)
    found = coupling(graph)
    units = chosen(found, 0.35, seed)
    masked = Trained.of(model, masks_of(model, found, units), optimizer)
    masked.step(*inputs)
    thinned = masked.twin()
    recipe = thin_coupled(Coupled(graph, found), thinned.model, inputs, thinned.masks, thinned.optimizer)

    assert gone(recipe, found) == units
    same(masked, thinned, recipe, 0.0)
    agree(masked.model, thinned.model, inputs, 1e-9)
    agree(copy.deepcopy(masked.model).float(), copy.deepcopy(thinned.model).float(), single(inputs))
    for _ in range(2):
        masked.step(*inputs)
        thinned.step(*inputs)
    same(masked, thinned, recipe, 1e-7)
    assert Recipe.from_json(recipe.to_json()) == recipe

    resumed = build().double()
    save_thinned(folder / "thin.safetensors", thinned.model, [recipe])
    assert load_thinned(folder / "thin.safetensors", resumed) == (recipe,)
    again = Trained.of(resumed, dict(thinned.masks.items()), optimizer)
    again.optimizer.load_state_dict(copy.deepcopy(thinned.optimizer.state_dict()))
    thinned.step(*inputs)
    again.step(*inputs)
    same(thinned, again, Recipe(), 0.0)
    return recipe


def single(inputs: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """In float32."""
    return tuple(part.float() if part.is_floating_point() else part for part in inputs)


def followed(recipe: Recipe, model: nn.Module) -> dict[str, list[Cut]]:
    """The cuts of each tensor of a model, under each of its names."""
    names = {id(tensor): name for name, tensor in reversed(list(model.state_dict(keep_vars=True).items()))}
    by_name: dict[str, list[Cut]] = {}
    for cut in recipe.cuts:
        by_name.setdefault(cut.tensor, []).append(cut)
    return {name: by_name.get(names[id(tensor)], []) for name, tensor in model.state_dict(keep_vars=True).items()}
