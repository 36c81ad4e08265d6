"""From ``torch.nn``'s recurrent modules to those of named parts, and back: the same parameters under other names."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from limbeck.errors import QuantizationError
from limbeck.quantization.cells import ModularCell, ModularGRUCell, ModularLSTMCell, ModularRNNCell
from limbeck.quantization.recurrent import Layout, ModularRecurrent

PARTS = {
    "weight_ih": "fc_gate_x.weight",
    "weight_hh": "fc_gate_h.weight",
    "bias_ih": "fc_gate_x.bias",
    "bias_hh": "fc_gate_h.bias",
    "weight_hr": "fc_project.weight",
}
"""What a cell's parameter is called in ``torch.nn``, and here. Both hold it in one layout, with the gates in one order."""
LAYERED = (nn.LSTM, nn.GRU, nn.RNN)
SINGLE = (nn.LSTMCell, nn.GRUCell, nn.RNNCell)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
MODULAR = (ModularRecurrent, ModularLSTMCell, ModularGRUCell, ModularRNNCell)


def from_torch(module: nn.Module) -> ModularRecurrent | ModularCell:
    """A recurrent module of ``torch.nn``, or a cell, as one of named parts that holds the very same parameters.

    So masks, optimizers and tied weights go on as they were, and the two compute the same.

    >>> lstm = nn.LSTM(3, 4)
    >>> modular = from_torch(lstm)
    >>> modular.cells[0].fc_gate_x.weight is lstm.weight_ih_l0
    True

    Raises ``QuantizationError`` for another kind of module, for one with a forward pass or hooks of its own, and for one whose weights are computed
    from others, as ``torch.nn.utils.prune`` and parametrizations do.
    """
    _refuse_own(module)
    made: ModularRecurrent | ModularCell
    with torch.device("meta"):  # no memory, and no random numbers, for parameters that are replaced
        made = ModularRecurrent(layout_of(module)) if isinstance(module, nn.RNNBase) else _modular_cell(module)
    _hand_over(module, made, parameter_names(made))
    return made


def to_torch(module: nn.Module) -> nn.Module:
    """The inverse of ``from_torch``: ``torch.nn``'s module with the very same parameters.

    >>> to_torch(from_torch(nn.GRU(3, 4, num_layers=2, bidirectional=True)))
    GRU(3, 4, num_layers=2, bidirectional=True)

    Raises ``QuantizationError`` for another kind of module, and for one whose parts were replaced, as a quantizer does.
    """
    if not isinstance(module, MODULAR):
        raise QuantizationError(f"a {type(module).__name__} is no modular recurrent module; to_torch takes what from_torch gives")
    with torch.device("meta"):
        made: nn.Module = _layered(module.layout) if isinstance(module, ModularRecurrent) else _single(module)
    _refuse_replaced(module, from_torch(made))
    _hand_over(module, made, {ours: theirs for theirs, ours in parameter_names(module).items()})
    if isinstance(made, nn.RNNBase):
        made.flatten_parameters()
    return made


def layout_of(module: nn.RNNBase) -> Layout:
    """What a recurrent module of ``torch.nn`` is made of.

    >>> layout_of(nn.RNN(3, 4, nonlinearity="relu")).mode
    'RNN_RELU'
    """
    return Layout(
        module.mode,
        module.input_size,
        module.hidden_size,
        module.num_layers,
        bool(module.bias),
        module.batch_first,
        float(module.dropout),
        bool(module.bidirectional),
        module.proj_size,
    )


def parameter_names(module: nn.Module) -> dict[str, str]:
    """What each parameter of a recurrent module is called in ``torch.nn``, and what in modular form; the module may be in either.

    >>> parameter_names(nn.GRUCell(3, 4, bias=False))
    {'weight_ih': 'fc_gate_x.weight', 'weight_hh': 'fc_gate_h.weight'}
    """
    layout = layout_of(module) if isinstance(module, nn.RNNBase) else getattr(module, "layout", None)
    biased, projects = (layout.bias, layout.proj_size > 0) if layout else (bool(module.bias), False)
    parts = {theirs: ours for theirs, ours in PARTS.items() if (biased or "bias" not in theirs) and (projects or theirs != "weight_hr")}
    if layout is None:
        return parts
    directions = (("", "cells"), ("_reverse", "cells_reverse"))[: layout.directions]
    return {
        f"{theirs}_l{layer}{suffix}": f"{cells}.{layer}.{ours}"
        for layer in range(layout.num_layers)
        for suffix, cells in directions
        for theirs, ours in parts.items()
    }


def _layered(layout: Layout) -> nn.RNNBase:
    """Torch's own module; it warns of a dropout that one layer has no use for, so that it is set afterwards."""
    sizes = layout.input_size, layout.hidden_size, layout.num_layers, layout.bias, layout.batch_first
    made: nn.RNNBase
    if layout.mode == "LSTM":
        made = nn.LSTM(*sizes, bidirectional=layout.bidirectional, proj_size=layout.proj_size)
    elif layout.mode == "GRU":
        made = nn.GRU(*sizes, bidirectional=layout.bidirectional)
    else:
        size, hidden, layers, bias, batch_first = sizes
        nonlinearity = "relu" if layout.mode == "RNN_RELU" else "tanh"
        made = nn.RNN(size, hidden, layers, nonlinearity, bias, batch_first, bidirectional=layout.bidirectional)
    made.dropout = layout.dropout
    return made


def _single(cell: ModularCell) -> nn.RNNCellBase:
    sizes = cell.input_size, cell.hidden_size, cell.bias
    if isinstance(cell, ModularLSTMCell):
        return nn.LSTMCell(*sizes)
    return nn.GRUCell(*sizes) if isinstance(cell, ModularGRUCell) else nn.RNNCell(*sizes, cell.nonlinearity)


def _modular_cell(cell: nn.Module) -> ModularCell:
    if isinstance(cell, nn.LSTMCell):
        return ModularLSTMCell(cell.input_size, cell.hidden_size, cell.bias)
    if isinstance(cell, nn.GRUCell):
        return ModularGRUCell(cell.input_size, cell.hidden_size, cell.bias)
    assert isinstance(cell, nn.RNNCell)
    return ModularRNNCell(cell.input_size, cell.hidden_size, cell.bias, "relu" if cell.nonlinearity == "relu" else "tanh")


def _refuse_own(module: nn.Module) -> None:
    """Raise ``QuantizationError`` for what a modular form would not do."""
    kind = next((kind for kind in (*LAYERED, *SINGLE) if isinstance(module, kind)), None)
    what = f"a {type(module).__name__}"
    if kind is None:
        raise QuantizationError(
            f"{what} is no recurrent module of torch.nn; those are {', '.join(kind.__name__ for kind in (*LAYERED, *SINGLE))}"
        )
    own = dict(module.named_parameters(remove_duplicate=False))
    if strange := sorted(own.keys() ^ parameter_names(module).keys()):
        remedy = "make them plain first: torch.nn.utils.prune.remove, or parametrize.remove_parametrizations"
        raise QuantizationError(f"{what} whose parameters are not those of torch.nn ({', '.join(strange)}) cannot be taken apart; {remedy}")
    if type(module).forward is not kind.forward or "forward" in vars(module):
        raise QuantizationError(
            f"{what} has a forward pass of its own, which the modular form would not have; use torch.nn.{kind.__name__} itself"
        )
    if any(vars(module)[hooks] for hooks in HOOKS):
        raise QuantizationError(f"{what} with hooks would lose them; take the hooks off, and put them on the modular form")


def _refuse_replaced(module: nn.Module, like: nn.Module) -> None:
    """Raise ``QuantizationError`` where the parts of a modular module are not those that it was made with."""
    parts, wanted = dict(module.named_modules()), dict(like.named_modules())
    for name in (*parts, *wanted):
        found, due = (type(of.get(name, None)).__name__ for of in (parts, wanted))
        if found != due:
            raise QuantizationError(f"its part '{name}' is a {found}, where the modular form has a {due}; torch.nn has no place for it")


def _hand_over(module: nn.Module, made: nn.Module, names: Mapping[str, str]) -> None:
    """Let ``made`` hold the parameters of ``module``, under the names that ``names`` gives, and be in its mode.

    Raises ``QuantizationError`` for a parameter that is missing, or of another shape than the module's own sizes say.
    """
    held = dict(module.named_parameters(remove_duplicate=False))
    for name, other in names.items():
        owner, _, leaf = other.rpartition(".")
        parameter, place = held.get(name), made.get_parameter(other)
        if parameter is None:
            raise QuantizationError(f"its {name} is missing")
        if parameter.shape != place.shape:
            raise QuantizationError(
                f"its {name} is of shape {tuple(parameter.shape)}, not {tuple(place.shape)} as the sizes of the module say"
            )
        setattr(made.get_submodule(owner), leaf, parameter)
    made.train(module.training)
