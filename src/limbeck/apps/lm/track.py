"""What a language-model run tells of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from limbeck.apps.lm.session import APPLICATION, Session
from limbeck.apps.log import perplexity
from limbeck.apps.record import Reports, Running
from limbeck.apps.track import by_epoch


def measures(loss: float) -> dict[str, float]:
    """A loss in nats a word, and its perplexity."""
    return {"loss": loss, "perplexity": perplexity(loss)}


def _measured(running: Running) -> dict[str, float]:
    return measures(running.totals[0] / running.steps)


def _about(session: Session, model: nn.Module) -> dict[str, Any]:
    options = session.options
    shape = {key: getattr(options, key) for key in ("emsize", "nhid", "nlayers", "tied", "dropout")}
    return {"type": options.type, "model": {"cell": options.model, **shape, "vocabulary": len(session.corpus.words)}}


def _results(session: Session, tested: Mapping[str, float] | None) -> dict[str, Any]:
    best = session.best
    return {
        "validation_perplexity": perplexity(best.measure) if best.epoch >= 0 else None,
        "test_perplexity": None if tested is None else tested["perplexity"],
        **by_epoch(session),
    }


REPORTS = Reports(APPLICATION, "tokens_per_second", _measured, _about, _results)
