"""``limbeck images sensitivity``: how far each parameter can be pruned, and the schedule that follows."""

from __future__ import annotations

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

Choice = typer.Option
EXAMPLE = "Example: limbeck images sensitivity runs/digits --group filter --samples 500 --suggest macs=0.5"


class Group(StrEnum):
    """What is pruned as one."""

    element = "element"
    filter = "filter"
    channel = "channel"


class Split(StrEnum):
    """Which images are looked at."""

    valid = "valid"
    train = "train"
    test = "test"


def sensitivity(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder (its best model) or a checkpoint.")],
    group: Annotated[Group, Choice(help="What is pruned as one.")] = Group.element,
    levels: Annotated[
        str, Choice(metavar="FROM:TO:STEP", help="Levels, both ends included, as fractions; or a list, 0,0.5,0.9.")
    ] = "0:0.95:0.05",
    params: Annotated[
        list[str] | None,
        Choice(
            "--params", metavar="GLOB", help="Which parameters; may be given again. Default: all weights, for structures of convolutions.",
            show_default=False,
        ),
    ] = None,
    samples: Annotated[int, Choice(min=0, help="Images to measure on, spread evenly over the split; 0: all.")] = 0,
    split: Annotated[
        Split | None, Choice(help="Which images. Default: those held out for validation, else those of the training.", show_default=False)
    ] = None,
    data: Annotated[str | None, Choice(help="Images; default: those that the run was trained on.", show_default=False)] = None,
    out: Annotated[
        Path | None, Choice(metavar="DIR", help="Where table, picture and schedules go. Default: sensitivity-GROUP.", show_default=False)
    ] = None,
    suggest: Annotated[
        list[str] | None,
        Choice(
            metavar="KIND=FRACTION", help="Write a schedule that keeps so much of macs or parameters, or reaches a sparsity; may be given again.",
            show_default=False,
        ),
    ] = None,
    epochs: Annotated[int, Choice(min=2, help="Epochs of the fine-tuning for which a schedule is suggested.")] = 8,
    cuda: Annotated[bool, Choice("--cuda", help="Use CUDA.")] = False,
    device: Annotated[str | None, Choice(help="A torch device; overrides --cuda.", show_default=False)] = None,
    as_json: Annotated[bool, Choice("--json", help="Print JSON.")] = False,
) -> None:  # fmt: skip
    """Prune one parameter at a time, to one level after the other, and measure: a table (CSV), a picture, and schedules under a budget.

    A call that was cut off goes on where it stood when it is given again. Nothing is retrained, and the checkpoint is not changed.
    """
    from limbeck.apps.images.sensitivity import SensitivityOptions, run_sensitivity

    options = SensitivityOptions(
        run=run, group=group.value, levels=levels, params=tuple(params or ()), samples=samples, split=None if split is None else split.value,
        data=data, out=out, suggest=tuple(suggest or ()), epochs=epochs, cuda=cuda, device=device,
        command=shlex.join(["limbeck", *sys.argv[1:]]),
    )  # fmt: skip
    run_sensitivity(options, as_json)
