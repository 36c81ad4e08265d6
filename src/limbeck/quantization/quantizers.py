"""The quantizers that a schedule file may name: what they are given there, before there is a model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge, Le
from pydantic import WrapValidator
from torch import nn

from limbeck.errors import QuantizationError
from limbeck.graph import Graph, Inputs
from limbeck.quantization.affine import Mode
from limbeck.quantization.post_train import PostTrainLinearQuantizer
from limbeck.quantization.settings import MOST_SUM_BITS, Bits, ClippingName, Modes, MultiplierBits, Override, Positive, Precision, checked
from limbeck.quantization.stats import Stats


def _override(given: Any, check: Callable[[Any], Any]) -> Any:
    """What one override says, with all that is wrong with it in one message."""
    if not isinstance(given, Mapping):
        return check(given)
    try:
        return checked({"layer": given})["layer"]
    except QuantizationError as error:
        faults = [fault.removeprefix("layer").lstrip(".: ").replace(": Input should", " should") for fault in error.faults]
        raise ValueError("; ".join(faults)) from error


@dataclass(frozen=True)
class PostTraining:
    """A post-training quantizer that a file describes: the arguments of ``PostTrainLinearQuantizer``, but for the model."""

    arguments: Mapping[str, Any] = field(default_factory=dict)

    def check(self, model: nn.Module) -> None:
        """Raise ``QuantizationError`` for what can be told to be wrong before there are statistics, such as patterns that name no layer of a model.

        >>> post_train_linear_quantizer(overrides={"fc": {"bits_weights": 4}}).check(nn.Sequential(nn.Linear(4, 2)))
        Traceback (most recent call last):
        limbeck.errors.QuantizationError: overrides: 1 fault
          no layer is named 'fc'; the layers are '0'
        """
        with warnings.catch_warnings(action="ignore"):  # they come when the model is quantized
            self.quantizer(model)

    def quantizer(self, model: nn.Module) -> PostTrainLinearQuantizer:
        """The quantizer of a model before there are statistics; nothing is prepared. Raises and warns as ``PostTrainLinearQuantizer``."""
        return PostTrainLinearQuantizer(model, **{**self.arguments, "model_activation_stats": None})

    def prepare(
        self, model: nn.Module, example_inputs: Inputs | Graph | None = None, stats: Stats | None = None, **changes: Any
    ) -> PostTrainLinearQuantizer:
        """Quantize a model in place; ``stats`` come before those that the file names, and ``changes`` before any of its arguments.

        >>> model = nn.Sequential(nn.Linear(4, 2)).eval()
        >>> [row.kind for row in post_train_linear_quantizer(fpq_module=16).prepare(model).rows()]
        ['fp16', 'fp16']

        Raises ``QuantizationError`` as ``PostTrainLinearQuantizer``.
        """
        given = {**self.arguments, **({} if stats is None else {"model_activation_stats": stats}), **changes}
        quantizer = PostTrainLinearQuantizer(model, **given)
        quantizer.prepare_model(example_inputs)
        return quantizer


def post_train_linear_quantizer(  # noqa: PLR0913, PLR0917  # the options of the quantizer itself
    bits_activations: Bits | None = 8,
    bits_parameters: Bits | None = 8,
    bits_accum: Annotated[int, Ge(8), Le(MOST_SUM_BITS)] = 32,
    overrides: dict[str, Annotated[Override, WrapValidator(_override)]] | None = None,
    mode: Modes = Mode.SYMMETRIC,
    clip_acts: ClippingName = "none",
    per_channel_wts: bool = False,
    model_activation_stats: str | None = None,
    clip_n_stds: Positive | None = None,
    clip_half_range: bool = False,
    scale_approx_mult_bits: MultiplierBits | None = None,
    inputs_quant_auto_fallback: bool = True,
    fpq_module: Precision | None = None,
    save_fp_weights: bool = False,
    also_clip_weights: bool = False,
) -> PostTraining:
    """Numbers of a trained model become integers of few bits, or short floats; ``limbeck quantize FILE --model RUN`` applies it.

    >>> post_train_linear_quantizer(clip_acts="avg").arguments["clip_acts"]
    'avg'
    """
    return PostTraining(dict(locals()))


QUANTIZERS: Mapping[str, Callable[..., PostTraining]] = {"PostTrainLinearQuantizer": post_train_linear_quantizer}
"""By the names of files."""
