"""Training and evaluation of an image classifier: the loop, visible as a loop."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck.apps.checkpoint import load_checkpoint
from limbeck.apps.images.batches import Batch
from limbeck.apps.images.network import hits, logits_of, loss_of
from limbeck.apps.images.session import Session, trained
from limbeck.apps.images.track import REPORTS, measures
from limbeck.apps.log import RunLog
from limbeck.apps.loop import Interrupt
from limbeck.apps.progress import Progress
from limbeck.apps.record import Running
from limbeck.apps.run import autocast
from limbeck.apps.track import Tracker


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[Batch], amp: bool = False, progress: Progress | None = None) -> dict[str, float]:
    """Loss (nats), top-1 and top-5 (percent) of a whole split, each image counted alike; of early exits the last. ``progress`` counts batches."""
    was_training = model.training
    model.eval()
    sums, seen = torch.zeros(3, dtype=torch.float64), 0
    for images, labels in batches:
        with autocast(images.device, amp):
            logits = logits_of(model(images))[-1].float()
        sums += torch.stack([loss_of((logits,), labels).double() * len(labels), *hits(logits, labels).double()]).cpu()
        seen += len(labels)
        if progress is not None:
            progress.advance()
    model.train(was_training)
    loss, top1, top5 = sums.tolist()
    return measures(Running((loss, top1, top5), steps=seen, items=seen))


def train(session: Session, folder: Path, log: RunLog, progress: Progress) -> dict[str, Any]:
    """Train to the last epoch or to Ctrl-C, keep ``last`` and ``best`` in the run folder, test the best model; gives ``run.json``'s record."""
    options, scheduler, optimizer = session.options, session.scheduler, session.optimizer
    session.model.train()
    with Interrupt() as interrupt:
        tracker = Tracker(REPORTS, session, folder, log, progress, interrupt)
        tracker.record()
        for epoch in scheduler.epochs(options.epochs, after=tracker.after_epoch):
            if tracker.stopped:
                break
            tracker.begin_epoch(epoch)
            for images, labels in scheduler.steps(session.train.epoch(epoch), after=tracker.after_step):
                if tracker.stopped:
                    break
                with autocast(session.device, session.amp):
                    logits = session.forward(images)
                    loss = loss_of(logits, labels, options.label_smoothing)
                total = scheduler.loss(loss)
                optimizer.zero_grad()
                total.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
                optimizer.step()
                tracker.count(torch.stack([loss.detach(), *hits(logits[-1].detach(), labels)]), len(labels))
            if tracker.stopped:
                break
            _validate(session, epoch, tracker)
    finished = scheduler.clock.epoch >= options.epochs
    return tracker.record() if interrupt.hurried and not finished else _test_best(session, folder, tracker, finished)


def _validate(session: Session, epoch: int, tracker: Tracker[Session]) -> None:
    """Evaluate what was held out, by which models are chosen; where nothing was, the test, by which none is."""
    batches, split = (session.test, "test") if session.valid is None else (session.valid, "validation")
    began = time.monotonic()
    tracker.progress.begin(f"epoch {epoch + 1}/{session.options.epochs}, {split}", total=len(batches), done=0)
    found = evaluate(session.model, batches, session.amp, tracker.progress)
    rate = len(batches.split) / (time.monotonic() - began)
    tracker.end_epoch(epoch, split, found, rate, None if session.valid is None else -found["top1"])
    if session.valid is not None:
        session.scheduler.metrics(loss=found["loss"], top1=found["top1"])


def _test_best(session: Session, folder: Path, tracker: Tracker[Session], finished: bool) -> dict[str, Any]:
    """Test the best model by validation; before the first validation there is only the ``last``, without masks of the step that was not taken."""
    model = session.model
    if session.best.epoch >= 0 or tracker.stopped:
        model = trained(load_checkpoint(folder / ("best" if session.best.epoch >= 0 else "last")), session.device).model
    tracker.progress.begin("test", total=len(session.test), done=0)
    return tracker.finish(model, evaluate(model, session.test, session.amp, tracker.progress), finished)
