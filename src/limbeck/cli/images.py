"""``limbeck images``: train, evaluate, summarise and compare image classifiers, and see what pruning they bear."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli._compare import Out, Runs, show_comparison
from limbeck.cli._help import LongOptions
from limbeck.cli._options import Json, given_options
from limbeck.cli._train import (
    Amp,
    Compress,
    Cuda,
    Device,
    Epochs,
    LogGradients,
    LogInterval,
    PlanOnly,
    RecordJson,
    Resume,
    Save,
    SaveEvery,
    Seed,
    Summary,
    SummaryFile,
    Trained,
    check_together,
    summary_name,
)
from limbeck.cli.images_quantize import EXAMPLE as QUANTIZE_EXAMPLE
from limbeck.cli.images_quantize import quantize
from limbeck.cli.images_sensitivity import EXAMPLE as SENSITIVITY_EXAMPLE
from limbeck.cli.images_sensitivity import Split, sensitivity
from limbeck.cli.plan import show_plan
from limbeck.cli.summary import KINDS

Choice = typer.Option
app = typer.Typer(
    help="Image classifiers: train, prune on a schedule, quantize, evaluate, compare.",
    epilog="Example: limbeck images train --epochs 5 --save runs/digits",
    no_args_is_help=True,
)


@app.command(cls=LongOptions, epilog="Example: limbeck images train --data cifar-10 --model resnet20_cifar --save runs/resnet20")
def train(
    context: typer.Context,
    data: Annotated[str, Choice(help="'digits', which is embedded; 'cifar-10'; 'mnist'; or a folder of images.")] = "digits",
    model: Annotated[str, Choice(metavar="NAME", help="Short name of a model, or package.module:function.")] = "resnet20_cifar",
    epochs: Epochs = 30,
    batch_size: Annotated[int, Choice("--batch-size", "-b", min=1, help="Images a step.")] = 128,
    lr: Annotated[float, Choice("--lr", min=0, help="Highest learning rate of the cycle, or the first one of the schedule's own.")] = 0.2,
    momentum: Annotated[float, Choice(min=0, help="Nesterov momentum of SGD.")] = 0.9,
    weight_decay: Annotated[float, Choice("--weight-decay", "--wd", min=0, help="Weight decay of SGD.")] = 5e-4,
    label_smoothing: Annotated[float, Choice("--label-smoothing", min=0, max=1, help="Of the cross entropy in training.")] = 0.0,
    validation_split: Annotated[
        float, Choice("--validation-split", "--vs", min=0, max=0.99, help="Part of the training images held out to choose the best model.")
    ] = 0.0,
    compress: Compress = None,
    weights: Annotated[
        Path | None,
        Choice(
            "--weights", "--exp-load-weights-from", help="Begin with these weights: a run, a checkpoint, *.safetensors or a plain *.pth."
        ),
    ] = None,
    save: Save = None,
    save_every: SaveEvery = 0,
    resume: Resume = None,
    seed: Seed = 1111,
    amp: Amp = False,
    compile_: Annotated[bool, Choice("--compile", help="Compile the model with torch.compile.")] = False,
    channels_last: Annotated[bool, Choice("--channels-last", help="Keep channels innermost in memory.")] = False,
    cuda: Cuda = False,
    device: Device = None,
    log_interval: LogInterval = 100,
    log_gradients: LogGradients = False,
    summary: Summary = None,
    out: SummaryFile = None,
    plan: PlanOnly = False,
    as_json: RecordJson = False,
) -> None:
    """Train an image classifier, pruned and thinned on a schedule if --compress names one; keep the best and test it."""
    check_together(plan, compress, resume, out, summary)
    from limbeck.apps.images import app as images
    from limbeck.apps.images.options import TrainOptions

    options = TrainOptions(
        data=data, model=model.removeprefix("images:"), epochs=epochs, batch_size=batch_size, lr=lr, momentum=momentum, weight_decay=weight_decay,
        label_smoothing=label_smoothing, validation_split=validation_split, seed=seed, cuda=cuda, device=device, amp=amp,
        compile=compile_, channels_last=channels_last, compress=None if compress is None else str(compress),
        weights=None if weights is None else str(weights), log_interval=log_interval, log_gradients=log_gradients,
        save=None if save is None else str(save), save_every=save_every, command=shlex.join(["limbeck", *sys.argv[1:]]),
    )  # fmt: skip
    given = given_options(context)
    if summary is not None:
        images.summarise(options, summary, resume, out, as_json)
    elif plan:
        show_plan(images.plan_of_run(options, given, resume), as_json)
    else:
        images.run_training(options, given, resume, as_json)


@app.command(cls=LongOptions, epilog="Example: limbeck images evaluate runs/resnet20 --latency")
def evaluate(
    checkpoint: Trained,
    data: Annotated[str | None, Choice(help="Images; default: those that the run was trained on.")] = None,
    split: Annotated[Split, Choice(help="Which images.")] = Split.test,
    latency: Annotated[bool, Choice("--latency", help="Measure the time of a batch of 1 and of 64 images on this machine.")] = False,
    cuda: Cuda = False,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Top-1, top-5 and loss of a trained classifier; its weights, MACs and file size."""
    from limbeck.apps.images.app import run_evaluation
    from limbeck.apps.run import chosen_device

    run_evaluation(checkpoint, data, split.value, chosen_device(cuda, device), latency, as_json)


@app.command(cls=LongOptions, epilog="Example: limbeck images summary compute --model resnet20_cifar")
def summary(
    name: Annotated[str, typer.Argument(metavar="NAME", callback=summary_name, help=KINDS, show_default=False)],
    run: Annotated[Path | None, typer.Argument(metavar="RUN", help="A run folder (its best model) or a checkpoint.")] = None,
    model: Annotated[
        str, Choice(metavar="NAME", help="Without RUN: a fresh model by its short name, or package.module:function.")
    ] = "resnet20_cifar",
    data: Annotated[str, Choice(help="Without RUN: images, for the number of their classes and their shape.")] = "digits",
    weights: Annotated[Path | None, Choice("--weights", help="Without RUN: weights to load.")] = None,
    out: SummaryFile = None,
    as_json: Json = False,
) -> None:
    """Print or draw a summary of a classifier: its sparsity, its modules, its MACs layer by layer, its graph."""
    from limbeck.apps.images.app import summarise
    from limbeck.apps.images.options import TrainOptions

    options = TrainOptions(data=data, model=model.removeprefix("images:"), weights=None if weights is None else str(weights))
    summarise(options, name, run, out, as_json)


app.command(cls=LongOptions, epilog=SENSITIVITY_EXAMPLE)(sensitivity)
app.command(cls=LongOptions, epilog=QUANTIZE_EXAMPLE)(quantize)


@app.command(cls=LongOptions, epilog="Example: limbeck images compare runs/dense runs/pruned --out comparison")
def compare(
    runs: Runs,
    out: Out = Path("comparison"),
    latency: Annotated[bool, Choice("--latency/--no-latency", help="Measure the time of a batch of 1 and of 64 images.")] = True,
    cuda: Cuda = False,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Compare runs with their dense twin: a table of accuracy, MACs, measured time and file size, and figures."""
    from limbeck.apps.images import compare as comparison
    from limbeck.apps.run import chosen_device

    show_comparison(comparison.compare(runs, out, chosen_device(cuda, device), latency), as_json)
