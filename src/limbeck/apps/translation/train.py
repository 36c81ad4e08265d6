"""Training of a translation model: the loop, visible as a loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.apps.checkpoint import is_checkpoint
from limbeck.apps.fused_loss import Scratch
from limbeck.apps.log import RunLog
from limbeck.apps.loop import Interrupt
from limbeck.apps.progress import Progress
from limbeck.apps.run import autocast
from limbeck.apps.translation.batches import Batch
from limbeck.apps.translation.keep import decoding, validate_and_keep
from limbeck.apps.translation.loss import Losses, translation_loss
from limbeck.apps.translation.prepare import examples_of
from limbeck.apps.translation.pruning import pruning_table, report
from limbeck.apps.translation.session import Session, Trained, load_trained
from limbeck.apps.translation.subwords import PAD
from limbeck.apps.translation.track import AVERAGE, Tracker, of_steps
from limbeck.apps.translation.validate import validate
from limbeck.summaries.render import save as save_table
from limbeck.summaries.render import to_text

REPORT = "pruning.csv"


def train(session: Session, folder: Path, log: RunLog, progress: Progress) -> dict[str, Any]:
    """Train to the last step or to Ctrl-C, keep the best checkpoints and their average, test the average; gives ``run.json``'s record."""
    options, scheduler, optimizer = session.options, session.scheduler, session.optimizer
    loss_of = loss_function(session)
    session.model.train()
    with Interrupt() as interrupt:
        tracker = Tracker(session, folder, log, progress, interrupt)
        tracker.recorder.record()
        tracker.begin()

        def after_step() -> None:
            due = tracker.after_step()
            tracker.keep(due and validate_and_keep(session, tracker))

        if session.pending:
            tracker.keep(validate_and_keep(session, tracker))
        over = tracker.stopped or tracker.over  # the latter when a run that had waited long enough is resumed
        for epoch in scheduler.epochs(0 if over else session.epochs):
            left = options.train_steps - epoch * len(session.train)
            for batches in scheduler.steps(session.train.epoch(epoch)[:left], after=after_step):
                if tracker.stopped:
                    break
                optimizer.zero_grad()
                sums, tokens = add_gradients(session, batches, loss_of)
                if options.clip_norm:
                    torch.nn.utils.clip_grad_norm_(session.model.parameters(), options.clip_norm)
                optimizer.step()
                tracker.count(sums, tokens)
            if tracker.stopped:
                break
    _report(session, folder, tracker)
    average = load_trained(folder / AVERAGE, session.device) if is_checkpoint(folder / AVERAGE) else None
    if average is None or interrupt.hurried:  # nothing was validated yet, or there is no time for a test
        return tracker.finish(None if average is None else average.model, tracker.over and not interrupt.hurried)
    return _test(session, tracker, average)


LossFunction = Callable[[Batch], Losses]


def loss_function(session: Session) -> LossFunction:
    """The loss of a batch, in the session's precision; its forward pass is compiled on request, anew where the model has become a smaller one."""
    model, smoothing, scratch = session.model, session.options.label_smoothing, Scratch()
    compiled: dict[int, Callable[[Tensor, Tensor], Tensor]] = {}

    def hidden() -> Callable[[Tensor, Tensor], Tensor]:
        thinnings = len(session.scheduler.recipes)
        if thinnings not in compiled:
            if compiled:
                torch.compiler.reset()
            compiled[thinnings] = torch.compile(model.hidden) if session.options.compile else model.hidden
        return compiled[thinnings]

    def loss(batch: Batch) -> Losses:
        with autocast(session.device, session.amp):
            return translation_loss(model, batch, smoothing, scratch, hidden())

    return loss


def add_gradients(session: Session, batches: Sequence[Batch], loss_of: LossFunction) -> tuple[Tensor, int]:
    """The gradients of the mean loss over the target tokens of all batches, and penalties once; gives sums of losses and how many tokens.

    The sums are ``[2]``: with label smoothing, and without.
    """
    every = torch.stack([(batch.target_out != PAD).sum() for batch in batches]).sum()
    sums, tokens = torch.zeros(2, device=session.device), 0
    for place, batch in enumerate(batches, 1):
        losses = loss_of(batch)
        loss = losses.total / every
        if place == len(batches):
            loss = session.scheduler.loss(loss)
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        sums += torch.stack([losses.total.detach(), losses.nll.detach()])
        tokens += losses.tokens
    return sums, tokens


def _report(session: Session, folder: Path, tracker: Tracker) -> None:
    """Write down of every parameter whether it was pruned, why, and how far; and show it of the pruned ones and of all matrices."""
    if len(session.scheduler.masks):
        rows = report(session.model, session.scheduler, session.chosen)
        table = pruning_table(rows)
        save_table(table, folder / REPORT)
        shown = tuple(row for row in rows if row.pruned or (row.shape is not None and len(row.shape) > 1))
        columns = tuple(column for column in table.columns if column.field != "neurst")
        rest = f"Biases and norms, {len(rows) - len(shown)} parameters that were not pruned: {folder / REPORT}"
        tracker.recorder.tell(to_text(replace(table, columns=columns, rows=shown, notes=(*table.notes, rest))))


def _test(session: Session, tracker: Tracker, average: Trained) -> dict[str, Any]:
    """Test the average."""
    model, corpus, vocabularies = average.model, session.corpus, session.vocabularies
    for name, pairs in corpus.tests.items():
        tracker.progress.begin(name, total=len(pairs), done=0)
        examples = examples_of(pairs, vocabularies)
        found = validate(model, examples, pairs.target, vocabularies.target, corpus.target, decoding(session), tracker.progress)
        session.tested[name] = found
        tracker.evaluated(name, found, model, of_steps(average.checkpoint.state["averaged"]))
    return tracker.finish(model, tracker.over)
