"""What the commands of ``limbeck translate`` do, with what they print."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console

from limbeck.apps.checkpoint import Checkpoint
from limbeck.apps.loop import finite, has_bfloat16
from limbeck.apps.progress import Progress
from limbeck.apps.run import Network, Training, say
from limbeck.apps.translation.batches import Examples
from limbeck.apps.translation.data import decoded, lines_of, load_splits
from limbeck.apps.translation.keep import bring
from limbeck.apps.translation.options import FIXED, TrainOptions
from limbeck.apps.translation.prepare import (
    APPLICATION,
    corpus_of_run,
    examples_of,
    prepared,
    saved_vocabularies,
    training_cycles,
    training_examples,
)
from limbeck.apps.translation.pruning import kept_back
from limbeck.apps.translation.session import Trained, load_trained, network, resume, schedule_of, start
from limbeck.apps.translation.track import COLUMNS, SPLITS, of_steps
from limbeck.apps.translation.train import train
from limbeck.apps.translation.validate import Decoding, translations, validate
from limbeck.config import Plan
from limbeck.errors import DataError
from limbeck.names import named_parameters
from limbeck.stats import nonzero_groups, weights

TRAINING = Training(
    APPLICATION, COLUMNS, FIXED, start, resume, train,
    lambda record: (
        f"{record['type']}, {record['nonzeros']:,} of {record['weights']:,} weights ({record['sparsity']:.2%} sparse)"
        f"{_averaged(record['averaged_steps'], record['averaged_bleus'])}: validation BLEU {_shown(record['validation_bleu'])}"
        + "".join(f", {name} {found['bleu']:.2f}" for name, found in record["tests"].items())
        + _signed(record["signatures"])
    ),
    bring, SPLITS,
)  # fmt: skip


def run_training(options: TrainOptions, given: set[str], resume_from: Path | None, as_json: bool = False) -> None:
    """Train, and print how it went, or as JSON the record that ``run.json`` holds."""
    TRAINING.run(options, given, resume_from, as_json)


def _averaged(steps: Sequence[int], bleus: Sequence[float]) -> str:
    """Which checkpoints the model is one of, and what they reached by themselves, for a line of text.

    >>> _averaged([30], [12.5]), _averaged([30, 60], [12.5, 13.0]), _averaged([], [])
    (', the checkpoint of step 30', ', the average of the steps 30, 60 (BLEU 12.50, 13.00 each by itself)', '')
    """
    own = f" (BLEU {', '.join(f'{bleu:.2f}' for bleu in bleus)} each by itself)" if len(bleus) > 1 else ""
    return f", {of_steps(steps)}{own}" if steps else ""


def _signed(signatures: Mapping[str, str] | None) -> str:
    """How BLEU was computed, in lines of their own."""
    return "" if signatures is None else f"\nBLEU: {signatures['bleu']}\ntokenised: {signatures['tokenised_bleu']}"


def _shown(bleu: float | None) -> str:
    return "not measured" if bleu is None else f"{bleu:.2f}"


def plan_of_run(options: TrainOptions, given: set[str], resume_from: Path | None) -> tuple[Plan, list[str]]:
    """What pruning does in the very run that the options describe, resumed or not, and why the other matrices stay as they are.

    Raises ``DataError`` for options that prune nothing.
    """
    notes: list[str] = []

    def described(options: TrainOptions, checkpoint: Checkpoint | None) -> Network:
        if checkpoint is None:
            options, corpus, vocabularies = prepared(options)
        else:
            corpus, vocabularies = corpus_of_run(checkpoint, options), saved_vocabularies(checkpoint)
        with torch.device("meta"):
            model = network(options, vocabularies)
        examples, _ = training_examples(options, corpus, vocabularies)
        steps = len(training_cycles(options, examples, torch.device("cpu")))
        schedule = schedule_of(options, model)
        notes.extend(() if schedule is None else kept_back(options.pruning, model, options.prune_embeddings))
        return Network(model, steps, -(-options.train_steps // steps), options.train_steps, schedule)

    return TRAINING.plan(options, given, resume_from, described), notes


class Search(NamedTuple):
    """How to translate where it differs from how the run did."""

    beam_size: int | None = None
    length_penalty: float | None = None

    def over(self, how: Decoding) -> Decoding:
        """The run's way with these differences.

        >>> Search(beam_size=1).over(Decoding(beam_size=4, batch_size=8))
        Decoding(beam_size=1, length_penalty=0.6, batch_size=8, amp=False)
        """
        return replace(how, **{name: value for name, value in self._asdict().items() if value is not None})


def run_evaluation(
    path: Path, data: str | None, split: str | None, search: Search, device: torch.device, as_json: bool
) -> None:  # fmt: skip
    """Print BLEU, tokenised and not, of a trained model on its tests, or on one split, and how sparse it is."""
    trained = load_trained(path, device)
    splits = load_splits(data or trained.options.data, *trained.languages, split)
    how = search.over(decoding_of(trained, device))
    results: dict[str, Any] = {"checkpoint": str(path), "languages": list(trained.languages), **_sparsity(trained), "splits": {}}
    for name, pairs in splits.items():
        examples = examples_of(pairs, trained.vocabularies)
        with Progress(len(pairs), name, console=Console(stderr=True)) as progress:
            found = validate(trained.model, examples, pairs.target, trained.vocabularies.target, trained.languages[1], how, progress)
        results["splits"][name] = {
            **found.measures,
            "signature": found.scores.detokenised_signature,
            "tokenised_signature": found.scores.tokenised_signature,
        }
    console = Console()
    if as_json:
        console.print_json(data=finite(results))
        return
    share = f"{results['nonzeros']:,} of {results['weights']:,} weights ({results['sparsity']:.2%} sparse)"
    say(console, f"{path}: {share}, beam {how.beam_size}, length penalty {how.length_penalty:g}")
    for name, values in results["splits"].items():
        say(console, f"{name}: BLEU {values['bleu']:.2f}, tokenised {values['tokenised_bleu']:.2f}, perplexity {values['perplexity']:.2f}")
    last = next(iter(results["splits"].values()))
    say(console, f"BLEU: {last['signature']}")
    say(console, f"tokenised: {last['tokenised_signature']}")


def decoding_of(trained: Trained, device: torch.device) -> Decoding:
    """How the run of a model translated."""
    options = trained.options
    return Decoding(options.beam_size, options.length_penalty, options.eval_batch_size, options.amp and has_bfloat16(device))


def _sparsity(trained: Trained) -> dict[str, Any]:
    tensors = [named.parameter.detach() for named in weights(named_parameters(trained.model).values())]
    total, nonzeros = sum(tensor.numel() for tensor in tensors), sum(map(nonzero_groups, tensors))
    return {"weights": total, "nonzeros": nonzeros, "sparsity": 1 - nonzeros / total}


def run_generation(path: Path, source: Path | None, out: Path | None, search: Search, device: torch.device) -> None:
    """Translate a file line by line into another; None stands for the standard streams. An empty line stays one."""
    trained = load_trained(path, device)
    how = search.over(decoding_of(trained, device))
    lines = decoded(sys.stdin.buffer.read(), "the standard input") if source is None else lines_of(source)
    if out is not None and not out.parent.is_dir():
        raise DataError(f"there is no folder {out.parent} for {out.name}; make it, or write elsewhere")
    wanted = [line for line in lines if line]
    with Progress(len(wanted), "sentences", console=Console(stderr=True)) as progress:
        examples = Examples.of(trained.vocabularies.source.encode(wanted))
        found = iter(translations(trained.model, examples, trained.vocabularies.target, how, progress) if wanted else ())
    written = "".join(f"{next(found) if line else ''}\n" for line in lines)
    if out is None:
        sys.stdout.write(written)
    else:
        out.write_text(written, encoding="utf-8")
        say(Console(stderr=True), f"wrote {len(lines):,} lines to {out}")
