"""What a search has tried: each evaluation is made once, counted against a budget, and written to a log from which a search that was cut off goes on.

The log is a file of JSON lines. The first holds what is searched, and every other one a setting and its loss. A search asks the same questions in the same
order, so going on is running it again: what the log knows is not evaluated a second time.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from limbeck.errors import QuantizationError
from limbeck.quantization.search import Step

T = TypeVar("T")


class Spent(Exception):  # noqa: N818  # no error: it ends a search
    """The budget of evaluations is spent."""


@dataclass(frozen=True)
class Found(Generic[T]):
    """Where a search ended: the best step, how many evaluations it took, those of the log included, and whether it came to its own end."""

    best: Step[T]
    evaluations: int
    finished: bool


class Trials:
    """An evaluation that remembers: call it with what is tried, a mapping that JSON can hold, and it gives the loss.

    ``budget`` is how many different settings may be tried in all; ``log`` is the file that they are written to and read from; ``about`` is what two searches
    must share to go on with one log; ``tell`` is called after each new trial with its setting and loss.

    >>> trials = Trials(lambda setting: float(len(setting)), budget=1)
    >>> trials({"a": 1}), trials({"a": 1}), trials.made
    (1.0, 1.0, 1)
    >>> trials({"b": 1})
    Traceback (most recent call last):
    limbeck.quantization.trials.Spent: all 1 evaluations are spent

    Raises ``QuantizationError`` for a log of another search, and for one that is damaged.
    """

    def __init__(
        self,
        evaluate: Callable[[Mapping[str, Any]], float],
        budget: int | None = None,
        log: Path | None = None,
        about: Mapping[str, Any] | None = None,
        tell: Callable[[Mapping[str, Any], float], None] | None = None,
    ) -> None:
        self._evaluate, self._budget, self._log, self._tell = evaluate, budget, log, tell
        self._known: dict[str, float] = {}
        if log is not None:
            self._known = _opened(log, {"search": dict(about or {})})

    @property
    def made(self) -> int:
        """How many settings were tried, those of the log included."""
        return len(self._known)

    def __call__(self, setting: Mapping[str, Any]) -> float:
        """The loss of a setting; raises ``Spent`` when it is a new one and the budget is spent."""
        key = _key(setting)
        if key in self._known:
            return self._known[key]
        if self._budget is not None and self.made >= self._budget:
            raise Spent(f"all {self._budget} evaluations are spent")
        loss = float(self._evaluate(setting))
        self._known[key] = loss
        if self._log is not None:
            _append(self._log, {"loss": loss if math.isfinite(loss) else None, "setting": dict(setting)})
        if self._tell is not None:
            self._tell(setting, loss)
        return loss

    def run(self, steps: Iterable[Step[T]], tell: Callable[[Step[T]], None] | None = None) -> Found[T]:
        """The last step of a search that evaluates with this, whether it comes to its end or the budget does; ``tell`` is called with each step.

        Raises ``QuantizationError`` when the budget does not reach to a first step.
        """
        best: Step[T] | None = None
        finished = True
        try:
            for step in steps:
                best = step
                if tell is not None:
                    tell(step)
        except Spent:
            finished = False
        if best is None:
            raise QuantizationError(f"a budget of {self._budget} evaluations does not even reach to the search's start; give more")
        return Found(best, self.made, finished)


def _key(setting: Mapping[str, Any]) -> str:
    return json.dumps(setting, sort_keys=True, separators=(",", ":"))


def _opened(log: Path, head: Mapping[str, Any]) -> dict[str, float]:
    """The losses that a log knows; a new log begins with ``head``. A last line that was cut off goes."""
    try:
        text = log.read_text(encoding="utf-8") if log.exists() else ""
    except OSError as error:
        raise QuantizationError(f"{log} cannot be read: {error.strerror}; name another file") from error
    whole = text[: text.rfind("\n") + 1].splitlines()
    if not whole:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(json.dumps(head) + "\n", encoding="utf-8")
        return {}
    first, *trials = [_line(log, number, line) for number, line in enumerate(whole, 1)]
    other = differences(first["search"], json.loads(json.dumps(head))["search"])
    if other:
        raise QuantizationError(f"{log} was begun with {'; '.join(other)}; give the same to go on with it, or another folder")
    if len(text) > text.rfind("\n") + 1:
        log.write_text("".join(f"{line}\n" for line in whole), encoding="utf-8")
    return {_key(trial["setting"]): math.inf if trial["loss"] is None else float(trial["loss"]) for trial in trials}


def differences(held: Mapping[str, Any], wanted: Mapping[str, Any], place: str = "") -> list[str]:
    """Where two trees of plain data are not the same, a text each.

    >>> differences({"quantizer": {"mode": "symmetric", "bits": 8}, "words": 500}, {"quantizer": {"mode": "symmetric", "bits": 4}})
    ['quantizer.bits 8, not 4', 'words 500, not None']
    """
    found = []
    for name in {**held, **wanted}:
        one, other = held.get(name), wanted.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += differences(one, other, f"{place}{name}.")
        elif one != other:
            found.append(f"{place}{name} {one!r}, not {other!r}")
    return found


def _line(log: Path, number: int, line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
        if isinstance(found, dict) and (found.keys() == {"search"} if number == 1 else found.keys() == {"loss", "setting"}):
            return found
    except ValueError:
        pass
    raise QuantizationError(f"{log}, line {number}: '{line[:60]}' is nothing that a search has written; take the line out")


def _append(log: Path, trial: Mapping[str, Any]) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps(trial) + "\n")
        file.flush()
        os.fsync(file.fileno())
