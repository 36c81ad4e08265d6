"""What a run of an image classifier tells of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from limbeck.apps.images.measured import macs_of
from limbeck.apps.images.session import APPLICATION, Session
from limbeck.apps.log import metric_columns
from limbeck.apps.record import Reports, Running
from limbeck.apps.track import by_epoch

COLUMNS = metric_columns(["top1", "top5"], "images_per_second")
"""``top1`` and ``top5`` in percent."""


def measures(running: Running) -> dict[str, float]:
    """Mean loss over steps (nats), and the percentage of images whose label is at the top, or among the five highest.

    >>> measures(Running((6.0, 3.0, 4.0), steps=2, items=4))
    {'loss': 3.0, 'top1': 75.0, 'top5': 100.0}
    """
    loss, top1, top5 = running.totals
    return {"loss": loss / running.steps, "top1": 100 * top1 / running.items, "top5": 100 * top5 / running.items}


def _about(session: Session, model: nn.Module) -> dict[str, Any]:
    options, shape = session.options, session.images.shape
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if parameters not in session.macs:
        session.macs[parameters] = macs_of(model, shape)
    return {
        "type": options.model,
        "model": {"name": options.model, "classes": len(session.images.classes), "shape": list(shape)},
        "parameters": parameters,
        "macs": session.macs[parameters],
        "thinnings": len(session.scheduler.recipes),
    }


def _results(session: Session, tested: Mapping[str, float] | None) -> dict[str, Any]:
    best = session.best
    validated = best.epoch >= 0 and best.measure != float("-inf")
    return {
        "validation_top1": -best.measure if validated else None,
        **{f"test_{name}": None if tested is None else tested[name] for name in ("top1", "top5", "loss")},
        **by_epoch(session),
    }


REPORTS = Reports(APPLICATION, "images_per_second", measures, _about, _results)
