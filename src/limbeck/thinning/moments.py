"""What an optimizer keeps of its parameters, cut as they are: momentum, Adam's moments, Adafactor's rows and columns, L-BFGS' directions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from limbeck.recipes import Cut, thinner

REMEDY = "which thinning cannot cut; clear it first (optimizer.state.clear()), or thin before this optimizer has made a step"


class Moments:
    """The state of an optimizer after the cuts, made before anything is cut, and put in its place afterwards.

    ``cuts`` are those of each parameter, by name. ``faults`` has a line for each state tensor of which it is not known what belongs to which unit.
    """

    def __init__(self, optimizer: Optimizer | None, cuts: Mapping[str, tuple[Tensor, Sequence[Cut]]]) -> None:
        self._optimizer = optimizer
        self._found: list[tuple[dict[Any, Any], Any, Any]] = []
        self.faults: list[str] = []
        if isinstance(optimizer, LBFGS):
            self._directions(optimizer, {id(tensor): of for tensor, of in cuts.values()})
            return
        for name, (tensor, of) in cuts.items() if optimizer is not None else ():
            state = optimizer.state.get(tensor, {})  # type: ignore[union-attr]  # the line above has asked
            for key, value in state.items():
                axes = _axes(str(key), value, tuple(tensor.shape))
                if axes is None:
                    self.faults.append(f"the optimizer keeps '{key}' {_kind(value)} of '{name}', {REMEDY}")
                elif axes:
                    self._found.append((state, key, thinner(value, [_moved(cut, axes) for cut in of if cut.axis in axes])))

    def put(self) -> None:
        """Let the optimizer have it."""
        for state, key, value in self._found:
            state[key] = value
        if isinstance(self._optimizer, LBFGS):
            self._optimizer._numel_cache = None

    def _directions(self, optimizer: LBFGS, cuts: Mapping[int, Sequence[Cut]]) -> None:
        """L-BFGS keeps vectors of all parameters one after the other, under the first."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        parts, begin = [], 0
        for parameter in parameters:
            places = torch.arange(begin, begin + parameter.numel(), device=parameter.device).view(parameter.shape)
            parts.append(thinner(places, cuts.get(id(parameter), ())).reshape(-1))
            begin += parameter.numel()
        kept = torch.cat(parts)

        def cut(value: Any) -> Any:
            if isinstance(value, list):
                return [cut(item) for item in value]
            return value[kept] if isinstance(value, Tensor) and value.shape == (begin,) else value

        for state in optimizer.state.values():
            self._found += [(state, key, cut(value)) for key, value in state.items()]


def _axes(key: str, value: Any, shape: tuple[int, ...]) -> dict[int, int] | None:
    """Which axis of a state tensor goes with which of the parameter's; None where that is not known. What holds one number goes with none."""
    if max((tensor.numel() for tensor in _tensors(value)), default=0) <= 1:
        return {}
    if not isinstance(value, Tensor):
        return None
    if value.dim() == len(shape) and all(size in (1, whole) for size, whole in zip(value.shape, shape, strict=True)):
        return {axis: axis for axis, size in enumerate(value.shape) if size == shape[axis]}
    last = len(shape) - 1
    if key.endswith("row") and value.shape == shape[:-1]:
        return {axis: axis for axis in range(last)}
    if key.endswith("col") and value.shape == (*shape[:-2], *shape[-1:]):
        return {**{axis: axis for axis in range(last - 1)}, last: last - 1}
    return None


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _moved(cut: Cut, axes: Mapping[int, int]) -> Cut:
    return Cut(cut.tensor, axes[cut.axis], cut.size, cut.kept)


def _kind(value: Any) -> str:
    return f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"(a {type(value).__name__})"
