"""``limbeck images``: train, evaluate, summarise and compare image classifiers."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli._options import given_options
from limbeck.cli.plan import show_plan

Choice = typer.Option
app = typer.Typer(
    help="Image classifiers: train, prune on a schedule, evaluate, compare.",
    epilog="Example: limbeck images train --epochs 5 --save runs/digits",
    no_args_is_help=True,
)


@app.command(epilog="Example: limbeck images train --data cifar-10 --model resnet20_cifar --save runs/resnet20")
def train(
    context: typer.Context,
    data: Annotated[str, Choice(help="'digits', which is embedded; 'cifar-10'; 'mnist'; or a folder of images.")] = "digits",
    model: Annotated[str, Choice(metavar="NAME", help="Short name of a model, or package.module:function.")] = "resnet20_cifar",
    epochs: Annotated[int, Choice(min=1, help="Epochs to train.")] = 30,
    batch_size: Annotated[int, Choice("--batch-size", "-b", min=1, help="Images a step.")] = 128,
    lr: Annotated[float, Choice("--lr", min=0, help="Highest learning rate of the cycle, or the first one of the schedule's own.")] = 0.2,
    momentum: Annotated[float, Choice(min=0, help="Nesterov momentum of SGD.")] = 0.9,
    weight_decay: Annotated[float, Choice("--weight-decay", "--wd", min=0, help="Weight decay of SGD.")] = 5e-4,
    label_smoothing: Annotated[float, Choice("--label-smoothing", min=0, max=1, help="Of the cross entropy in training.")] = 0.0,
    validation_split: Annotated[
        float, Choice("--validation-split", "--vs", min=0, max=0.99, help="Part of the training images held out to choose the best model.")
    ] = 0.0,
    compress: Annotated[Path | None, Choice(help="Schedule file: what to prune and when.")] = None,
    weights: Annotated[
        Path | None,
        Choice(
            "--weights", "--exp-load-weights-from", help="Begin with these weights: a run, a checkpoint, *.safetensors or a plain *.pth."
        ),
    ] = None,
    save: Annotated[Path | None, Choice(help="Run folder: last/, best/, logs. Default: runs/images-DATE-TIME.")] = None,
    save_every: Annotated[int, Choice("--save-every", min=0, help="Checkpoint every N steps as well; 0: after each epoch.")] = 0,
    resume: Annotated[
        Path | None,
        Choice("--resume", "--resume-from", help="Go on with a run folder or checkpoint; options not given are those of the run."),
    ] = None,
    seed: Annotated[int, Choice(help="Random seed.")] = 1111,
    amp: Annotated[bool, Choice("--amp", help="bfloat16 autocast.")] = False,
    compile_: Annotated[bool, Choice("--compile", help="Compile the model with torch.compile.")] = False,
    channels_last: Annotated[bool, Choice("--channels-last", help="Keep channels innermost in memory.")] = False,
    cuda: Annotated[bool, Choice("--cuda", help="Use CUDA.")] = False,
    device: Annotated[str | None, Choice(help="A torch device, 'cuda:1' for one; overrides --cuda.")] = None,
    log_interval: Annotated[int, Choice("--log-interval", min=1, help="Steps between report lines.")] = 100,
    log_gradients: Annotated[bool, Choice("--log-gradients", help="Record gradients in TensorBoard.")] = False,
    plan: Annotated[bool, Choice("--plan", help="Print what the schedule will do in this very run, and exit.")] = False,
    as_json: Annotated[bool, Choice("--json", help="Print --plan or the run's record as JSON.")] = False,
) -> None:
    """Train an image classifier, pruned and thinned on a schedule if --compress names one; keep the best and test it."""
    if plan and compress is None and resume is None:
        raise typer.BadParameter("--plan shows what a schedule will do: name one with --compress FILE", param_hint="--plan")
    from limbeck.apps.images import app as images
    from limbeck.apps.images.options import TrainOptions

    options = TrainOptions(
        data=data, model=model, epochs=epochs, batch_size=batch_size, lr=lr, momentum=momentum, weight_decay=weight_decay,
        label_smoothing=label_smoothing, validation_split=validation_split, seed=seed, cuda=cuda, device=device, amp=amp,
        compile=compile_, channels_last=channels_last, compress=None if compress is None else str(compress),
        weights=None if weights is None else str(weights), log_interval=log_interval, log_gradients=log_gradients,
        save=None if save is None else str(save), save_every=save_every, command=shlex.join(["limbeck", *sys.argv[1:]]),
    )  # fmt: skip
    given = given_options(context)
    if plan:
        show_plan(images.plan_of_run(options, given, resume), as_json)
    else:
        images.run_training(options, given, resume, as_json)
