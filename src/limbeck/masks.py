"""The masks of a model: one bool tensor a pruned parameter, applied in place; True = kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from limbeck._inplace import apply_mask_
from limbeck.errors import CheckpointError, MaskError
from limbeck.names import Named


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

    def get(self, name: str) -> Tensor | None:
        """The mask of a parameter, or None."""
        return self._masks.get(name)

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """Names and masks."""
        return iter(self._masks.items())

    def put(self, name: str, keep: Tensor) -> None:
        """Set a parameter's mask; raises ``MaskError`` for another dtype or shape than bool and the parameter's own."""
        parameter = self._parameters[name].parameter
        if keep.dtype != torch.bool or keep.shape != parameter.shape:
            raise MaskError(f"the mask of '{name}' must be bool of shape {tuple(parameter.shape)}, not {keep.dtype} of {tuple(keep.shape)}")
        self._masks[name] = keep.to(parameter.device)

    @torch.no_grad()
    def apply(self, names: Iterable[str] | None = None) -> None:
        """Zero what is not kept, in place: of the named parameters, or of all that have a mask."""
        for name in self._masks if names is None else names:
            apply_mask_(self._parameters[name].parameter, self._masks[name])

    def state_dict(self) -> dict[str, Tensor]:
        """The masks, by name."""
        return dict(self._masks)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Replace all masks; raises ``CheckpointError``, and replaces none, for a name or a shape that the model lacks."""
        strangers = [name for name in state if name not in self._parameters]
        if strangers:
            raise CheckpointError(f"the checkpoint has masks for {strangers}, which the model lacks; build the model that was saved")
        before, self._masks = self._masks, {}
        try:
            for name, keep in state.items():
                self.put(name, keep)
        except MaskError as error:
            self._masks = before
            raise CheckpointError(f"{error}; build the model that was saved") from error
