"""What the commands of ``limbeck lm`` do, with what they print."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console

from limbeck.apps.checkpoint import Checkpoint
from limbeck.apps.lm.data import Batches, batchify, load_corpus
from limbeck.apps.lm.generate import generate_words
from limbeck.apps.lm.options import FIXED, TrainOptions
from limbeck.apps.lm.session import APPLICATION, EVALUATION_BATCH, build_model, corpus_of_run, load_trained, resume, start
from limbeck.apps.lm.train import evaluate, train
from limbeck.apps.log import METRICS, perplexity
from limbeck.apps.loop import finite, has_bfloat16
from limbeck.apps.progress import Progress
from limbeck.apps.run import RUNS, Network, Training, bring_best, chosen_device, newest_run, say
from limbeck.config import Plan
from limbeck.errors import CheckpointError, DataError
from limbeck.names import named_parameters
from limbeck.stats import nonzero_groups, weights
from limbeck.summaries import summarise as make_summary
from limbeck.summaries.render import show

TRAINING = Training(
    APPLICATION, METRICS, FIXED, start, resume, train,
    lambda record: (
        f"{record['type']}, {record['nonzeros']:,} of {record['weights']:,} weights ({record['sparsity']:.2%} sparse): validation perplexity "
        f"{_shown(record['validation_perplexity'])}, test perplexity {_shown(record['test_perplexity'])}"
    ),
    bring_best,
)  # fmt: skip


def run_training(options: TrainOptions, given: set[str], resume_from: Path | None, as_json: bool = False) -> None:
    """Train, and print how it went, or as JSON the record that ``run.json`` holds."""
    TRAINING.run(options, given, resume_from, as_json)


def _shown(perplexity: float | None) -> str:
    return "not measured" if perplexity is None else f"{perplexity:.2f}"


def summarise(options: TrainOptions, name: str, resume_from: Path | None, out: Path | None, as_json: bool) -> None:
    """Print a summary of the fresh model, or of a saved one, or write it to a file; those of a forward pass are of one word."""
    if resume_from is not None:
        model, *_ = load_trained(resume_from)
    else:
        torch.manual_seed(options.seed)
        model = build_model(options, len(load_corpus(options.data).words))
    show(make_summary(name, model, (torch.zeros(1, 1, dtype=torch.long), model.initial_hidden(1)), out), as_json)


def plan_of_run(options: TrainOptions, given: set[str], resume_from: Path | None) -> Plan:
    """What the schedule does in the very run that the options describe, resumed or not; raises ``DataError`` without a schedule."""

    def network(options: TrainOptions, checkpoint: Checkpoint | None) -> Network:
        corpus = load_corpus(options.data) if checkpoint is None else corpus_of_run(checkpoint, options.data)
        with torch.device("meta"):
            model = build_model(options, len(corpus.words))
        return Network(model, len(Batches(batchify(corpus.train, options.batch_size), options.bptt)), options.epochs)

    return TRAINING.plan(options, given, resume_from, network)


def run_evaluation(path: Path, data: str | None, split: str, cuda: bool, device: str | None, as_json: bool) -> None:
    """Print the perplexity of a trained model."""
    if split not in ("valid", "test"):
        raise DataError(f"no split named '{split}'; choose valid or test")
    model, checkpoint, options = load_trained(path, chosen_device(cuda, device))
    corpus = load_corpus(data or options.data)
    if corpus.words != checkpoint.state["vocabulary"]:
        raise CheckpointError(f"the corpus '{data or options.data}' has another vocabulary than the one that {path} was trained on")
    where = next(model.parameters()).device
    batches = Batches(batchify(getattr(corpus, split), EVALUATION_BATCH).to(where), options.bptt)
    with Progress(len(batches), split) as progress:
        loss = evaluate(model, batches, options.amp and has_bfloat16(where), progress)
    tensors = [named.parameter.detach() for named in weights(named_parameters(model).values())]
    total, nonzeros = sum(tensor.numel() for tensor in tensors), sum(map(nonzero_groups, tensors))
    result = {
        "checkpoint": str(path), "split": split, "loss": loss, "perplexity": perplexity(loss),
        "weights": total, "nonzeros": nonzeros, "sparsity": 1 - nonzeros / total,
    }  # fmt: skip
    console = Console()
    if as_json:
        console.print_json(data=finite(result))
        return
    say(
        console,
        f"{path}, {split}: perplexity {perplexity(loss):.2f}, loss {loss:.4f}; {nonzeros:,} of {total:,} weights ({result['sparsity']:.2%} sparse)",
    )


def run_generation(
    path: Path | None, out: Path, words: int, seed: int, cuda: bool, device: str | None, temperature: float, log_interval: int
) -> None:
    """Write generated text to a file."""
    chosen = path or newest_run(RUNS, APPLICATION)
    model, checkpoint, _ = load_trained(chosen, chosen_device(cuda, device))
    console = Console(stderr=True)

    def report(done: int) -> None:
        if done % log_interval == 0:
            console.print(f"{done}/{words} words", highlight=False)

    text = generate_words(model, checkpoint.state["vocabulary"], words, temperature, seed, report)
    out.write_text(text, encoding="utf-8")
    console.print(f"wrote {words} words of {checkpoint.path} to {out}")
