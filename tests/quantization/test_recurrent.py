"""Recurrent modules of named parts: what torch's compute, over everything that they can be made of and be given."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from limbeck.quantization.convert import from_torch, to_torch
from limbeck.quantization.recurrent import Layout, ModularRecurrent

MODES = ("LSTM", "GRU", "RNN_TANH", "RNN_RELU")
SIZE, HIDDEN = 3, 4


def modules(mode: str, **options: Any) -> tuple[Any, Any]:
    """Torch's module in float64, and its modular form, with the same parameters."""
    if mode.startswith("RNN"):
        options["nonlinearity"] = mode.removeprefix("RNN_").lower()
    torch_module = getattr(nn, mode.partition("_")[0])(SIZE, HIDDEN, **options).double()
    return torch_module, from_torch(torch_module)


def data(value: Any) -> Tensor:
    return value.data if isinstance(value, PackedSequence) else value


def assert_same(ours: tuple[Any, Any], theirs: tuple[Any, Any], atol: float = 1e-12) -> None:
    assert type(ours[0]) is type(theirs[0])
    torch.testing.assert_close(data(ours[0]), data(theirs[0]), rtol=0, atol=atol)
    torch.testing.assert_close(ours[1], theirs[1], rtol=0, atol=atol)
    if isinstance(theirs[0], PackedSequence):
        for mine, its in zip(ours[0][1:], theirs[0][1:], strict=True):
            assert (mine is None and its is None) or torch.equal(mine, its)


def first_states(module: Any, batch: int | None) -> Any:
    """Random first states for a batch, or for one sequence without an axis for more."""
    count = module.num_layers * (2 if module.bidirectional else 1)
    middle = () if batch is None else (batch,)
    h = torch.randn(count, *middle, getattr(module, "proj_size", 0) or HIDDEN).double()
    return (h, torch.randn(count, *middle, HIDDEN).double()) if isinstance(module, nn.LSTM) else h


@settings(max_examples=40)
@given(
    mode=st.sampled_from(MODES),
    layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    bias=st.booleans(),
    batch_first=st.booleans(),
    project=st.booleans(),
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    form=st.sampled_from(["padded", "packed", "one"]),
    begin=st.booleans(),
)
def test_outputs_states_and_gradients_are_those_of_torch(
    *,
    mode: str,
    layers: int,
    bidirectional: bool,
    bias: bool,
    batch_first: bool,
    project: bool,
    lengths: list[int],
    form: str,
    begin: bool,
) -> None:
    more = {"proj_size": 2} if project and mode == "LSTM" else {}
    theirs, ours = modules(mode, num_layers=layers, bidirectional=bidirectional, bias=bias, batch_first=batch_first, **more)
    x = torch.randn(max(lengths), len(lengths), SIZE).double().requires_grad_()
    laid: Any = x[:, 0] if form == "one" else x.transpose(0, 1) if batch_first else x
    sequences = pack_padded_sequence(laid, lengths, batch_first, enforce_sorted=False) if form == "packed" else laid
    hx = first_states(theirs, None if form == "one" else len(lengths)) if begin else None
    expected, got = theirs(sequences, hx), ours(sequences, hx)
    assert_same(got, expected)

    parameters = [x, *theirs.parameters()]
    weighed = torch.randn_like(data(expected[0]))
    wanted, found = (torch.autograd.grad((data(result[0]) * weighed).sum(), parameters, retain_graph=True) for result in (expected, got))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)
    assert repr(to_torch(ours)) == repr(theirs)


@pytest.mark.parametrize("mode", MODES)
def test_dropout_between_layers_is_torch_s_to_the_bit(mode: str) -> None:
    """The same random numbers in the same places: a second seed gives other outputs, evaluation none of it."""
    theirs, ours = modules(mode, num_layers=3, dropout=0.4, bidirectional=True)
    x = torch.randn(5, 2, SIZE).double()

    def seeded(module: nn.Module, seed: int) -> Any:
        torch.manual_seed(seed)
        return module(x)

    assert_same(seeded(ours, 1), seeded(theirs, 1))
    assert not torch.allclose(seeded(ours, 2)[0], seeded(theirs, 1)[0])
    assert_same(seeded(ours.eval(), 2), seeded(theirs.eval(), 1))
    assert to_torch(ours).dropout == 0.4


def test_float32_and_bfloat16_stay_what_they_are() -> None:
    lstm = nn.LSTM(SIZE, HIDDEN, 2)
    x = torch.randn(4, 2, SIZE)
    assert_same(from_torch(lstm)(x), lstm(x), atol=1e-6)  # type: ignore[operator]
    output, (h, c) = from_torch(lstm.bfloat16())(x.bfloat16())  # type: ignore[operator]
    assert output.dtype == h.dtype == c.dtype == torch.bfloat16


def test_the_parts_have_the_ancestors_names() -> None:
    """Facts 1.7: ``rnn.cells.0.act_f``, ``cells_reverse`` for the backward direction."""
    _, modular = modules("LSTM", num_layers=2, bidirectional=True)
    names = [name for name, _ in modular.named_modules()]
    assert {"cells.0.act_f", "cells.1.eltwisemult_cell_input", "cells_reverse.1.fc_gate_h", "concat.1", "dropout"} <= set(names)
    _, single = modules("LSTM")
    assert not [name for name, _ in single.named_modules() if name.startswith(("cells_reverse", "concat"))]


def test_each_part_is_run_once_a_step_and_the_input_s_product_once() -> None:
    _, modular = modules("LSTM", num_layers=2)
    calls: dict[str, list[tuple[int, ...]]] = {}
    for name, part in modular.named_modules():
        part.register_forward_hook(lambda _, args, __, name=name: calls.setdefault(name, []).append(tuple(args[0].shape)))
    modular(torch.randn(5, 2, SIZE).double())
    assert calls["cells.0.fc_gate_x"] == [(10, SIZE)]
    assert calls["cells.1.fc_gate_x"] == [(10, HIDDEN)]
    assert calls["cells.1.fc_gate_h"] == [(2, HIDDEN)] * 5
    assert calls["cells.0.act_f"] == calls["cells.0.eltwisemult_hidden"] == [(2, HIDDEN)] * 5


def test_a_part_may_be_replaced() -> None:
    """Without a forget gate, f = 0, the cell holds what came last alone."""
    _, modular = modules("LSTM")
    modular.cells[0].act_f = Zero()
    x = torch.randn(5, 2, SIZE).double()
    output, (_, c) = modular(x)
    assert not torch.allclose(output, to_torch_of(modular)(x)[0])
    h = output[-2]
    i, _, g, _ = (modular.cells[0].fc_gate_x(x[-1]) + modular.cells[0].fc_gate_h(h)).chunk(4, -1)
    torch.testing.assert_close(c[0], i.sigmoid() * g.tanh())


class Zero(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def to_torch_of(modular: ModularRecurrent) -> nn.Module:
    modular.cells[0].act_f, replaced = nn.Sigmoid(), modular.cells[0].act_f
    module = to_torch(modular)
    modular.cells[0].act_f = replaced
    return module


def test_what_models_ask_of_a_recurrent_module_is_there() -> None:
    theirs, ours = modules("LSTM", num_layers=2, bidirectional=True, batch_first=True, proj_size=2)
    for name in ("mode", "input_size", "hidden_size", "num_layers", "bias", "batch_first", "bidirectional", "proj_size"):
        assert getattr(ours, name) == getattr(theirs, name)
    ours.flatten_parameters()
    assert repr(ours).startswith("ModularRecurrent(\n  LSTM, 3, 4, num_layers=2, batch_first=True, bidirectional=True, proj_size=2")


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"mode": "LTSM"}, "no recurrent module has the mode 'LTSM'; did you mean 'LSTM'"),
        ({"num_layers": 0}, "num_layers is 1 or more, not 0"),
        ({"mode": "GRU", "proj_size": 2}, "proj_size is for an LSTM, and below its hidden_size, not 2 for GRU of 4"),
        ({"proj_size": 4}, "not 4 for LSTM of 4"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(layout: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Layout(**{"mode": "LSTM", "input_size": SIZE, "hidden_size": HIDDEN, **layout})


@pytest.mark.parametrize(
    ("x", "hx", "message"),
    [
        (torch.zeros(5, 2, 9), None, r"\[time, batch, features\] .* with 3 features, not of shape \(5, 2, 9\)"),
        (torch.zeros(5), None, r"not of shape \(5,\)"),
        (torch.zeros(0, 2, 3), None, r"no steps: its shape is \(0, 2, 3\)"),
        (torch.zeros(5, 2, 3), (torch.zeros(1, 2, 4),), r"of shape \(1, 2, 4\) and \(1, 2, 4\), not \(1, 2, 4\)"),
        (torch.zeros(5, 2, 3), (torch.zeros(1, 4), torch.zeros(1, 4)), r"not \(1, 4\) and \(1, 4\)"),
        (pack_padded_sequence(torch.zeros(5, 2, 9), [5, 5]), None, r"a packed sequence with 3 features, not of shape \(10, 9\)"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(x: Any, hx: Any, message: str) -> None:
    modular = ModularRecurrent(Layout("LSTM", SIZE, HIDDEN))
    with pytest.raises(ValueError, match=message):
        modular(x, hx)


@pytest.mark.long
@torch.no_grad()
def test_the_largest_of_the_issue_is_within_1e_5() -> None:
    """1500 inputs, 1500 units, 5 layers, both directions, packed and unsorted, in float32."""
    lstm = nn.LSTM(1500, 1500, 5, bidirectional=True).eval()
    sequences = pack_padded_sequence(torch.randn(6, 3, 1500), [4, 6, 2], enforce_sorted=False)
    modular: Any = from_torch(lstm)
    assert_same(modular(sequences), lstm(sequences), atol=1e-5)
