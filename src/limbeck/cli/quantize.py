"""``limbeck quantize``: a trained model, quantized as a schedule file says."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli._options import Json
from limbeck.cli._quantize import Budget, Least, Method, Out, search_options

Choice = typer.Option
EXAMPLE = "Example: limbeck quantize schedules/lm/quantize/int8_asymmetric_channel_avg.yaml --model runs/dense --eval-samples 20000"


class Split(StrEnum):
    """What the model is evaluated on."""

    test = "test"
    valid = "valid"


def quantize(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A schedule file with a quantizer; its pruners are left alone.", show_default=False)
    ],
    model: Annotated[
        Path, Choice("--model", metavar="CHECKPOINT", help="A run folder of lm, images or translate (its best model), or a checkpoint.", show_default=False)
    ],
    data: Annotated[str | None, Choice(help="Data; default: those that the run was trained on.", show_default=False)] = None,
    stats: Annotated[
        Path | None, Choice(help="Statistics of activations that were collected before, YAML or JSON. Default: a calibration.", show_default=False)
    ] = None,
    dynamic: Annotated[bool, Choice("--dynamic", help="No statistics: take ranges of activations of every batch anew.")] = False,
    calibration: Annotated[
        int | None,
        Choice(
            "--calibration-samples", min=0, show_default=False,
            help="Samples that ranges come from, of the validation, without one of the training; 0: all. Default: all words, 1000 images or sentences.",
        ),
    ] = None,
    split: Annotated[Split, Choice(help="What the model is evaluated on.")] = Split.test,
    eval_samples: Annotated[int, Choice("--eval-samples", min=0, help="Evaluate on so many words, images or sentences of it; 0: all.")] = 0,
    cost_samples: Annotated[
        int | None,
        Choice(
            "--cost-samples", min=0, show_default=False,
            help="Samples on which each layer is quantized alone, to see what it costs; 0: none is. Default: 2000 words or images, 200 sentences.",
        ),
    ] = None,
    search: Annotated[
        Method | None,
        Choice(
            "--search", show_default=False,
            help="Search: greedy, the best clipping for each tensor; lapq, the best norm, then Powell's method; both; "
            "bits, 8, 6 or 4 for each layer's weights.",
        ),
    ] = None,
    budget: Budget = None,
    search_samples: Annotated[
        int | None,
        Choice(
            "--search-samples", min=1, show_default=False,
            help="Samples of the calibration's split on which a search evaluates. Default: 5000 words or images, 500 sentences.",
        ),
    ] = None,
    objective: Least = None,
    tolerance: Annotated[
        float | None,
        Choice("--tolerance", min=0, show_default=False, help="By how much of itself the loss may rise in a search for bits. Default: 0.01."),
    ] = None,
    ranges: Annotated[
        Path | None, Choice("--ranges", help="Ranges that an earlier search has found, its ranges.json.", show_default=False)
    ] = None,
    out: Out = Path("quantized"),
    cuda: Annotated[bool, Choice("--cuda", help="Use CUDA.")] = False,
    device: Annotated[str | None, Choice(help="A torch device; overrides --cuda.", show_default=False)] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Quantize a trained model as a schedule FILE says: a report layer by layer, a picture, and what the model is worth before and after.

    Integers are simulated exactly in floats: this tells what a quantized model gives, and is no faster. Recurrent layers are taken into parts first.

    A call that was cut off goes on where it stood when it is given again. The checkpoint is not changed.
    """
    if dynamic and (stats is not None or search is not None):
        raise typer.BadParameter("takes ranges of every batch; there is nothing for --stats and --search to do", param_hint="--dynamic")
    if ranges is not None and search is not None:
        raise typer.BadParameter("is what a search has found; give one of --ranges and --search", param_hint="--ranges")
    from limbeck.apps.quantize import QuantizeOptions, run_quantize

    options = QuantizeOptions(
        file=file, run=model, data=data, stats=stats, dynamic=dynamic, calibration=calibration, split=split.value, samples=eval_samples,
        costs=cost_samples,
        search=search_options(search, budget, ("--search-samples", search_samples), objective, tolerance), ranges=ranges, out=out, cuda=cuda, device=device,
    )  # fmt: skip
    run_quantize(options, as_json)
