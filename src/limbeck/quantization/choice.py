"""The range of each tensor, from its statistics or from itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from limbeck.errors import QuantizationError
from limbeck.quantization.affine import Mode, QParams, integers, qparams
from limbeck.quantization.clipping import Grid, OfTensor, named_clipping
from limbeck.quantization.fuse import Bounds
from limbeck.quantization.integers import Measured
from limbeck.quantization.settings import InputOverride, Setting
from limbeck.quantization.stats import TensorStats
from limbeck.tile import TENSOR, Tile

FINE = 20
"""Bits of the bias of a channel without weights: float32 holds its sums still."""


@dataclass(frozen=True)
class Range:
    """Between which numbers the integers of a tensor are spread, and which they are."""

    name: str
    """``decoder.weight``, ``decoder.output``, ``decoder.inputs.0``."""
    low: Tensor
    high: Tensor
    """One for each group of ``tile``."""
    bits: int
    mode: Mode
    clipping: str = "none"
    tile: Tile = TENSOR
    stats: TensorStats | None = None
    """What the range was taken from, where that was statistics."""

    @property
    def params(self) -> QParams:
        """The scales and zero points."""
        return qparams(self.low, self.high, self.bits, self.mode, self.tile)

    def moved(self, low: Tensor | float, high: Tensor | float, clipping: str = "set") -> Range:
        """Another range for the same tensor; one number serves all groups. ``clipping`` says where it comes from.

        Raises ``QuantizationError`` for bounds that are crossed or not finite, or of another number than there are groups.
        """
        with named(self.name):
            bounds = [_like(bound, self.low) for bound in (low, high)]
            found = replace(self, low=bounds[0], high=bounds[1], clipping=clipping)
            qparams(found.low, found.high, self.bits, self.mode, self.tile)
        return found


def _like(bound: Tensor | float, groups: Tensor) -> Tensor:
    given = bound.detach().to("cpu", groups.dtype) if isinstance(bound, Tensor) else groups.new_tensor(bound)
    if given.numel() not in (1, groups.numel()):
        raise ValueError(f"{given.numel()} bounds for {groups.numel()} groups; give one number, or one for each")
    return given.reshape(groups.shape if given.numel() == groups.numel() else ()).expand(groups.shape).clone()


@contextmanager
def named(name: str) -> Iterator[None]:
    """Errors begin with the tensor's name."""
    try:
        yield
    except ValueError as error:
        raise QuantizationError(f"'{name}': {error}") from error


def weight_range(layer: str, weight: Tensor, tile: Tile, setting: Setting) -> Range:
    """Of a weight, from itself. Raises ``QuantizationError``, with its name, for NaN and for clippings that its bits or options do not allow."""
    assert setting.bits_weights is not None
    name, grid = f"{layer}.weight", Grid(setting.bits_weights, setting.mode_weights, n_stds=setting.clip_n_stds)
    with named(name):
        low, high = named_clipping(setting.clip_weights)(OfTensor(weight, tile), grid)
        if tile == TENSOR:
            low, high = low.reshape(()), high.reshape(())
        qparams(low, high, grid.bits, grid.mode, tile)
    return Range(name, low.cpu(), high.cpu(), grid.bits, grid.mode, setting.clip_weights, tile)


def with_room(found: Range, bias: Tensor | None, source: QParams, bits_accum: int) -> Range:
    """The range of a weight, widened where the bias would else be cut: it is held in steps of ``scale * source.scale``, in ``bits_accum`` bits.

    That is where a channel hardly has weights, as one that batch norm has shut. One that has none at all gets steps that its bias is a fine multiple of.
    """
    if bias is None:
        return found
    biases = bias.detach().double().cpu().abs()
    biases = biases.amax() if found.tile == TENSOR else biases
    scale, least = found.params.scale.double(), biases / (source.scale.double().cpu() * 2.0 ** (bits_accum - 2))
    shut = (found.low == 0) & (found.high == 0)
    needs = (biases > 0) & ((least >= 2 * scale) | shut)
    if not bool(needs.any()):
        return found
    first, last = integers(found.bits, found.mode)
    factor = least / scale
    width = least * 2.0 ** max(0, bits_accum - 2 - FINE) * ((last - first) / (2 if found.mode.is_symmetric else 1))
    shut |= factor > 2.0 ** (found.bits + 1)  # the channel's weights all become 0, and may be too small to be multiplied
    low, high = (torch.where(shut, whole, bound * factor) for whole, bound in ((torch.zeros_like(width), found.low), (width, found.high)))
    dtype = found.high.dtype
    return replace(found, low=torch.where(needs, low.to(dtype), found.low), high=torch.where(needs, high.to(dtype), found.high))


def output_range(name: str, stats: TensorStats, setting: Setting, bounds: Bounds | None = None) -> Range:
    """Of an output, or of an input with ``setting`` as for an output, from statistics, within what is known to matter.

    Raises ``QuantizationError``, with the tensor's name, where the statistics lack what the clipping needs.
    """
    assert setting.bits_activations is not None
    grid = Grid(setting.bits_activations, setting.mode_activations, setting.clip_half_range, setting.clip_n_stds)
    with named(name):
        low, high = named_clipping(setting.clip_acts)(stats.observed(f"'{name}'"), grid)
        if bounds is not None:
            low, high = low.clamp(bounds[0], bounds[1]), high.clamp(bounds[0], bounds[1])
        qparams(low, high, grid.bits, grid.mode)
    return Range(name, low, high, grid.bits, grid.mode, setting.clip_acts, stats=stats)


def clipped(found: Range, clipping: str, setting: Setting, weight: Tensor | None, bounds: Bounds | None) -> Range:
    """What another clipping would make of a range: of the floats of a weight, or of the statistics that the range came from.

    Raises ``QuantizationError``, with the tensor's name, where the clipping does not go with it.
    """
    if weight is not None:
        given = replace(setting, clip_acts=clipping, also_clip_weights=True)
        return weight_range(found.name.removesuffix(".weight"), weight, found.tile, given)
    if found.stats is None:
        raise QuantizationError(f"'{found.name}' has no statistics to clip by; give the quantizer model_activation_stats")
    given = replace(setting, bits_activations=found.bits, mode_activations=found.mode, clip_acts=clipping)
    return output_range(found.name, found.stats, given, bounds)


def of_input(setting: Setting, override: InputOverride | None) -> Setting:
    """The setting by which a layer's input is quantized, as if it were an output: not rectified, unless an override says so."""
    given = override or {}
    return replace(
        setting,
        bits_activations=given.get("bits_activations", setting.bits_activations),
        mode_activations=given.get("mode", setting.mode_activations),
        clip_acts=given.get("clip_acts", setting.clip_acts),
        clip_n_stds=given.get("clip_n_stds", setting.clip_n_stds),
        clip_half_range=given.get("clip_half_range", False),
    )


def measured(setting: Setting) -> Measured:
    """The range that is taken of each tensor as it comes."""
    assert setting.bits_activations is not None
    return Measured(setting.bits_activations, setting.mode_activations, setting.clip_acts, setting.clip_n_stds, setting.clip_half_range)
