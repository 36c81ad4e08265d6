"""The best snapshots of a run against sorting all that were ever seen."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.apps.best import Ranked, Ranking

SCORES = st.lists(st.floats(0, 40, width=16) | st.just(math.nan), max_size=12)


def ranking_of(scores: list[float], most: int) -> Ranking:
    ranking = Ranking(most)
    for step, score in enumerate(scores):
        ranking = ranking.add(score, step)
    return ranking


@settings(max_examples=50)
@given(scores=SCORES, most=st.integers(1, 5))
def test_it_holds_the_best_of_all_that_were_seen(scores: list[float], most: int) -> None:
    ordered = sorted(range(len(scores)), key=lambda step: (not math.isnan(scores[step]), scores[step], step), reverse=True)
    by_hand = sorted((step for step in ordered if not math.isnan(scores[step])), key=lambda step: (scores[step], step), reverse=True)
    by_hand += sorted((step for step in ordered if math.isnan(scores[step])), reverse=True)
    assert ranking_of(scores, most).steps == tuple(by_hand[:most])


@settings(max_examples=50)
@given(scores=SCORES, most=st.integers(1, 5), cut=st.integers(0, 12))
def test_a_resumed_run_goes_on_from_what_was_saved(scores: list[float], most: int, cut: int) -> None:
    saved = json.loads(json.dumps(ranking_of(scores[:cut], most).state))
    ranking = Ranking(most).restored(saved)
    for step, score in enumerate(scores[cut:], len(scores[:cut])):
        ranking = ranking.add(score, step)
    assert ranking.steps == ranking_of(scores, most).steps


def test_of_equal_scores_the_newer_is_the_better() -> None:
    ranking = Ranking(2).add(30.0, 1).add(30.0, 2).add(30.0, 3)
    assert ranking.steps == (3, 2)


def test_a_denser_model_s_score_says_nothing_of_a_sparser_one() -> None:
    ranking = Ranking(3).add(36.0, 100, kept=900).add(35.0, 200, kept=900).add(20.0, 300, kept=500)
    assert ranking.entries == (Ranked(20.0, 300, 500),)


def test_a_step_that_is_measured_again_is_there_once() -> None:
    assert Ranking(3).add(36.0, 100).add(35.0, 100).entries == (Ranked(35.0, 100),)


def test_none_is_no_number_of_snapshots() -> None:
    with pytest.raises(ValueError, match="keep 1 or more"):
        Ranking(0)


def test_there_is_no_best_before_the_first() -> None:
    assert Ranking(2).best is None
