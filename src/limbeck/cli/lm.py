"""``limbeck lm``: train, evaluate and generate with the word language model, and compare runs."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

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
    one_of,
)
from limbeck.cli.lm_compare import compare
from limbeck.cli.lm_quantize import EXAMPLE as QUANTIZE_EXAMPLE
from limbeck.cli.lm_quantize import quantize
from limbeck.cli.plan import show_plan

Choice = typer.Option
app = typer.Typer(
    help="Word language model: train, prune on a schedule, quantize, evaluate, generate, compare.",
    epilog="Example: limbeck lm train --tied --epochs 6 --compress schedules/lm/small_80.yaml --plan",
    no_args_is_help=True,
)


def _cell(name: str) -> str:
    from limbeck.apps.lm.model import CELLS

    return one_of(CELLS, "recurrent cell", name)


def _split(name: str) -> str:
    return one_of(("valid", "test"), "split", name)


@app.command(cls=LongOptions, epilog="Example: limbeck lm train --tied --epochs 6 --emsize 64 --nhid 64 --save runs/small")
def train(
    context: typer.Context,
    data: Annotated[
        str, Choice(help="A folder with train.txt, valid.txt, test.txt; 'wikitext-2'; or 'docs', the embedded corpus.")
    ] = "docs",
    model: Annotated[str, Choice(metavar="LSTM|GRU|RNN_TANH|RNN_RELU", callback=_cell, help="Type of recurrent net.")] = "LSTM",
    emsize: Annotated[int, Choice(min=1, help="Size of word embeddings.")] = 200,
    nhid: Annotated[int, Choice(min=1, help="Hidden units a layer.")] = 200,
    nlayers: Annotated[int, Choice(min=1, help="Number of layers.")] = 2,
    lr: Annotated[float, Choice(min=0, help="Initial learning rate.")] = 20.0,
    clip: Annotated[float, Choice(min=0, help="Gradient norm to clip at.")] = 0.25,
    epochs: Epochs = 40,
    batch_size: Annotated[int, Choice("--batch-size", "--batch_size", min=1, help="Batch size.")] = 20,
    bptt: Annotated[int, Choice(min=1, help="Sequence length of truncated backpropagation.")] = 35,
    dropout: Annotated[float, Choice(min=0, max=1, help="Dropout on embeddings, between layers and on the output.")] = 0.2,
    decay: Annotated[
        float | None, Choice(min=0, help="Multiply the learning rate by this after each epoch, in place of the plateau decay.")
    ] = None,
    cooldown: Annotated[
        float,
        Choice(
            min=0,
            max=1,
            show_default="2/3",
            help="Last fraction of the run over which the learning rate falls to zero; 0: plateau decay alone.",
        ),
    ] = 2 / 3,
    tied: Annotated[bool, Choice("--tied", help="Tie the word embedding and the softmax weights.")] = False,
    seed: Seed = 1111,
    cuda: Cuda = False,
    device: Device = None,
    momentum: Annotated[float, Choice(min=0, help="Momentum of SGD.")] = 0.0,
    weight_decay: Annotated[float, Choice("--weight-decay", "--wd", min=0, help="Weight decay of SGD.")] = 0.0,
    amp: Amp = False,
    compile_: Annotated[bool, Choice("--compile", help="Compile the model's loss with torch.compile.")] = False,
    compress: Compress = None,
    log_interval: LogInterval = 200,
    log_gradients: LogGradients = False,
    save: Save = None,
    save_every: SaveEvery = 0,
    resume: Resume = None,
    summary: Summary = None,
    out: SummaryFile = None,
    plan: PlanOnly = False,
    as_json: RecordJson = False,
) -> None:
    """Train an RNN language model, pruned on a schedule if --compress names one; keep the best by validation and test it."""
    check_together(plan, compress, resume, out, summary)
    from limbeck.apps.lm import app as lm
    from limbeck.apps.lm.options import TrainOptions

    options = TrainOptions(
        data=data, model=model, emsize=emsize, nhid=nhid, nlayers=nlayers, dropout=dropout, tied=tied, lr=lr, momentum=momentum,
        weight_decay=weight_decay, clip=clip, epochs=epochs, batch_size=batch_size, bptt=bptt, decay=decay, cooldown=cooldown, seed=seed,
        cuda=cuda, device=device, amp=amp, compile=compile_, compress=None if compress is None else str(compress),
        log_interval=log_interval, log_gradients=log_gradients, save=None if save is None else str(save), save_every=save_every,
        command=shlex.join(["limbeck", *sys.argv[1:]]),
    )  # fmt: skip
    given = given_options(context)
    if summary is not None:
        lm.summarise(options, summary, resume, out, as_json)
    elif plan:
        show_plan(lm.plan_of_run(options, given, resume), as_json)
    else:
        lm.run_training(options, given, resume, as_json)


@app.command(cls=LongOptions, epilog="Example: limbeck lm evaluate runs/small")
def evaluate(
    checkpoint: Trained,
    data: Annotated[str | None, Choice(help="Corpus; default: the one that the run was trained on.")] = None,
    split: Annotated[str, Choice(metavar="valid|test", callback=_split, help="Which part of the corpus.")] = "test",
    cuda: Cuda = False,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Perplexity of a trained model on the test set."""
    from limbeck.apps.lm.app import run_evaluation

    run_evaluation(checkpoint, data, split, cuda, device, as_json)


@app.command(cls=LongOptions, epilog="Example: limbeck lm generate --checkpoint runs/small --words 100")
def generate(
    checkpoint: Annotated[
        Path | None, Choice(help="A run folder (its best model) or a checkpoint. Default: the newest run in runs/.")
    ] = None,
    data: Annotated[str | None, Choice(help="Not needed: the vocabulary comes with the checkpoint. Kept for old command lines.")] = None,
    outf: Annotated[Path, Choice(help="Output file for the generated text.")] = Path("generated.txt"),
    words: Annotated[int, Choice(min=1, help="Number of words to generate.")] = 1000,
    seed: Seed = 1111,
    cuda: Cuda = False,
    device: Device = None,
    temperature: Annotated[float, Choice(min=1e-3, help="Temperature: higher is more diverse.")] = 1.0,
    log_interval: Annotated[int, Choice("--log-interval", min=1, help="Words between report lines.")] = 100,
) -> None:
    """Generate text from a trained model."""
    from limbeck.apps.lm.app import run_generation

    run_generation(checkpoint, outf, words, seed, cuda, device, temperature, log_interval)


app.command(cls=LongOptions, epilog="Example: limbeck lm compare runs/dense runs/pruned --out comparison")(compare)
app.command(cls=LongOptions, epilog=QUANTIZE_EXAMPLE)(quantize)
