"""A quantized LSTM cell against whole numbers, over shapes, modes and bits that hypothesis draws: every part exactly, and every part fed by the right ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from limbeck.quantization.cells import ModularLSTMCell
from limbeck.quantization.observe import collect_stats
from limbeck.quantization.post_train import PostTrainLinearQuantizer
from quantization.reference import MODES, Counts, Scale, assert_counts, requantized

bits = st.sampled_from((2, 3, 4, 6, 8))
modes = st.sampled_from(MODES)

WIRES: dict[str, tuple[str, ...]] = {
    "fc_gate_x": ("x",),
    "fc_gate_h": ("h",),
    "eltwiseadd_gate": ("fc_gate_x", "fc_gate_h"),
    "act_i": ("i",),
    "act_f": ("f",),
    "act_g": ("g",),
    "act_o": ("o",),
    "eltwisemult_cell_forget": ("act_f", "c"),
    "eltwisemult_cell_input": ("act_i", "act_g"),
    "eltwiseadd_cell": ("eltwisemult_cell_forget", "eltwisemult_cell_input"),
    "act_h": ("eltwiseadd_cell",),
    "eltwisemult_hidden": ("act_o", "act_h"),
    "fc_project": ("eltwisemult_hidden",),
}
"""What each part reads: i, f, g and o are the quarters of ``eltwiseadd_gate``, in torch's order."""

FUNCTIONS = {"act_i": torch.sigmoid, "act_f": torch.sigmoid, "act_o": torch.sigmoid, "act_g": torch.tanh, "act_h": torch.tanh}


class Cell(nn.Module):
    def __init__(self, inputs: int, units: int, bias: bool, projected: int) -> None:
        super().__init__()
        self.cell = ModularLSTMCell(inputs, units, bias, projected)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = self.cell(x, (h, c))
        return found


def seen_of(cell: nn.Module, run: Callable[[], Any]) -> dict[str, tuple[list[Tensor], Tensor]]:
    """Copies of what each part was given, and gave."""
    seen = {}

    def hook(name: str, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen[name] = ([each.clone() for each in inputs], output.clone())

    hooks = [part.register_forward_hook(partial(hook, name)) for name, part in cell.named_children()]
    run()
    for each in hooks:
        each.remove()
    return seen


def part_in_integers(name: str, inputs: list[Counts], scales: list[Scale], out: Scale, weight: Any) -> NDArray[np.float64]:
    """The counts of the output, exact, of those of the inputs."""
    if weight is not None:
        by, floats, bias = weight
        step = scales[0].step.astype(np.float64) * by.step.astype(np.float64)
        sums = inputs[0] @ by.counts(floats).T
        return requantized(sums if bias is None else sums + np.rint(bias.astype(np.float64) / step).astype(np.int64), step, out)
    if "mult" in name:
        return requantized(np.multiply.reduce(inputs), np.prod([scale.step.astype(np.float64) for scale in scales]), out)
    moved = [np.rint(n * (scale.step.astype(np.float64) / out.step.astype(np.float64))) for n, scale in zip(inputs, scales, strict=True)]
    return np.clip(sum(moved), out.below, out.above)


def is_near_a_tie(inputs: list[Counts], scales: list[Scale], out: Scale) -> bool:
    """Whether float32 may round a term of a sum either way."""
    moved = [n * (scale.step.astype(np.float64) / out.step.astype(np.float64)) for n, scale in zip(inputs, scales, strict=True)]
    return min(float(np.abs(np.abs(each - np.trunc(each)) - 0.5).min()) for each in moved) < 1e-5


def scale_of(ranges: Mapping[str, tuple[Tensor, Tensor]], name: str, bits: int, mode: str) -> Scale:
    low, high = (bound.squeeze().numpy() for bound in ranges[name])
    return Scale.of(low, high, bits, mode)


OPTIONS = st.fixed_dictionaries({
    "bits_activations": bits, "bits_parameters": bits, "mode": st.fixed_dictionaries({"activations": modes, "weights": modes}),
    "per_channel_wts": st.booleans(),
})  # fmt: skip


@settings(max_examples=25)
@given(
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(2, 7)),
    options=OPTIONS,
    bias=st.booleans(),
    projected=st.booleans(),
    wired=st.sampled_from((False, False, False, True)),
    seed=st.integers(0, 2**16),
)
@torch.no_grad()
def test_a_quantized_lstm_cell(
    sizes: tuple[int, int, int], options: dict[str, Any], bias: bool, projected: bool, wired: bool, seed: int
) -> None:
    """Two steps, the second from the first one's state; with the graph, a part that reads another's output has no range of its own."""
    torch.manual_seed(seed)
    batch, inputs, units = sizes
    outputs = units - 1 if projected else units
    model = Cell(inputs, units, bias, units - 1 if projected else 0).eval()
    x, h, c = 2 * torch.randn(batch, inputs), torch.randn(batch, outputs).tanh(), torch.randn(batch, units)
    floats = {name: value.detach().clone().numpy() for name, value in model.cell.named_parameters()}
    with collect_stats(model) as collected:
        model(0.9 * x, h, c)  # so that something is cut
    quantizer = PostTrainLinearQuantizer(model, model_activation_stats=collected.stats, **options)
    quantizer.prepare_model((x, h, c) if wired else None)
    act, mode = options["bits_activations"], options["mode"]["activations"]
    ranges = {name.removeprefix("cell."): bounds for name, bounds in quantizer.ranges.items()}
    for _ in range(2):
        found: list[Tensor] = []
        seen = seen_of(model.cell, lambda h=h, c=c, found=found: found.extend(model(x, h, c)))
        values = {"x": x, "h": h, "c": c} | {name: output for name, (_, output) in seen.items()}
        values |= dict(zip("ifgo", values["eltwiseadd_gate"].chunk(4, -1), strict=True))
        assert sorted(seen) == sorted(name for name in WIRES if projected or name != "fc_project")
        for name, (given_to, output) in seen.items():
            for read, one in zip(WIRES[name], given_to, strict=True):
                assert torch.equal(values[read], one), (name, read)
            out = scale_of(ranges, f"{name}.output", act, mode)
            if name in FUNCTIONS:
                by_hand = FUNCTIONS[name](given_to[0]).double().numpy() / out.step.astype(np.float64)
                assert_counts(output, np.clip(by_hand, out.below, out.above), out)
                continue
            sources = [f"{name}.inputs.{place}" for place in range(len(given_to))]
            known = [where if where in ranges else f"{read}.output" for where, read in zip(sources, WIRES[name], strict=True)]
            scales = [scale_of(ranges, where, act, mode) for where in known]
            counts = [scale.counts(one) for scale, one in zip(scales, given_to, strict=True)]
            if "add" in name and is_near_a_tie(counts, scales, out):
                continue
            weight = None
            if name.startswith("fc"):
                weight = (
                    scale_of(ranges, f"{name}.weight", options["bits_parameters"], options["mode"]["weights"]),
                    floats[f"{name}.weight"],
                    floats.get(f"{name}.bias"),
                )
            assert_counts(output, part_in_integers(name, counts, scales, out, weight), out)
        assert torch.equal(found[0], values["fc_project" if projected else "eltwisemult_hidden"])
        assert torch.equal(found[1], values["eltwiseadd_cell"])
        h, c = found
