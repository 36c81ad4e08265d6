"""Whole models in modular form, and back; masks and checkpoints follow by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from typing import TypeVar

from torch import nn

from limbeck.errors import QuantizationError
from limbeck.names import canonical
from limbeck.quantization.convert import MODULAR, from_torch, parameter_names, to_torch

T = TypeVar("T")
Model = TypeVar("Model", bound=nn.Module)

RECURRENT = (nn.RNNBase, nn.RNNCellBase)


def modular(model: Model, inplace: bool = True) -> Model:
    """Replace every recurrent module of a model, at any depth, by one of named parts; the model computes the same.

    The parameters stay the same objects, so that masks, tied weights and an optimizer go on; ``modular_names`` tells what they are called now.
    With ``inplace=False`` a copy of the model is changed, with parameters of its own.

    >>> model = modular(nn.Sequential(nn.Embedding(10, 3), nn.LSTM(3, 4)))
    >>> model.get_submodule("1.cells.0.act_f")
    Sigmoid()

    Raises ``QuantizationError`` as ``from_torch``, with the module's name, and changes nothing then; also for a model that is itself recurrent.
    """
    return _replaced(model, inplace, RECURRENT, from_torch)


def unmodular(model: Model, inplace: bool = True) -> Model:
    """The inverse of ``modular``: ``torch.nn``'s recurrent modules again.

    >>> unmodular(modular(nn.Sequential(nn.LSTM(3, 4))))
    Sequential(
      (0): LSTM(3, 4)
    )

    Raises ``QuantizationError`` as ``to_torch``, with the module's name, and changes nothing then; also for a model that is itself recurrent.
    """
    return _replaced(model, inplace, MODULAR, to_torch)


def modular_names(model: nn.Module) -> dict[str, str]:
    """What each parameter of a model's recurrent modules is called in ``torch.nn``, and what in modular form; the model may be in either.

    >>> modular_names(nn.ModuleDict({"rnn": nn.LSTM(3, 4, bias=False)}))
    {'rnn.weight_ih_l0': 'rnn.cells.0.fc_gate_x.weight', 'rnn.weight_hh_l0': 'rnn.cells.0.fc_gate_h.weight'}
    """
    return {
        canonical(f"{prefix}{theirs}"): canonical(f"{prefix}{ours}")
        for prefix, module in _outermost(model, (*RECURRENT, *MODULAR))
        for theirs, ours in parameter_names(module).items()
    }


def renamed(values: Mapping[str, T], names: Mapping[str, str]) -> dict[str, T]:
    """Masks, a ``state_dict``, or any values by parameter name, under the names that ``names`` gives; others keep theirs.

    >>> names = {"rnn.weight_ih_l0": "rnn.cells.0.fc_gate_x.weight"}
    >>> renamed({"module.rnn.weight_ih_l0": 1, "decoder.weight": 2}, names)
    {'rnn.cells.0.fc_gate_x.weight': 1, 'decoder.weight': 2}
    """
    return {names.get(canonical(name), name): value for name, value in values.items()}


def _replaced(model: Model, inplace: bool, kinds: tuple[type, ...], convert: Callable[[nn.Module], nn.Module]) -> Model:
    """``model`` with each module of these kinds converted; one that stands in several places is converted once."""
    if isinstance(model, kinds):
        raise QuantizationError(f"the model is itself a {type(model).__name__}; {convert.__name__}(model) gives its other form")
    model = model if inplace else deepcopy(model)
    places = list(_outermost(model, kinds))
    converted: dict[int, nn.Module] = {}
    for prefix, module in places:
        try:
            if id(module) not in converted:
                converted[id(module)] = convert(module)
        except QuantizationError as error:
            raise QuantizationError(f"{canonical(prefix[:-1])}: {error}") from error
    for prefix, module in places:
        parent, _, name = prefix[:-1].rpartition(".")
        setattr(model.get_submodule(parent), name, converted[id(module)])
    return model


def _outermost(module: nn.Module, kinds: tuple[type, ...], prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Every place of a module of these kinds, ``name.`` first, and not what is inside of it."""
    if isinstance(module, kinds):
        yield prefix, module
        return
    for name, child in module._modules.items():  # named_children leaves the second name of a module out
        if child is not None:
            yield from _outermost(child, kinds, f"{prefix}{name}.")
