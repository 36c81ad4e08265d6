"""``limbeck lm compare``: runs side by side."""

from __future__ import annotations

from pathlib import Path

from limbeck.cli._compare import Out, Runs, show_comparison
from limbeck.cli._options import Json


def compare(runs: Runs, out: Out = Path("comparison"), json: Json = False) -> None:
    """Compare runs: a table of sizes and perplexities, and three figures."""
    from limbeck.apps.lm import compare as comparison

    show_comparison(comparison.compare(runs, out), json)
