"""Options that every application's training and evaluation has."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from limbeck.errors import did_you_mean

Choice = typer.Option


def one_of(choices: Iterable[str], kind: str, name: str) -> str:
    """The name, if it is one of the choices; else wrong usage, status 2."""
    if name not in choices:
        raise typer.BadParameter(f"no {kind} named '{name}'{did_you_mean(name, choices)}; choose one of {', '.join(choices)}")
    return name


def summary_name(name: str | None) -> str | None:
    """The name of a summary, if it is one."""
    from limbeck.summaries import NAMES

    return name if name is None else one_of(NAMES, "summary", name)


SUMMARIES = "sparsity|model|modules|percentile|compute|png|png_w_params"
Amp = Annotated[bool, Choice("--amp", help="bfloat16 autocast.")]
Compress = Annotated[Path | None, Choice(help="Schedule file: what to prune and when.")]
Cuda = Annotated[bool, Choice("--cuda", help="Use CUDA.")]
Device = Annotated[str | None, Choice(help="A torch device, 'cuda:1' for one; overrides --cuda.")]
Epochs = Annotated[int, Choice(min=1, help="Epochs to train.")]
LogGradients = Annotated[bool, Choice("--log-gradients", help="Record gradients in TensorBoard.")]
LogInterval = Annotated[int, Choice("--log-interval", min=1, help="Steps between report lines.")]
PlanOnly = Annotated[bool, Choice("--plan", help="Print what the schedule will do in this very run, and exit.")]
RecordJson = Annotated[bool, Choice("--json", help="Print --summary, --plan or the run's record as JSON.")]
Resume = Annotated[
    Path | None,
    Choice("--resume", "--resume-from", help="Go on with a run folder or checkpoint; options not given are those of the run."),
]
Save = Annotated[Path | None, Choice(help="Run folder: last/, best/, logs. Default: runs/ and application, date and time.")]
SaveEvery = Annotated[int, Choice("--save-every", min=0, help="Checkpoint every N steps as well; 0: after each epoch.")]
Seed = Annotated[int, Choice(help="Random seed.")]
Summary = Annotated[
    str | None,
    Choice("--summary", callback=summary_name, metavar=SUMMARIES, help="Print or draw a summary of the model and exit."),
]
SummaryFile = Annotated[
    Path | None, Choice("--out", help="File for the summary: .csv, .json, .md, .txt; a drawing .png, .svg, .pdf, .dot.")
]
Trained = Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A run folder (its best model) or a checkpoint.")]


def check_together(plan: bool, compress: Path | None, resume: Path | None, out: Path | None, summary: str | None) -> None:
    """Wrong usage, status 2, for a plan without a schedule, and for the file of a summary without a summary."""
    if plan and compress is None and resume is None:
        raise typer.BadParameter("--plan shows what a schedule will do: name one with --compress FILE", param_hint="--plan")
    if out is not None and summary is None:
        raise typer.BadParameter("is the file of a summary: name one with --summary", param_hint="--out")
