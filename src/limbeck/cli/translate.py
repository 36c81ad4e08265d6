"""``limbeck translate``: train, evaluate and translate with a Transformer, pruned by optimizer step, and compare runs."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from limbeck.apps.translation.options import TrainOptions
from limbeck.cli._compare import Out, Runs, show_comparison
from limbeck.cli._fields import UNDERSCORES, with_fields
from limbeck.cli._help import LongOptions
from limbeck.cli._options import Json, given_options
from limbeck.cli._train import Cuda, Device, PlanOnly, Resume
from limbeck.cli.plan import show_plan

Choice = typer.Option
EXAMPLE = "Example: limbeck translate train --target_sparsity 0.5 --end_pruning_step 500 --save runs/numbers"
PANELS = {
    "data": "Data", "hparams_set": "Model", "train_steps": "Training", "compress": "Pruning", "eval_steps": "Validation", "save": "Run",
}  # fmt: skip
"""The parts of the help, by the option that begins each."""
FLAGS = {
    "batch_tokens": ("--batch_tokens", "--batch_size"),
    "save": ("--model_dir", "--save"),
    "save_checkpoint_steps": ("--save_checkpoint_steps", "--save_checkpoints_steps"),
}
Beam = Annotated[int | None, Choice("--beam_size", min=1, help="Hypotheses; default: those of the run.")]
Penalty = Annotated[float | None, Choice("--length_penalty", min=0, help="Power of the length; default: that of the run.")]
Trained = Annotated[Path, typer.Argument(help="A run folder (its average) or a checkpoint.")]

app = typer.Typer(
    help="Translation with a Transformer: train, prune by step, average, evaluate, translate, compare.",
    epilog=EXAMPLE,
    no_args_is_help=True,
)


def train(
    context: typer.Context,
    config_paths: Annotated[
        str | None, Choice("--config_paths", metavar="A.yml,B.yml", help="Files of options; later ones and the command line win.")
    ] = None,
    resume: Resume = None,
    plan: PlanOnly = False,
    as_json: Annotated[bool, Choice("--json", help="Print --plan or the run's record as JSON.")] = False,
    **chosen: Any,
) -> None:
    """Train a Transformer, pruned by step where the options or --compress say so; keep the best and their average, and test that."""
    from limbeck.apps.translation import app as translation
    from limbeck.apps.translation.configs import checked, read_configs

    given = {name for name in given_options(context) if name in chosen}
    values, notes = read_configs([Path(path.strip()) for path in config_paths.split(",")] if config_paths else [])
    for note in notes:
        typer.echo(note, err=True)
    valid = checked(values | {name: chosen[name] for name in given})
    options = TrainOptions(**valid, command=shlex.join(["limbeck", *sys.argv[1:]]))
    if plan:
        found, notes = translation.plan_of_run(options, set(valid), resume)
        show_plan(found, as_json, notes)
    else:
        translation.run_training(options, set(valid), resume, as_json)


app.command("train", cls=LongOptions, epilog=EXAMPLE, context_settings=UNDERSCORES)(with_fields(train, TrainOptions, PANELS, FLAGS))


@app.command(cls=LongOptions, context_settings=UNDERSCORES, epilog="Example: limbeck translate evaluate runs/numbers --split val")
def evaluate(
    checkpoint: Trained,
    data: Annotated[str | None, Choice(help="Pairs; default: those that the run was trained on.")] = None,
    split: Annotated[str | None, Choice(help="train, val, or a test by its name; default: all tests.")] = None,
    beam_size: Beam = None,
    length_penalty: Penalty = None,
    cuda: Cuda = False,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """BLEU of a trained model, detokenised and tokenised, each with its signature; its weights and their sparsity."""
    from limbeck.apps.run import chosen_device
    from limbeck.apps.translation.app import Search, run_evaluation

    run_evaluation(checkpoint, data, split, Search(beam_size, length_penalty), chosen_device(cuda, device), as_json)


@app.command(
    cls=LongOptions,
    context_settings=UNDERSCORES,
    epilog="Example: limbeck translate generate runs/numbers --input sentences.en --out sentences.de",
)
def generate(
    checkpoint: Trained,
    source: Annotated[Path, Choice("--input", "-i", help="A file with one sentence a line; - reads the standard input.")] = Path("-"),
    out: Annotated[Path, Choice("--out", "-o", help="File for the translations; - is the standard output.")] = Path("-"),
    beam_size: Beam = None,
    length_penalty: Penalty = None,
    cuda: Cuda = False,
    device: Device = None,
) -> None:
    """Translate sentences, line by line."""
    from limbeck.apps.run import chosen_device
    from limbeck.apps.translation.app import Search, run_generation

    read, written = (None if str(path) == "-" else path for path in (source, out))
    run_generation(checkpoint, read, written, Search(beam_size, length_penalty), chosen_device(cuda, device))


@app.command(cls=LongOptions, epilog="Example: limbeck translate compare runs/dense runs/pruned --out comparison")
def compare(runs: Runs, out: Out = Path("comparison"), as_json: Json = False) -> None:
    """Compare runs: sparsity, non-zeros, and BLEU on validation and tests, detokenised and tokenised; a table and a figure."""
    from limbeck.apps.translation import compare as comparison

    show_comparison(comparison.compare(runs, out), as_json)
