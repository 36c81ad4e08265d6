"""``limbeck images quantize``: a classifier with 8, 6 and 4 bits, and every clipping."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli._quantize import Out

Choice = typer.Option
EXAMPLE = "Example: limbeck images quantize runs/digits --bits 8,4 --clip none,avg,mse"


class Split(StrEnum):
    """Which images are evaluated."""

    test = "test"
    valid = "valid"
    train = "train"


class Mode(StrEnum):
    """How integers lie around zero."""

    symmetric = "symmetric"
    symmetric_restricted = "symmetric_restricted"
    asymmetric_signed = "asymmetric_signed"
    asymmetric_unsigned = "asymmetric_unsigned"


def quantize(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder (its best model) or a checkpoint.", show_default=False)],
    bits: Annotated[str, Choice(metavar="N,N...", help="Bits of weights and activations, a column each.")] = "8,6,4",
    clip: Annotated[
        str, Choice(metavar="NAME,NAME...", help="Clippings of activations, a line each: none, avg, n_std, gauss, laplace, kl, mse (l2), l1, l3; all.")
    ] = "all",
    mode: Annotated[Mode, Choice(help="How integers lie around zero.")] = Mode.asymmetric_unsigned,
    per_channel: Annotated[bool, Choice("--per-channel/--per-tensor", help="What shares a scale in weights.")] = True,
    clip_weights: Annotated[bool, Choice("--clip-weights", help="Clip weights too.")] = False,
    data: Annotated[str | None, Choice(help="Images; default: those that the run was trained on.", show_default=False)] = None,
    split: Annotated[Split, Choice(help="Which images are evaluated.")] = Split.test,
    eval_images: Annotated[int, Choice("--eval-images", "--eval-samples", min=0, help="Evaluate on so many of them, spread evenly; 0: all.")] = 0,
    calibration_images: Annotated[
        int, Choice(
            "--calibration-images", "--calibration-samples", min=0,
            help="Images that ranges come from: of the validation, else of the training; 0: all.",
        ),
    ] = 1000,
    out: Out = Path("quantized"),
    cuda: Annotated[bool, Choice("--cuda", help="Use CUDA.")] = False,
    device: Annotated[str | None, Choice(help="A torch device; overrides --cuda.", show_default=False)] = None,
    as_json: Annotated[bool, Choice("--json", help="Print JSON.")] = False,
) -> None:  # fmt: skip
    """Quantize a trained classifier with several numbers of bits and clippings: one table of top-1, and a picture.

    `limbeck quantize FILE --model RUN` quantizes it in one way, and reports layer by layer.

    A call that was cut off goes on where it stood when it is given again. The checkpoint is not changed.
    """
    from limbeck.apps.images.quantize import QuantizeOptions, parse_bits, parse_clippings, run_quantize

    options = QuantizeOptions(
        run=run, bits=parse_bits(bits), clippings=parse_clippings(clip), mode=mode.value, per_channel=per_channel, clip_weights=clip_weights,
        data=data, split=split.value, samples=eval_images, calibration=calibration_images, out=out, cuda=cuda, device=device,
    )  # fmt: skip
    run_quantize(options, as_json)
