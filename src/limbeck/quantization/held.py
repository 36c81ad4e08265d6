"""A quantized layer with the ranges that it computes by, and what there is to tell of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from limbeck.quantization.affine import QParams, fake_quantize
from limbeck.quantization.build import Quantized, Tensors
from limbeck.quantization.choice import Range
from limbeck.quantization.floats import FakeQuantized, FloatingPoint
from limbeck.quantization.integers import Known, Measured, Numbers
from limbeck.quantization.kinds import Leaf
from limbeck.quantization.plan import Wire
from limbeck.quantization.rows import Row, estimated_snr, exact_snr, zeros
from limbeck.quantization.settings import Setting
from limbeck.quantization.weighted import QuantizedEmbedding, QuantizedWeighted


class Loss(NamedTuple):
    """What quantization did to a weight."""

    values: int
    snr_db: float
    zeros_before: int
    zeros_after: int


@dataclass(eq=False)
class Held:
    """One layer."""

    leaf: Leaf
    setting: Setting
    module: Quantized | FloatingPoint
    tensors: Tensors | None
    """Its floats, until they are let go."""
    inputs: tuple[Wire, ...] = ()
    weight: Wire = None
    output: Wire = None
    carries: bool = False
    """Whether another layer's input is on the range of the output."""
    loss: Loss | None = field(default=None, init=False)

    def wires(self) -> set[str]:
        """The names of all ranges that the layer computes by."""
        return {wire for wire in (*self.inputs, self.weight, self.output) if isinstance(wire, str)}

    def settle(self, params: Mapping[str, QParams]) -> None:
        """Compute by these scales and zero points."""

        def known(wire: Wire) -> Known | None:
            return params[wire] if isinstance(wire, str) else wire

        weight = known(self.weight)
        assert not isinstance(weight, Measured)
        if not isinstance(self.module, FloatingPoint):
            self.module.settle(Numbers(tuple(map(known, self.inputs)), weight, known(self.output), self.carries))

    @property
    def keeps_floats(self) -> bool:
        """Whether the floats of the weight are there still."""
        return self.tensors is not None

    def measured(self, ranges: Mapping[str, Range]) -> Loss | None:
        """What became of the weight, if it has one that is quantized."""
        if self.tensors is None or self.tensors.weight is None:
            return self.loss
        before = self.tensors.weight.detach()
        after: Tensor | None
        if isinstance(self.module, FloatingPoint):
            after = self.module.layer._parameters["weight"]
        else:
            after = fake_quantize(before, ranges[self.weight].params.to(before.device)) if isinstance(self.weight, str) else None
        return None if after is None else Loss(before.numel(), exact_snr(before, after), zeros(before), zeros(after))

    def forget(self, ranges: Mapping[str, Range]) -> None:
        """Let go of the floats, and remember what became of them."""
        self.loss = self.measured(ranges)
        self.tensors = None
        if isinstance(self.module, QuantizedWeighted | QuantizedEmbedding | FakeQuantized):
            self.module.forget()


def rows_of(layers: Mapping[str, Held], ranges: Mapping[str, Range]) -> Iterator[Row]:
    """A row for each tensor of each layer that has numbers of its own."""
    sharing = _sharing(layers)
    for name, held in layers.items():
        if isinstance(held.module, FloatingPoint):
            yield from _floats(name, held)
            continue
        places = [(f"inputs.{place}", wire) for place, wire in enumerate(held.inputs)]
        for tensor, wire in (*places, ("weight", held.weight), ("output", held.output)):
            if isinstance(wire, Measured):
                yield Row(name, tensor, f"int{wire.bits}", wire.bits, wire.mode, clipping=wire.clipping)
            elif wire == f"{name}.{tensor}":
                shared = tuple(other for other in sharing[wire] if other != wire)
                yield _row(name, tensor, ranges[wire], held.measured(ranges) if tensor == "weight" else None, shared)
        if isinstance(held.module, QuantizedWeighted) and held.setting.bits_bias and held.module.float_bias is not None:
            yield _bias(name, held.module, held.setting.bits_bias)


def _sharing(layers: Mapping[str, Held]) -> dict[str, list[str]]:
    """By range, the tensors that are on it."""
    found: dict[str, list[str]] = {}
    for name, held in layers.items():
        places = [(f"inputs.{place}", wire) for place, wire in enumerate(held.inputs)]
        for tensor, wire in (*places, ("weight", held.weight), ("output", held.output)):
            if isinstance(wire, str):
                found.setdefault(wire, []).append(f"{name}.{tensor}")
    return found


def _row(layer: str, tensor: str, found: Range, loss: Loss | None, shared: tuple[str, ...]) -> Row:
    params = found.params
    scales, points = params.scale.reshape(-1), params.zero_point.reshape(-1)
    low, high = params.limits
    estimate = None if found.stats is None else estimated_snr(found.stats, params)
    return Row(
        layer,
        tensor,
        f"int{found.bits}",
        found.bits,
        str(found.mode),
        scale=float(scales.double().log().mean().exp()) if len(scales) > 1 else float(scales),
        zero_point=int(points[0]) if bool((points == points[0]).all()) else None,
        groups=len(scales),
        clipping=found.clipping,
        low=float(low.min()),
        high=float(high.max()),
        snr_db=estimate if loss is None else loss.snr_db,
        snr_of="weights" if loss is not None else "histogram" if estimate is not None else "",
        values=None if loss is None else loss.values,
        zeros_before=None if loss is None else loss.zeros_before,
        zeros_after=None if loss is None else loss.zeros_after,
        shared_by=shared,
    )


def _bias(layer: str, module: QuantizedWeighted, bits: int) -> Row:
    before, after = module.float_bias, module.bias_values()
    assert before is not None
    known = after is not None
    return Row(
        layer,
        "bias",
        f"int{bits}",
        bits,
        "symmetric",
        groups=len(before) if bits > 16 and module.factors is not None else 1,
        snr_db=exact_snr(before, after) if after is not None else None,
        snr_of="weights" if known else "",
        values=before.numel(),
        zeros_before=zeros(before),
        zeros_after=zeros(after) if after is not None else None,
    )


def _floats(layer: str, held: Held) -> Iterator[Row]:
    bits = held.setting.fpq_module or 0
    loss = held.measured({})
    if loss is not None:
        yield Row(
            layer,
            "weight",
            f"fp{bits}",
            bits,
            snr_db=loss.snr_db,
            snr_of="weights",
            values=loss.values,
            zeros_before=loss.zeros_before,
            zeros_after=loss.zeros_after,
        )
    yield Row(layer, "output", f"fp{bits}", bits)


def tree_of(layers: Mapping[str, Held], ranges: Mapping[str, Range]) -> dict[str, Any]:
    """All numbers as plain data: by layer its kind and bits, and by tensor the scale and zero point, or where they are found."""
    tree: dict[str, Any] = {}
    for name, held in layers.items():
        tree[name] = {"module": type(held.leaf.module).__name__, "quantized": type(held.module).__name__}
        if isinstance(held.module, FloatingPoint):
            tree[name]["fpq_module"] = held.setting.fpq_module
            continue
        if held.setting.clip_half_range:
            tree[name]["clip_half_range"] = True
        places = [(f"inputs.{place}", wire) for place, wire in enumerate(held.inputs)]
        for tensor, wire in (*places, ("weight", held.weight), ("output", held.output)):
            if isinstance(wire, str):
                tree[name][tensor] = _numbers(ranges[wire]) if wire == f"{name}.{tensor}" else {"same_as": wire}
            elif wire is not None:
                tree[name][tensor] = {"bits": wire.bits, "mode": str(wire.mode), "clipping": wire.clipping, "dynamic": True}
    return tree


def _numbers(found: Range) -> dict[str, Any]:
    params = found.params
    return {
        "bits": found.bits,
        "mode": str(found.mode),
        "clipping": found.clipping,
        "scale": _plain(params.scale),
        "zero_point": _plain(params.zero_point),
        "low": _plain(found.low),
        "high": _plain(found.high),
    }


def _plain(tensor: Tensor) -> Any:
    return tensor.tolist() if tensor.dtype == torch.int32 else tensor.double().tolist()
