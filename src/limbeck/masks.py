"""The masks of a model: one bool tensor a pruned parameter, applied in place; True = kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from limbeck._inplace import Application, apply_mask_
from limbeck.errors import CheckpointError, MaskError
from limbeck.names import Named

Life = Literal["hard", "soft", "forward"]
"""What becomes of the values that a mask drops.

``hard``: they are gone. ``soft``: a dense copy is kept aside, goes back into the parameter for ``optimizer.step()`` alone, and is what the step
changes. ``forward``: what the step made of the masked parameter is kept aside, for the next ranking only. In each of them the parameter holds
masked values at all times but within the step: no evaluation and no checkpoint sees others.
"""


@dataclass
class Aside:
    """The dense values of a parameter whose mask is not hard; stale while ``opened``: then the parameter holds them itself."""

    life: Life
    values: Tensor
    scale: float = 1.0
    """What the kept values are multiplied by in the parameter."""
    opened: bool = True


class Masks:
    """Masks by canonical parameter name; nothing is wrapped, parametrized or registered on the model.

    >>> from torch import nn
    >>> from limbeck.names import named_parameters
    >>> layer = nn.Linear(2, 1, bias=False)
    >>> masks = Masks(named_parameters(layer))
    >>> masks.put("weight", torch.tensor([[True, False]]))
    >>> masks.apply()
    >>> layer.weight[0, 1].item()
    0.0
    """

    def __init__(self, parameters: Mapping[str, Named]) -> None:
        self._parameters = parameters
        self._masks: dict[str, Tensor] = {}
        self._aside: dict[str, Aside] = {}
        self._ids: frozenset[int] | None = None  # until a mask changes
        self._application: Application | None = None  # of all masks, until one changes

    def __getitem__(self, name: str) -> Tensor:
        """The mask of a parameter; raises ``KeyError`` when it has none."""
        return self._masks[name]

    def __contains__(self, name: object) -> bool:
        """Whether the parameter has a mask."""
        return name in self._masks

    def __iter__(self) -> Iterator[str]:
        """The names of the parameters that have a mask."""
        return iter(self._masks)

    def __len__(self) -> int:
        """How many parameters have a mask."""
        return len(self._masks)

    @property
    def ids(self) -> frozenset[int]:
        """The ``id`` of every parameter that has a mask."""
        if self._ids is None:
            self._ids = frozenset(id(self._parameters[name].parameter) for name in self._masks)
        return self._ids

    def get(self, name: str) -> Tensor | None:
        """The mask of a parameter, or None."""
        return self._masks.get(name)

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """Names and masks."""
        return iter(self._masks.items())

    def life(self, name: str) -> Life:
        """What becomes of the values that a parameter's mask drops."""
        aside = self._aside.get(name)
        return "hard" if aside is None else aside.life

    def put(self, name: str, keep: Tensor, life: Life = "hard", scale: float = 1.0) -> None:
        """Set a parameter's mask, which ``apply`` then applies to its dense values where these have been kept.

        A soft mask multiplies what is kept by ``scale``. Raises ``MaskError`` for another dtype or shape than bool and the parameter's own.
        """
        parameter = self._parameters[name].parameter
        if keep.dtype != torch.bool or keep.shape != parameter.shape:
            raise MaskError(f"the mask of '{name}' must be bool of shape {tuple(parameter.shape)}, not {keep.dtype} of {tuple(keep.shape)}")
        aside = self._aside.pop(name, None)
        if aside is not None:
            self._restore(name, aside)
        if life != "hard":
            values = parameter.detach().clone() if aside is None else aside.values
            self._aside[name] = Aside(life, values, scale if life == "soft" else 1.0)
        self._masks[name] = keep.to(parameter.device)
        self._changed()

    def dense(self, name: str) -> Tensor:
        """What a ranking looks at: the values kept aside where a mask is not hard, else the parameter's own; not to be changed."""
        weight, aside = self._parameters[name].parameter.detach(), self._aside.get(name)
        if aside is None or aside.opened:
            return weight
        return aside.values if aside.scale != 1 else torch.where(self._masks[name], weight, aside.values)

    def apply(self, names: Iterable[str] | None = None) -> None:
        """Zero what is not kept, in place: of the named parameters, or of all that have a mask. Dense values are put aside before."""
        opened = [name for name, aside in self._aside.items() if aside.opened] if self._aside else []
        if names is not None:
            names = dict.fromkeys(names)
            opened = [name for name in opened if name in names]
        for name in opened:
            self._aside[name].values.copy_(self._parameters[name].parameter.detach())
        if names is None:
            self._apply_all()
        else:
            for name in names:
                apply_mask_(self._parameters[name].parameter, self._masks[name])
        for name in opened:
            self._aside[name].opened = False
            if self._aside[name].scale != 1:
                self._parameters[name].parameter.detach().mul_(self._aside[name].scale)

    def open(self) -> None:
        """Before ``optimizer.step()``: the dense copies of soft masks go back into the parameters, until ``apply`` or ``close``."""
        for name, aside in self._aside.items():
            if aside.life == "soft":
                self._restore(name, aside)
            aside.opened = True

    def close(self) -> None:
        """Apply the masks that were opened and not applied since."""
        if opened := [name for name, aside in self._aside.items() if aside.opened]:
            self.apply(opened)

    def follow(self) -> None:
        """Move what is kept to where the parameters are now: ``model.to(...)`` knows nothing of it."""
        for name, keep in self._masks.items():
            device = self._parameters[name].parameter.device
            if keep.device != device:
                self._masks[name] = keep.to(device)
                self._application = None
                if aside := self._aside.get(name):
                    aside.values = aside.values.to(device)

    def zero_gradients(self, names: Iterable[str]) -> None:
        """Zero the gradients of what these parameters' masks drop."""
        for name in names:
            parameter, keep = self._parameters[name].parameter, self._masks[name]
            grad = parameter.grad
            if grad is None:
                continue
            if grad.is_sparse:
                grad = parameter.grad = grad.coalesce()
                apply_mask_(grad.values(), keep[tuple(grad.indices())])
            else:
                apply_mask_(grad, keep)

    @property
    def unopened(self) -> str | None:
        """The name of a parameter whose mask is not hard and was not opened, if there is one."""
        return next((name for name, aside in self._aside.items() if not aside.opened), None)

    def harden(self, names: Iterable[str]) -> None:
        """Let the dense values of these parameters go; what is masked stays so."""
        for name in names:
            self._aside.pop(name, None)

    def drop(self, names: Iterable[str]) -> None:
        """Forget the masks of these parameters; values that were kept aside come back."""
        for name in names:
            aside = self._aside.pop(name, None)
            if aside is not None:
                self._restore(name, aside)
            self._masks.pop(name, None)
        self._changed()

    def state_dict(self) -> dict[str, Tensor]:
        """The masks, by name."""
        return dict(self._masks)

    def aside_state_dict(self) -> dict[str, dict[str, Any]]:
        """By name what is kept aside of parameters whose masks are not hard."""
        return {name: {"life": aside.life, "scale": aside.scale, "values": self.dense(name)} for name, aside in self._aside.items()}

    def load_state_dict(self, state: Mapping[str, Tensor], aside: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """Replace all masks, and all that is kept ``aside``.

        Raises ``CheckpointError``, and replaces none, for a name or a shape that the model lacks.
        """
        kept = aside or {}
        strangers = [name for name in (*state, *kept) if name not in self._parameters or name not in state]
        if strangers:
            raise CheckpointError(f"the checkpoint has masks for {strangers}, which the model lacks; build the model that was saved")
        before = self._masks, self._aside
        self._masks, self._aside = {}, {}
        try:
            for name, keep in state.items():
                self.put(name, keep)
            self._aside = {name: self._loaded(name, saved) for name, saved in kept.items()}
        except MaskError as error:
            self._masks, self._aside = before
            raise CheckpointError(f"{error}; build the model that was saved") from error
        finally:
            self._changed()

    def _loaded(self, name: str, saved: Mapping[str, Any]) -> Aside:
        parameter, values = self._parameters[name].parameter, saved["values"]
        if values.shape != parameter.shape or saved["life"] not in get_args(Life):
            raise MaskError(f"the dense copy of '{name}' must be of shape {tuple(parameter.shape)}, not {tuple(values.shape)}")
        return Aside(saved["life"], values.to(parameter.device, parameter.dtype, copy=True), float(saved["scale"]), opened=False)

    def _restore(self, name: str, aside: Aside) -> None:
        """Dense values into the parameter. Where nothing was scaled the kept ones are in it, and may have been changed since."""
        if aside.opened:
            return
        weight = self._parameters[name].parameter.detach()
        if aside.scale != 1:
            weight.copy_(aside.values)
        else:
            torch.where(self._masks[name], weight, aside.values, out=weight)

    def _apply_all(self) -> None:
        if self._application is None or not self._application.stands():
            self.follow()
            self._application = Application((self._parameters[name].parameter, keep) for name, keep in self._masks.items())
        self._application()

    def _changed(self) -> None:
        self._application = self._ids = None
