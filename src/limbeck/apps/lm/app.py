"""What the commands of ``limbeck lm`` do, with what they print."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from limbeck.apps.checkpoint import Checkpoint, is_checkpoint, load_checkpoint
from limbeck.apps.lm.data import Batches, batchify, load_corpus
from limbeck.apps.lm.generate import generate_words
from limbeck.apps.lm.options import TrainOptions
from limbeck.apps.lm.session import (
    EVALUATION_BATCH,
    Best,
    Session,
    build_model,
    corpus_of_run,
    find_checkpoint,
    load_trained,
    open_checkpoint,
    resume,
    start,
)
from limbeck.apps.lm.track import perplexity
from limbeck.apps.lm.train import evaluate, train
from limbeck.apps.log import RunLog
from limbeck.apps.loop import choose_device, finite, has_bfloat16, new_run_folder
from limbeck.apps.progress import Progress
from limbeck.config import Plan, plan
from limbeck.errors import CheckpointError, DataError, did_you_mean
from limbeck.names import named_parameters
from limbeck.stats import nonzero_groups, weights
from limbeck.summaries import SUMMARIES
from limbeck.summaries.render import show

RUNS = Path("runs")


def run_training(options: TrainOptions, given: set[str], resume_from: Path | None, as_json: bool = False) -> None:
    """Train, and print how it went, or as JSON the record that ``run.json`` holds."""
    session, folder = _open(options, given, resume_from)
    options, clock = session.options, session.scheduler.clock
    resumed = clock.step if resume_from is not None else None
    console = Console(stderr=True)
    with (
        RunLog(folder, resume_step=resumed, tensorboard=options.log_gradients or has_tensorboard()) as log,
        Progress(len(session.train), console=console) as progress,
    ):
        for note in [f"saving to {folder}", *session.notes]:
            progress.say(note)
            log.say(note)
        record = train(session, folder, log, progress)
    if as_json:
        Console().print_json(data=finite(record))
    else:
        _print_record(record, folder)


def _print_record(record: Mapping[str, Any], folder: Path) -> None:
    console = Console()
    valid, test = (_shown(record[f"{split}_perplexity"]) for split in ("validation", "test"))
    console.print(
        f"{record['type']}, {record['nonzeros']:,} of {record['weights']:,} weights ({record['sparsity']:.2%} sparse): "
        f"validation perplexity {valid}, test perplexity {test}",
        highlight=False,
        soft_wrap=True,
    )
    if not record["finished"]:
        console.print(f"stopped before the end; go on with: limbeck lm train --resume {folder}", highlight=False, soft_wrap=True)


def _shown(perplexity: float | None) -> str:
    return "not measured" if perplexity is None else f"{perplexity:.2f}"


def has_tensorboard() -> bool:
    """Whether the optional TensorBoard is installed."""
    return find_spec("tensorboard") is not None


def _open(options: TrainOptions, given: set[str], resume_from: Path | None) -> tuple[Session, Path]:
    if resume_from is None:
        fresh = Path(options.save) if options.save else RUNS / f"lm-{datetime.now():%Y%m%d-%H%M%S}"
        session = start(replace(options, save=str(fresh)))
        return session, new_run_folder(fresh)
    checkpoint, merged, schedule = _continued(options, given, resume_from)
    place = find_checkpoint(resume_from, "last").resolve()
    own = place.parent if place.name in ("last", "best") else None
    folder = Path(merged.save) if "save" in given and merged.save else own
    if folder is None or folder.resolve() == place:
        raise CheckpointError(
            f"{resume_from} is a checkpoint outside of a run folder; name the folder of the run that goes on with --save DIR"
        )
    session = resume(checkpoint, merged, schedule)
    _bring_best(session, own, folder)
    session.notes.append(f"resumed from {checkpoint.path} at epoch {session.scheduler.clock.epoch}, step {session.scheduler.clock.step}")
    return session, folder


def _continued(options: TrainOptions, given: set[str], resume_from: Path) -> tuple[Checkpoint, TrainOptions, Path | None]:
    """A checkpoint to go on from, the options then, and the schedule: the saved one unless another is given."""
    checkpoint = open_checkpoint(resume_from, "last")
    merged = options.continued(checkpoint.state["options"], given)
    saved = None if checkpoint.schedule is None else checkpoint.path / "schedule.yaml"
    return checkpoint, merged, Path(merged.compress) if "compress" in given and merged.compress else saved


def _bring_best(session: Session, own: Path | None, folder: Path) -> None:
    """A resumed run takes its best checkpoint into another folder; where that was lost, the next validation finds a new one."""
    if folder.resolve() != own:
        new_run_folder(folder)
        if own is not None and is_checkpoint(own / "best"):
            shutil.copytree(load_checkpoint(own / "best").path, folder / "best")
    if not is_checkpoint(folder / "best"):
        session.best = Best()


def summarise(options: TrainOptions, name: str, resume_from: Path | None, as_json: bool) -> None:
    """Print one of ``SUMMARIES`` of the fresh model, or of a saved one; raises ``DataError`` for another name."""
    if name not in SUMMARIES:
        raise DataError(f"no summary named '{name}'{did_you_mean(name, SUMMARIES)}; choose one of {', '.join(SUMMARIES)}")
    if resume_from is not None:
        model, *_ = load_trained(resume_from)
    else:
        torch.manual_seed(options.seed)
        model = build_model(options, len(load_corpus(options.data).words))
    show(SUMMARIES[name](model), as_json)


def plan_of_run(options: TrainOptions, given: set[str], resume_from: Path | None) -> Plan:
    """What the schedule does in the very run that the options describe, resumed or not; raises ``DataError`` without a schedule."""
    if resume_from is None:
        schedule, corpus = None if options.compress is None else Path(options.compress), load_corpus(options.data)
    else:
        checkpoint, options, schedule = _continued(options, given, resume_from)
        corpus = corpus_of_run(checkpoint, options.data)
    if schedule is None:
        raise DataError("--plan shows what a schedule will do: name one with --compress FILE")
    with torch.device("meta"):
        model = build_model(options, len(corpus.words))
    steps = len(Batches(batchify(corpus.train, options.batch_size), options.bptt))
    return plan(schedule, model, steps_per_epoch=steps, epochs=options.epochs)


def run_evaluation(path: Path, data: str | None, split: str, cuda: bool, device: str | None, as_json: bool) -> None:
    """Print the perplexity of a trained model."""
    if split not in ("valid", "test"):
        raise DataError(f"no split named '{split}'; choose valid or test")
    model, checkpoint, options = load_trained(path, _device(cuda, device))
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
    console.print(
        f"{path}, {split}: perplexity {perplexity(loss):.2f}, loss {loss:.4f}; {nonzeros:,} of {total:,} weights ({result['sparsity']:.2%} sparse)",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def _device(cuda: bool, device: str | None) -> torch.device:
    chosen, warning = choose_device(cuda, device)
    if warning is not None:
        Console(stderr=True).print(warning, highlight=False, soft_wrap=True)
    return chosen


def run_generation(
    path: Path | None, out: Path, words: int, seed: int, cuda: bool, device: str | None, temperature: float, log_interval: int
) -> None:
    """Write generated text to a file."""
    chosen = path or newest_run(RUNS)
    model, checkpoint, _ = load_trained(chosen, _device(cuda, device))
    console = Console(stderr=True)

    def report(done: int) -> None:
        if done % log_interval == 0:
            console.print(f"{done}/{words} words", highlight=False)

    text = generate_words(model, checkpoint.state["vocabulary"], words, temperature, seed, report)
    out.write_text(text, encoding="utf-8")
    console.print(f"wrote {words} words of {checkpoint.path} to {out}")


def newest_run(runs: Path) -> Path:
    """The run folder that was written last; raises ``CheckpointError`` when there is none."""
    found = [path for path in runs.glob("*") if find_checkpoint(path, "best") != path]
    if not found:
        raise CheckpointError(f"no run in {runs}/; train one with 'limbeck lm train', or name one with --checkpoint DIR")
    return max(found, key=lambda path: find_checkpoint(path, "best").stat().st_mtime)
