from __future__ import annotations

import re

import pytest

from limbeck.apps.translation.number_words import HELD_OUT, LARGEST, PARTS, english, german, number_lists

WORDS = {  # Duden and Oxford, by hand
    1: ("one", "eins"),
    16: ("sixteen", "sechzehn"),
    17: ("seventeen", "siebzehn"),
    21: ("twenty-one", "einundzwanzig"),
    30: ("thirty", "dreißig"),
    66: ("sixty-six", "sechsundsechzig"),
    77: ("seventy-seven", "siebenundsiebzig"),
    100: ("one hundred", "einhundert"),
    101: ("one hundred one", "einhunderteins"),
    1001: ("one thousand one", "eintausendeins"),
    2040: ("two thousand forty", "zweitausendvierzig"),
    9999: ("nine thousand nine hundred ninety-nine", "neuntausendneunhundertneunundneunzig"),
}


@pytest.mark.parametrize("number", WORDS)
def test_numbers_are_spelled_as_people_do(number: int) -> None:
    assert (english(number), german(number)) == WORDS[number]


def test_no_two_numbers_share_their_words() -> None:
    numbers = range(1, LARGEST + 1)
    assert len({english(number) for number in numbers}) == len({german(number) for number in numbers}) == LARGEST
    assert all(german(number)[0].isalpha() and " " not in german(number) for number in numbers)


def test_the_lists_are_always_the_same_and_as_long_as_they_should_be() -> None:
    lists = number_lists()
    assert lists == number_lists()
    assert {part: len(sides["en"]) for part, sides in lists.items()} == PARTS
    words = {language: {spell(number): number for number in range(1, LARGEST + 1)} for language, spell in (("en", english), ("de", german))}
    for sides in lists.values():
        for one, other in zip(sides["en"], sides["de"], strict=True):
            assert read(one, words["en"]) == read(other, words["de"])


def test_no_number_of_validation_or_test_is_in_another_part() -> None:
    words = {english(number): number for number in range(1, LARGEST + 1)}
    seen = {part: {number for line in sides["en"] for number in read(line, words)} for part, sides in number_lists().items()}
    assert not seen["train"] & seen["valid"]
    assert not seen["train"] & seen["test"]
    assert not seen["valid"] & seen["test"]
    assert len(seen["valid"] | seen["test"]) <= HELD_OUT
    assert {1, 21, 99} <= seen["train"]


def read(line: str, words: dict[str, int]) -> list[int]:
    return [words[word] for word in re.split(", | and | und ", line)]
