from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from limbeck.errors import QuantizationError
from limbeck.quantization.search import Step, best_start, greedy
from limbeck.quantization.trials import Found, Trials

CHOICES = dict.fromkeys("abcd", (0, 1, 2))
START = dict.fromkeys(CHOICES, 0)
GOAL = {"a": 2, "b": 1, "c": 2, "d": 0}


def off(setting: Mapping[str, int]) -> float:
    return float(sum(abs(setting[name] - goal) for name, goal in GOAL.items()))


def search(trials: Trials) -> Found[int]:
    def steps() -> object:
        *_, start = best_start([START], trials)
        yield from greedy(CHOICES, trials, start)

    return trials.run(steps())  # type: ignore[arg-type]


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_search_that_is_cut_off_anywhere_goes_on_from_its_log_to_the_same_end(cut: int, tmp_path: Path) -> None:
    whole = search(Trials(off))
    log = tmp_path / "search.jsonl"
    part = search(Trials(off, budget=cut, log=log))
    assert not part.finished
    assert part.evaluations == cut
    asked = []

    def counted(setting: Mapping[str, int]) -> float:
        asked.append(setting)
        return off(setting)

    assert search(Trials(counted, log=log)) == whole
    assert whole.finished
    assert len(asked) == whole.evaluations - cut
    asked.clear()
    assert search(Trials(counted, log=log)) == whole
    assert not asked


def test_a_line_that_was_cut_off_does_not_count(tmp_path: Path) -> None:
    log = tmp_path / "search.jsonl"
    search(Trials(off, log=log))
    text = log.read_text()
    log.write_text(text[:-7])
    trials = Trials(off, log=log)
    assert trials.made == text.count("\n") - 2
    search(trials)
    assert log.read_text() == text


def test_a_loss_without_end_is_written_and_read(tmp_path: Path) -> None:
    log = tmp_path / "search.jsonl"
    assert Trials(lambda setting: math.inf, log=log)({"a": 1}) == math.inf
    assert json.loads(log.read_text().splitlines()[1])["loss"] is None
    assert Trials(off, log=log)({"a": 1}) == math.inf


def test_each_new_trial_is_told(tmp_path: Path) -> None:
    told: list[tuple[object, float]] = []
    trials = Trials(lambda setting: 2.0, log=tmp_path / "new" / "search.jsonl", tell=lambda setting, loss: told.append((setting, loss)))
    trials({"a": 1})
    trials({"a": 1})
    assert told == [({"a": 1}, 2.0)]
    steps: list[Step[int]] = []
    trials.run([Step({"a": 1}, 2.0)], steps.append)
    assert steps == [Step({"a": 1}, 2.0)]


def test_another_search_is_refused_with_what_differs(tmp_path: Path) -> None:
    log = tmp_path / "search.jsonl"
    Trials(off, log=log, about={"model": "small", "tokens": 500})
    Trials(off, log=log, about={"model": "small", "tokens": 500})
    with pytest.raises(QuantizationError, match="was begun with tokens 500, not 600; give the same to go on with it, or another folder"):
        Trials(off, log=log, about={"model": "small", "tokens": 600})
    nested = tmp_path / "nested.jsonl"
    Trials(off, log=nested, about={"quantizer": {"mode": "symmetric", "bits": 8}})
    with pytest.raises(QuantizationError, match=r"begun with quantizer.bits 8, not 4; give"):
        Trials(off, log=nested, about={"quantizer": {"mode": "symmetric", "bits": 4}})


@pytest.mark.parametrize("text", ["loss,setting\n", '{"search": {}}\n{"loss": 1}\n', '{"search": {}}\nnothing\n', "[]\n"])
def test_what_is_no_log_is_named(text: str, tmp_path: Path) -> None:
    log = tmp_path / "search.jsonl"
    log.write_text(text)
    with pytest.raises(QuantizationError, match=r"search\.jsonl, line \d: .* take the line out"):
        Trials(off, log=log)


def test_a_budget_that_reaches_nowhere_is_an_error() -> None:
    with pytest.raises(QuantizationError, match="a budget of 0 evaluations does not even reach"):
        search(Trials(off, budget=0))
