"""Masks as the ancestor's policies see them: ``zeros_mask_dict[name].mask``, a view of Limbeck's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from limbeck.errors import did_you_mean
from limbeck.events import State
from limbeck.masks import Masks
from limbeck.names import Named, canonical, named_parameters


class ParameterMasker:
    """The mask of one parameter, to be read and set; ``None`` where it has none.

    A mask that is read is bool, True = kept. One that is set may be of any dtype, what is not zero is kept, and is applied at once.
    """

    def __init__(self, masks: Masks, param_name: str) -> None:
        self._masks = masks
        self.param_name = param_name

    @property
    def mask(self) -> Tensor | None:
        """The mask, or None."""
        return self._masks.get(self.param_name)

    @mask.setter
    def mask(self, keep: Tensor | None) -> None:
        if keep is not None:
            self._masks.put(self.param_name, keep.bool())
            self._masks.apply([self.param_name])
        else:
            self._masks.drop([self.param_name])

    @torch.no_grad()
    def apply_mask(self, tensor: Tensor) -> Tensor:
        """Zero in place what is not kept of ``tensor``, which has the parameter's shape; gives it back."""
        return tensor if self.mask is None else tensor.masked_fill_(~self.mask, 0.0)


class MaskDict(Mapping[str, ParameterMasker]):
    """``{parameter name: ParameterMasker}`` for every parameter of a model; a name may carry ``module.``, or be that of a tied parameter.

    >>> maskers = create_model_masks_dict(nn.Linear(2, 1))
    >>> maskers["module.weight"].mask is None
    True
    >>> maskers["weight"].mask = torch.tensor([[1.0, 0.0]])
    >>> maskers["module.weight"].mask
    tensor([[ True, False]])
    """

    def __init__(self, masks: Masks, parameters: Mapping[str, Named], state: State | None = None) -> None:
        self._masks = masks
        self._parameters = parameters
        self.state = state
        self._owners = {name: named.name for named in parameters.values() for name in (*named.aliases, named.name)}

    @property
    def masks(self) -> Masks:
        """The masks themselves."""
        return self._masks

    def __getitem__(self, name: str) -> ParameterMasker:
        """The masker of a parameter; raises ``KeyError``, naming the closest names, when the model has none of that name."""
        owner = self._owners.get(canonical(name))
        if owner is None:
            raise KeyError(f"no parameter is named '{name}'{did_you_mean(canonical(name), self._owners)}")
        return ParameterMasker(self._masks, owner)

    def __iter__(self) -> Iterator[str]:
        """The canonical names of the parameters."""
        return iter(self._parameters)

    def __len__(self) -> int:
        """How many parameters there are."""
        return len(self._parameters)


def create_model_masks_dict(model: nn.Module) -> MaskDict:
    """Maskers for a model that no scheduler looks after."""
    parameters = named_parameters(model)
    return MaskDict(Masks(parameters), parameters)
