"""What passes forward through a model, seen by hooks that leave no trace on it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import ReferenceType, finalize, ref

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from limbeck.names import canonical
from limbeck.needs import CONVOLUTIONS, Activations

Places = tuple[tuple[str, str], ...]
"""Of a module that holds watched parameters: their canonical names, and the attributes under which it does."""


class Eye:
    """A forward hook of which a copy, by ``deepcopy`` or pickle, sees nothing: a copied model is not the one that is watched."""

    def __init__(self, look: Callable[..., None] | None) -> None:
        self._look = look

    def __call__(self, *seen: Any) -> None:
        if self._look is not None:
            self._look(*seen)

    def __reduce__(self) -> tuple[Any, ...]:
        return Eye, (None,)


@contextmanager
def part_by_part() -> Iterator[None]:
    """Torch's transformer encoders and their attention call the modules that they are made of, as in training, and not one function with the weights of all.

    Where padding is masked that function takes sequences in a form that no hook and no other module knows.
    """
    at_once = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(at_once)


def owners(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> Iterator[tuple[nn.Module, Places]]:
    """Every module that holds watched parameters; a tied parameter has several."""
    names = {id(parameter): name for name, parameter in parameters.items()}
    for module in model.modules():
        places = tuple((names[id(own)], attribute) for attribute, own in module._parameters.items() if own is not None and id(own) in names)
        if places:
            yield module, places


def first_tensor(values: Any) -> Tensor | None:
    """The first of what a module takes or gives, if that is a tensor; of a packed sequence its data."""
    while isinstance(values, tuple | list) and values:
        values = values[0]
    return values if isinstance(values, Tensor) else None


@dataclass
class Mean:
    """A mean of batches that weigh ``count`` together."""

    value: Tensor
    count: int

    def add(self, value: Tensor, count: int) -> None:
        self.count += count
        self.value = self.value.to(value.device)  # the model may have been moved
        self.value.lerp_(value.to(torch.float32), count / self.count)

    def over_all_processes(self) -> Tensor:
        """The mean of what all ranks saw, the same on each, so that their masks are."""
        if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
            return self.value
        total, count = self.value * self.count, torch.tensor(float(self.count), device=self.value.device)
        distributed.all_reduce(total)
        distributed.all_reduce(count)
        return total / count


class Forward:
    """Takes the means of activations, and finds the batch norm behind each module, while it is open."""

    def __init__(self, model: nn.Module, parameters: Mapping[str, nn.Parameter], activations: Sequence[Activations], follows: bool) -> None:
        self._model, self._activations = model, activations
        self._outward = [need for need in activations if need.side == "output"]
        self._follows = follows or bool(self._outward)
        self.owners = list(owners(model, parameters))
        self.convolved = {name for module, places in self.owners if isinstance(module, CONVOLUTIONS) for name, _ in places}
        self.filters = {  # weights whose first axis is what comes out; that of a transposed convolution is what goes in
            name
            for module, places in self.owners
            if isinstance(module, (nn.Linear, *CONVOLUTIONS))
            for name, attribute in places
            if attribute == "weight"
        }
        self.norms = {canonical(name): module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
        self.means: dict[str, dict[str, Mean]] = {}
        self.behind: dict[str, str] = {}  # which batch norm reads what a parameter's module gives; "" for none
        self._outputs: dict[int, tuple[ReferenceType[Tensor], nn.Module, Places]] = {}
        self._looking = ExitStack()
        finalize(self, self._looking.close)  # a run that fails within a step leaves compiled code standing aside no longer than it lives
        self._is_open = False

    def norm_behind(self, name: str) -> _BatchNorm | None:
        """The batch norm that reads what a parameter's module gives, as far as that was seen."""
        return self.norms.get(self.behind.get(name, ""))

    def open(self) -> None:
        """Look from now on, as long as the model trains; what ``torch.compile`` made, which runs no hooks, stands aside."""
        names = {name for _, places in self.owners for name, _ in places}
        if self._is_open or not (self._activations or (self._follows and names - self.behind.keys())):
            return
        self._is_open = True
        for module, places in self.owners:
            self._looking.enter_context(module.register_forward_hook(Eye(partial(self._look, places)), with_kwargs=True))
        for name, norm in self.norms.items() if self._follows else ():
            self._looking.enter_context(norm.register_forward_hook(Eye(partial(self._look_behind, name))))
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and asking would import it
            eager: Any = torch.compiler.set_stance("force_eager")
            if eager.prev != eager.stance:  # who set it first takes it back, so that two watches may close in any order
                self._looking.push(eager)

    def close(self) -> None:
        """Look no more; what was seen stays."""
        self._looking.close()
        self._outputs.clear()
        self._is_open = False

    @torch.no_grad()
    def _look(self, places: Places, module: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
        """Of a module that holds watched parameters, after its forward pass."""
        if not self._model.training:
            return
        taken, given = first_tensor((*args, *kwargs.values())), first_tensor(output)
        if given is not None:
            self._outputs[id(given)] = ref(given), module, places
        for name, attribute in places:
            behind = self.behind.setdefault(name, "")
            for need in self._activations:
                if need.side == "input":
                    self._add(need, module, name, attribute, taken)
                elif not behind:
                    self._add(need, module, name, attribute, given)

    @torch.no_grad()
    def _look_behind(self, norm: str, module: nn.Module, args: Any, output: Tensor) -> None:
        """Of a batch norm, after its forward pass: is what it read the very tensor that a watched module gave?"""
        read, owner, places = self._outputs.get(id(args[0]) if args else 0, (None, module, ()))
        if not self._model.training or read is None or read() is not args[0]:
            return
        for name, attribute in places:
            for need in self._outward:
                if not self.behind[name]:  # before this norm was known the module's own output was taken
                    self.means.get(need.key, {}).pop(name, None)
                self._add(need, owner, name, attribute, output)
            self.behind[name] = norm

    def _add(self, need: Activations, owner: nn.Module, name: str, attribute: str, activation: Tensor | None) -> None:
        value = None if activation is None else need.measure(owner, attribute, activation.detach())
        if activation is None or value is None or not activation.numel():
            return
        means = self.means.setdefault(need.key, {})
        if name not in means:
            means[name] = Mean(torch.zeros_like(value, dtype=torch.float32), 0)
        means[name].add(value, activation.numel())
