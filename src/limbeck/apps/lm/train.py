"""Training and evaluation of the word language model: the loop, visible as a loop."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from limbeck.apps.lm.data import Batches
from limbeck.apps.lm.model import RNNModel, detach
from limbeck.apps.lm.session import Session, load_trained, loss_function
from limbeck.apps.lm.track import REPORTS, measures
from limbeck.apps.log import RunLog
from limbeck.apps.loop import Interrupt
from limbeck.apps.progress import Progress
from limbeck.apps.run import autocast
from limbeck.apps.track import Tracker


@torch.no_grad()
def evaluate(model: RNNModel, batches: Batches, amp: bool = False, progress: Progress | None = None) -> float:
    """Mean cross entropy a word over a whole split, nats; the hidden state runs through, dropout is off. ``progress`` counts batches."""
    was_training = model.training
    model.eval()
    hidden = model.initial_hidden(batches.data.shape[1])
    total = 0.0
    for words, target in batches:
        with autocast(words.device, amp):
            loss, hidden = model.loss(words, target, hidden)
        total += len(words) * loss.item()
        if progress is not None:
            progress.advance()
    model.train(was_training)
    return total / (len(batches.data) - 1)


def train(session: Session, folder: Path, log: RunLog, progress: Progress) -> dict[str, Any]:
    """Train to the last epoch or to Ctrl-C, keep ``last`` and ``best`` in the run folder, test the best model; gives ``run.json``'s record."""
    options, scheduler, model, optimizer = session.options, session.scheduler, session.model, session.optimizer
    loss_of = loss_function(model, options.compile)
    model.train()
    with Interrupt() as interrupt:
        tracker = Tracker(REPORTS, session, folder, log, progress, interrupt)
        tracker.record()
        for epoch in scheduler.epochs(options.epochs, after=tracker.after_epoch):
            if tracker.stopped:
                break
            tracker.begin_epoch(epoch)
            hidden = session.hidden if session.hidden is not None else model.initial_hidden(options.batch_size)
            for words, target in scheduler.steps(session.train, after=tracker.after_step):
                if tracker.stopped:
                    break
                with autocast(session.device, session.amp):
                    loss, hidden = loss_of(words, target, model.fitting(hidden))
                total = scheduler.loss(loss)
                optimizer.zero_grad()
                total.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
                torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip)
                optimizer.step()
                session.hidden = hidden = detach(hidden)
                tracker.count(loss, len(target))
            if tracker.stopped:
                break
            began = time.monotonic()
            progress.begin(f"epoch {epoch + 1}/{options.epochs}, validation", total=len(session.valid), done=0)
            valid_loss = evaluate(model, session.valid, session.amp, progress)
            scheduler.metrics(loss=valid_loss)
            rate = session.valid.data.numel() / (time.monotonic() - began)
            tracker.end_epoch(epoch, "validation", measures(valid_loss), rate, valid_loss)
            session.hidden = None
    finished = scheduler.clock.epoch >= options.epochs
    return tracker.record() if interrupt.hurried and not finished else _test_best(session, folder, tracker, finished)


def _test_best(session: Session, folder: Path, tracker: Tracker[Session], finished: bool) -> dict[str, Any]:
    """Test the best model by validation; before the first validation there is only the ``last``, without masks of the step that was not taken."""
    model = session.model
    if session.best.epoch >= 0 or tracker.stopped:
        model, *_ = load_trained(folder / ("best" if session.best.epoch >= 0 else "last"), session.device)
    tracker.progress.begin("test", total=len(session.test), done=0)
    test_loss = evaluate(model, session.test, session.amp, tracker.progress)
    return tracker.finish(model, measures(test_loss), finished)
