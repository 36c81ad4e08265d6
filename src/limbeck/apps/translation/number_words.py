"""The embedded task: lists of numbers in words, English and German, such as ``forty-two, seven hundred and three thousand``.

It is small, needs no download, and is no mere copying: German puts ones before tens (``zweiundvierzig``) and writes a number as one word.
"""

from __future__ import annotations

import random

LANGUAGES = ("en", "de")
LARGEST = 9999
PARTS = {"train": 6000, "valid": 200, "test": 200}
"""How many lists each part has."""
HELD_OUT = 1000
"""So many numbers above a hundred are in lists of validation and test alone, half in each: no list there can be known by heart."""
SEED = 1803

ENGLISH, GERMAN = (
    words.split()
    for words in (
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen",
        "null ein zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn siebzehn achtzehn neunzehn",
    )
)
ENGLISH_TENS, GERMAN_TENS = (
    words.split()
    for words in (
        "twenty thirty forty fifty sixty seventy eighty ninety",
        "zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig",
    )
)


def english(number: int) -> str:
    """A number from 1 to 9,999 in English words.

    >>> english(9042)
    'nine thousand forty-two'
    """
    thousands, hundreds, rest = number // 1000, number // 100 % 10, number % 100
    words = [f"{ENGLISH[digit]} {unit}" for digit, unit in ((thousands, "thousand"), (hundreds, "hundred")) if digit]
    if rest >= 20:
        words.append(ENGLISH_TENS[rest // 10 - 2] + (f"-{ENGLISH[rest % 10]}" if rest % 10 else ""))
    elif rest:
        words.append(ENGLISH[rest])
    return " ".join(words)


def german(number: int) -> str:
    """A number from 1 to 9,999 as a German word.

    >>> german(9042), german(101)
    ('neuntausendzweiundvierzig', 'einhunderteins')
    """
    thousands, hundreds, rest = number // 1000, number // 100 % 10, number % 100
    word = "".join(f"{GERMAN[digit]}{unit}" for digit, unit in ((thousands, "tausend"), (hundreds, "hundert")) if digit)
    if rest >= 20:
        return word + (f"{GERMAN[rest % 10]}und" if rest % 10 else "") + GERMAN_TENS[rest // 10 - 2]
    return word + ("eins" if rest == 1 else GERMAN[rest] if rest else "")


def number_lists() -> dict[str, dict[str, tuple[str, ...]]]:
    """The lists of each part in each language, place by place: always the same ones.

    >>> lists = number_lists()["test"]
    >>> lists["en"][0], lists["de"][0]
    ('...', '...')
    """
    chance = random.Random(SEED)
    numbers = [*range(1, LARGEST + 1)]
    rare = sorted(numbers[100:], key=lambda _: chance.random())[:HELD_OUT]
    pools = {"valid": rare[: HELD_OUT // 2], "test": rare[HELD_OUT // 2 :]}
    pools["train"] = sorted(set(numbers) - set(rare))
    drawn = {
        part: [[pools[part][int(chance.random() * len(pools[part]))] for _ in range(3)] for _ in range(count)]
        for part, count in PARTS.items()
    }
    return {
        part: {
            "en": tuple(_joined([english(number) for number in row], "and") for row in rows),
            "de": tuple(_joined([german(number) for number in row], "und") for row in rows),
        }
        for part, rows in drawn.items()
    }


def _joined(words: list[str], conjunction: str) -> str:
    return f"{', '.join(words[:-1])} {conjunction} {words[-1]}"
