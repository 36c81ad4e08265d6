"""Forward hooks that leave no trace, and who in a model holds what."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

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
