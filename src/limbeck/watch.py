"""What a criterion must have seen before it can score: gradients, activations, the batch norm behind a convolution.

A criterion declares its ``needs``; whoever schedules it holds one ``Watch`` and drives it through the training step::

    watch.open()      before the forward pass: hooks in
      forward, backward
    watch.step()      before optimizer.step(): gradients are read, complete, before any is masked, with dense copies of weights back in place
    watch.close()     hooks out: between two steps nothing of the watch is on the model

Nothing is read back from a device in a step, and what is added up is as small as the criterion allows: a number a unit, or a channel.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal
from weakref import ReferenceType, ref

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from limbeck._hooks import Eye, Places, first_tensor, owners
from limbeck.errors import CheckpointError, MaskError
from limbeck.names import Named, canonical
from limbeck.tile import Tile

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Gradients:
    """A number a unit that is added up over the optimizer steps.

    ``accumulate(total, weight, grad)`` changes ``total``, ``[units]`` in float32 and zero at first, in place; ``weight`` and ``grad`` are
    ``[units, members]``. ``lasting`` sums are not begun anew when a mask is renewed; a criterion can do without what is not ``required``.
    """

    key: str
    accumulate: Callable[[Tensor, Tensor, Tensor], object]
    lasting: bool = False
    required: bool = True


@dataclass(frozen=True)
class Activations:
    """The mean over the training batches of what ``measure(owner, attribute, activation)`` gives, each batch weighed by its elements.

    ``owner`` is the module that holds the parameter, under the name ``attribute``; the activation is its first ``input`` or its first
    ``output``, or the output of the batch norm that reads that output. The result broadcasts to the parameter's shape; None: not of this module.
    """

    key: str
    measure: Callable[[nn.Module, str, Tensor], Tensor | None]
    side: Literal["input", "output"] = "output"
    lasting: bool = False


@dataclass(frozen=True)
class FollowingNorm:
    """The scale that folding the batch norm behind a convolution would give its filters: ``gamma / sqrt(running variance + eps)``.

    ``[filters, 1, ...]``; 1 for all that is no convolution or that no batch norm reads. Which one does is seen in the first forward pass.
    """

    key: str = "fold_batchnorm"


@dataclass(frozen=True)
class Beside:
    """The largest magnitude in each entry, along the first axis, of what the parameter's module holds under ``attribute``: ``[entries]``.

    It is read as it stands, masks applied. A batch norm's bias has its scales beside it, and a convolution's its filters.
    """

    key: str = "beside"
    attribute: str = "weight"


Need = Gradients | Activations | FollowingNorm | Beside


@dataclass
class _Mean:
    """A mean of batches that weigh ``count`` together."""

    value: Tensor
    count: int

    def add(self, value: Tensor, count: int) -> None:
        self.count += count
        self.value.lerp_(value.to(torch.float32), count / self.count)

    def over_all_processes(self) -> Tensor:
        """The mean of what all ranks saw, the same on each, so that their masks are."""
        if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
            return self.value
        total, count = self.value * self.count, torch.tensor(float(self.count), device=self.value.device)
        distributed.all_reduce(total)
        distributed.all_reduce(count)
        return total / count


class Watch:
    """Sees what the ``needs`` of one pruner ask of the parameters ``names``, and keeps it until ``forget``.

    >>> from limbeck.names import named_parameters
    >>> from limbeck.tile import FILTERS
    >>> layer = nn.Linear(3, 2, bias=False)
    >>> sizes = Gradients("size", lambda total, weight, grad: total.add_(grad.abs().sum(1)))
    >>> watch = Watch([sizes], layer, named_parameters(layer), ["weight"], lambda name: FILTERS)
    >>> watch.missing()
    ("'weight': no gradient",)
    >>> layer(torch.ones(1, 3)).sum().backward()
    >>> watch.step()
    >>> watch.stats("weight")
    {'size': tensor([[3., 3., 3.],
            [3., 3., 3.]])}
    """

    def __init__(
        self,
        needs: Iterable[Need],
        model: nn.Module,
        parameters: Mapping[str, Named],
        names: Iterable[str],
        unit_of: Callable[[str], Tile],
    ) -> None:
        needs = tuple(dict.fromkeys(needs))
        self._gradients = [need for need in needs if isinstance(need, Gradients)]
        self._activations = [need for need in needs if isinstance(need, Activations)]
        self._outward = [need for need in self._activations if need.side == "output"]
        self._scales = [need for need in needs if isinstance(need, FollowingNorm)]
        self._beside = [need for need in needs if isinstance(need, Beside)]
        self._model, self._unit_of = model, unit_of
        self._parameters = {name: parameters[name].parameter for name in names}
        self._owners = list(owners(model, self._parameters))
        self._convolved = {name for module, places in self._owners if isinstance(module, CONVOLUTIONS) for name, _ in places}
        self._norms = {canonical(name): module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
        self._looking = ExitStack()
        self._is_open = False
        self._outputs: dict[int, tuple[ReferenceType[Tensor], nn.Module, Places]] = {}
        self._totals: dict[str, dict[str, Tensor]] = {}
        self._means: dict[str, dict[str, _Mean]] = {}
        self._behind: dict[str, str] = {}  # which batch norm reads what a parameter's module gives; "" for none

    def open(self) -> None:
        """Look at the forward passes from now on, as long as the model trains; what ``torch.compile`` made, which runs no hooks, stands aside."""
        if self._is_open or not (self._activations or self._scales):
            return
        self._is_open = True
        for module, places in self._owners:
            self._looking.enter_context(module.register_forward_hook(Eye(partial(self._look, places)), with_kwargs=True))
        for name, norm in self._norms.items() if self._scales or self._outward else ():
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
    def step(self) -> None:
        """Read the gradients, complete and not yet used; a parameter without one is passed over."""
        for name, parameter in self._parameters.items() if self._gradients else ():
            if parameter.grad is None:
                continue
            unit, grad = self._unit_of(name), parameter.grad
            weight, grad = unit.fold(parameter.detach()), unit.fold(grad.to_dense() if grad.is_sparse else grad)
            for need in self._gradients:
                totals = self._totals.setdefault(need.key, {})
                if name not in totals:
                    totals[name] = torch.zeros(len(weight), device=weight.device)
                need.accumulate(totals[name], weight, grad)

    def missing(self) -> tuple[str, ...]:
        """What no stats can be given without, ready for a message; empty when all has been seen."""
        return tuple(f"'{name}': no {what}" for name in self._parameters for what in self._unseen(name))

    @torch.no_grad()
    def stats(self, name: str) -> dict[str, Tensor] | None:
        """By key what was seen of a parameter, each to be broadcast to its shape; None while something of it is missing.

        With several processes in ``torch.distributed`` all of them must ask: activations are averaged over them.
        """
        if self._unseen(name):
            return None
        shape, unit = self._parameters[name].shape, self._unit_of(name)
        totals = {need.key: self._totals.get(need.key, {}).get(name) for need in self._gradients}
        found = {key: unit.unfold(total[:, None], shape) for key, total in totals.items() if total is not None}
        found |= {need.key: self._means[need.key][name].over_all_processes() for need in self._activations}
        found |= {need.key: self._magnitudes_beside(name, need.attribute) for need in self._beside}
        return found | {need.key: self._scale(name) for need in self._scales}

    def forget(self) -> None:
        """Begin all sums and means anew that are not ``lasting``."""
        for gradients in self._gradients:
            if not gradients.lasting:
                self._totals.pop(gradients.key, None)
        for activations in self._activations:
            if not activations.lasting:
                self._means.pop(activations.key, None)

    def state_dict(self) -> dict[str, Any]:
        """What was seen, for a checkpoint: tensors, numbers and names of modules."""
        means = {key: {name: [mean.value, mean.count] for name, mean in seen.items()} for key, seen in self._means.items()}
        return {"totals": {key: dict(seen) for key, seen in self._totals.items()}, "means": means, "norms": dict(self._behind)}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Have seen what was seen when ``state_dict`` was taken; raises ``CheckpointError`` for a parameter that is not watched."""
        seen = [name for kind in ("totals", "means") for by_name in saved[kind].values() for name in by_name]
        if strangers := sorted({*seen, *saved["norms"]} - self._parameters.keys()):
            raise CheckpointError(
                f"the checkpoint has statistics of {strangers}, which nothing here watches; build the model that was saved"
            )

        def placed(name: str, value: Tensor) -> Tensor:
            return value.to(self._parameters[name].device, copy=True)

        self._totals = {key: {name: placed(name, total) for name, total in by_name.items()} for key, by_name in saved["totals"].items()}
        self._means = {
            key: {name: _Mean(placed(name, value), count) for name, (value, count) in by_name.items()}
            for key, by_name in saved["means"].items()
        }
        self._behind = dict(saved["norms"])

    def _unseen(self, name: str) -> list[str]:
        unseen = ["gradient"] if any(need.required and name not in self._totals.get(need.key, {}) for need in self._gradients) else []
        unseen += [
            f"measurable {need.side} of its module in training" for need in self._activations if name not in self._means.get(need.key, {})
        ]
        if self._scales and name in self._convolved and name not in self._behind:
            unseen.append("forward pass of its module in training")
        return unseen

    def _magnitudes_beside(self, name: str, attribute: str) -> Tensor:
        owner = next(module for module, places in self._owners for owned, _ in places if owned == name)
        other, entries = getattr(owner, attribute, None), self._parameters[name].numel()
        if not isinstance(other, Tensor) or isinstance(owner, TRANSPOSED) or other.shape[:1] != self._parameters[name].shape:
            kind = type(owner).__name__
            raise MaskError(f"'{name}' has no '{attribute}' of {entries} entries beside it in its {kind}; take it out of the targets")
        return other.detach().reshape(entries, -1).abs().amax(1)

    def _scale(self, name: str) -> Tensor:
        parameter, norm = self._parameters[name], self._norms.get(self._behind.get(name, ""))
        if norm is None or norm.running_var is None or name not in self._convolved:
            return torch.ones((), device=parameter.device)
        scale = (norm.running_var + norm.eps).rsqrt()
        return (scale if norm.weight is None else scale * norm.weight).reshape(-1, *[1] * (parameter.dim() - 1))

    @torch.no_grad()
    def _look(self, places: Places, module: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
        """Of a module that holds watched parameters, after its forward pass."""
        if not self._model.training:
            return
        taken, given = first_tensor((*args, *kwargs.values())), first_tensor(output)
        if given is not None:
            self._outputs[id(given)] = ref(given), module, places
        for name, attribute in places:
            behind = self._behind.setdefault(name, "")
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
                if not self._behind[name]:  # before this norm was known the module's own output was taken
                    self._means.get(need.key, {}).pop(name, None)
                self._add(need, owner, name, attribute, output)
            self._behind[name] = norm

    def _add(self, need: Activations, owner: nn.Module, name: str, attribute: str, activation: Tensor | None) -> None:
        value = None if activation is None else need.measure(owner, attribute, activation.detach())
        if activation is None or value is None or not activation.numel():
            return
        means = self._means.setdefault(need.key, {})
        if name not in means:
            means[name] = _Mean(torch.zeros_like(value, dtype=torch.float32), 0)
        means[name].add(value, activation.numel())
