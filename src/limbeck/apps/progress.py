"""The progress of a long job: a live bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from limbeck.apps.log import Values, describe

REFRESH_SECONDS = 0.5
SILENCE_SECONDS = 30.0
"""Off a terminal, a job that has printed nothing for so long says how far it has come."""


class Progress:
    """Counts steps and shows the newest numbers.

    On a terminal it is a bar with the numbers below it; anywhere else each ``show`` prints a line, without control codes, and so does every half minute
    of silence.
    ``advance`` costs a clock reading: it may be called at every step. The bar is drawn in the caller's thread, at most twice a
    second, so nothing runs beside the training.

    >>> import sys
    >>> with Progress(100, "epoch 1/40", console=Console(file=sys.stdout)) as progress:
    ...     progress.advance(50)
    ...     progress.show({"loss": 4.6052, "perplexity": 100.0, "sparsity": 0.8})
    epoch 1/40, 50/100: loss 4.605, perplexity 100.00, sparsity 80.00%
    """

    def __init__(self, total: int, description: str = "", *, done: int = 0, console: Console | None = None) -> None:
        self._console = Console(stderr=True) if console is None else console
        self._total, self._done, self._description, self._numbers = total, done, description, ""
        self._drawn, self._said = 0.0, time.monotonic()
        self._live: Live | None = None
        if self._console.is_interactive and self._console.file.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Bar(*columns, console=self._console, auto_refresh=False)
            self._task = self._bar.add_task(description, total=total, completed=done)
            self._live = Live(console=self._console, auto_refresh=False, get_renderable=self._picture)

    @property
    def description(self) -> str:
        """The part that is counted now."""
        return self._description

    def begin(self, description: str, total: int | None = None, done: int | None = None) -> None:
        """Name the part that comes now, an epoch say; with ``total`` or ``done``, count anew."""
        if total is not None:
            self._numbers = ""
        self._description = description
        self._total = self._total if total is None else total
        self._done = self._done if done is None else done
        self._draw()

    def advance(self, steps: int = 1) -> None:
        """Count steps."""
        self._done += steps
        now = time.monotonic()
        if self._live is None:
            if now - self._said > SILENCE_SECONDS:
                self.say(self._place())
        elif now - self._drawn > REFRESH_SECONDS:
            self._draw()

    def show(self, values: Values) -> None:
        """Show these numbers from now on; off a terminal, print them."""
        self._numbers = describe(values)
        if self._live is None:
            self.say(f"{self._place()}: {self._numbers}")
        else:
            self._draw()

    def _place(self) -> str:
        return ", ".join(part for part in (self._description, f"{self._done}/{self._total}") if part)

    def say(self, text: str) -> None:
        """Print a message, above the bar if there is one."""
        self._said = time.monotonic()
        if self._live is None:
            self._console.file.write(f"{text}\n")
            self._console.file.flush()
        else:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _draw(self) -> None:
        if self._live is not None:
            self._drawn = time.monotonic()
            self._bar.update(self._task, description=self._description, total=self._total, completed=self._done)
            self._live.refresh()

    def _picture(self) -> Group:
        return Group(self._bar, Text(self._numbers, no_wrap=True, overflow="ellipsis"))

    def __enter__(self) -> Progress:
        """Start to draw."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Draw a last time and leave the terminal as it was."""
        if self._live is not None:
            self._draw()
            self._live.stop()
