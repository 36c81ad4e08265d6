"""What a criterion must have seen before it can score: gradients, activations, the batch norm behind a convolution.

A criterion declares its ``needs``; whoever schedules it holds one ``Watch`` and drives it through the training step::

    watch.open()      before the forward pass: hooks in
      forward, backward
    watch.step()      before optimizer.step(): gradients are read, complete, before any is masked, with dense copies of weights back in place
    watch.close()     hooks out: between two steps nothing of the watch is on the model

Nothing is read back from a device in a step, and what is added up is as small as the criterion allows: a number a unit, or a channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck._forward import Forward, Mean, Places
from limbeck.errors import CheckpointError, MaskError
from limbeck.groups import misfit
from limbeck.names import Named
from limbeck.needs import TRANSPOSED, Activations, Beside, FollowingNorm, Gradients, Need
from limbeck.recipes import Cut, by_tensor, thinner
from limbeck.tile import Tile

__all__ = ["Activations", "Beside", "FollowingNorm", "Gradients", "Need", "Watch"]


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
        self._scales = [need for need in needs if isinstance(need, FollowingNorm)]
        self._beside = [need for need in needs if isinstance(need, Beside)]
        self._unit_of = unit_of
        self._parameters = {name: parameters[name].parameter for name in names}
        follows = bool(self._scales) or any(need.gated for need in self._gradients)
        self._forward = Forward(model, self._parameters, self._activations, follows)
        self._totals: dict[str, dict[str, Tensor]] = {}

    def open(self) -> None:
        """Look at the forward passes from now on, as long as the model trains; what ``torch.compile`` made, which runs no hooks, stands aside."""
        self._forward.open()

    def close(self) -> None:
        """Look no more; what was seen stays."""
        self._forward.close()

    @torch.no_grad()
    def step(self) -> None:
        """Read the gradients, complete and not yet used; a parameter without one is passed over."""
        for name, parameter in self._parameters.items() if self._gradients else ():
            if parameter.grad is None:
                continue
            unit, grad = self._unit_of(name), parameter.grad
            weight, grad = unit.fold(parameter.detach()), unit.fold(_dense(grad))
            for need in self._gradients:
                totals = self._totals.setdefault(need.key, {})
                before = totals.get(name)  # which stayed where it was, if the model has been moved
                totals[name] = torch.zeros(len(weight), device=weight.device) if before is None else before.to(weight.device)
                gate = self._gate(name, unit) if need.gated else None
                need.accumulate(totals[name], *(gate or (weight, grad)))

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
        found |= {need.key: self._forward.means[need.key][name].over_all_processes() for need in self._activations}
        found |= {need.key: self._magnitudes_beside(name, need.attribute) for need in self._beside}
        return found | {need.key: self._scale(name) for need in self._scales}

    def forget(self) -> None:
        """Begin all sums and means anew that are not ``lasting``."""
        for gradients in self._gradients:
            if not gradients.lasting:
                self._totals.pop(gradients.key, None)
        for activations in self._activations:
            if not activations.lasting:
                self._forward.means.pop(activations.key, None)

    def thinned(self, cuts: Iterable[Cut]) -> None:
        """Cut what was seen of parameters as these were; what was seen of units that the new shape does not divide into is forgotten."""
        for name, own in by_tensor(cuts).items():
            if name not in self._parameters:
                continue
            unit, now = self._unit_of(name), tuple(self._parameters[name].shape)
            before = list(now)
            for cut in own:
                before[cut.axis] = cut.size
            for totals in self._totals.values():
                if name in totals:
                    total = totals.pop(name)
                    if misfit(unit, now) is None:
                        totals[name] = unit.fold(thinner(unit.unfold(total[:, None], tuple(before)), own))[:, 0].contiguous()
            for means in self._forward.means.values():
                if name in means:
                    means[name].value = _broadcast_thinner(means[name].value, own, len(now))

    def state_dict(self) -> dict[str, Any]:
        """What was seen, for a checkpoint: tensors, numbers and names of modules."""
        means = {key: {name: [mean.value, mean.count] for name, mean in seen.items()} for key, seen in self._forward.means.items()}
        return {"totals": {key: dict(seen) for key, seen in self._totals.items()}, "means": means, "norms": dict(self._forward.behind)}

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
        self._forward.means = {
            key: {name: Mean(placed(name, value), count) for name, (value, count) in by_name.items()}
            for key, by_name in saved["means"].items()
        }
        self._forward.behind = dict(saved["norms"])

    def _gate(self, name: str, unit: Tile) -> tuple[Tensor, Tensor] | None:
        """The scale by which a batch norm multiplies each filter, and its gradient, ``[filters, 1]``; None where units are no filters that one reads."""
        shape, norm = self._parameters[name].shape, self._forward.norm_behind(name)
        scale = None if norm is None or name not in self._forward.filters else norm.weight
        if scale is None or scale.grad is None or unit.grid(shape) != (len(scale), *[1] * len(shape[1:])):
            return None
        return scale.detach()[:, None], scale.grad[:, None]

    def _owner(self, name: str) -> tuple[nn.Module, Places]:
        return next((module, places) for module, places in self._forward.owners if any(owned == name for owned, _ in places))

    def _unseen(self, name: str) -> list[str]:
        unseen = ["gradient"] if any(need.required and name not in self._totals.get(need.key, {}) for need in self._gradients) else []
        unseen += [
            f"measurable {need.side} of its module in training"
            for need in self._activations
            if name not in self._forward.means.get(need.key, {})
        ]
        if self._scales and name in self._forward.convolved and name not in self._forward.behind:
            unseen.append("forward pass of its module in training")
        return unseen

    def _magnitudes_beside(self, name: str, attribute: str) -> Tensor:
        owner, _ = self._owner(name)
        other, entries = getattr(owner, attribute, None), self._parameters[name].numel()
        if not isinstance(other, Tensor) or isinstance(owner, TRANSPOSED) or other.shape[:1] != self._parameters[name].shape:
            kind = type(owner).__name__
            raise MaskError(f"'{name}' has no '{attribute}' of {entries} entries beside it in its {kind}; take it out of the targets")
        return other.detach().reshape(entries, -1).abs().amax(1)

    def _scale(self, name: str) -> Tensor:
        parameter, norm = self._parameters[name], self._forward.norm_behind(name)
        if norm is None or norm.running_var is None or name not in self._forward.convolved:
            return torch.ones((), device=parameter.device)
        scale = (norm.running_var + norm.eps).rsqrt()
        return (scale if norm.weight is None else scale * norm.weight).reshape(-1, *[1] * (parameter.dim() - 1))


def _broadcast_thinner(value: Tensor, cuts: Iterable[Cut], rank: int) -> Tensor:
    """Of a tensor that broadcasts to one of ``rank`` axes, what is left after the cuts."""
    missing = rank - value.dim()
    own = [Cut(cut.tensor, cut.axis - missing, cut.size, cut.kept) for cut in cuts if cut.axis >= missing]
    return thinner(value, [cut for cut in own if value.shape[cut.axis] == cut.size]).clone()


def _dense(grad: Tensor) -> Tensor:
    return grad.to_dense() if grad.is_sparse else grad
