"""Text for the translation model: what ``--data`` names, as pairs of sentences in two languages, to train on, to choose by and to test on.

``load_pairs`` takes a folder with ``train.en``, ``train.de``, ``val.en``, ``val.de`` and any ``test*.en`` with its ``test*.de``, in any two
languages, plain or as ``.gz``; or the name ``numbers``, a small task that is embedded.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from limbeck.apps.translation.number_words import LANGUAGES, number_lists
from limbeck.errors import DataError, did_you_mean

NUMBERS = "numbers"
TRAIN, TEST = "train", "test"
VALID = ("val", "valid", "dev")
"""What the split for validation may be called; the first that is there is taken."""
PACKED = ".gz"
LAYOUT = "--data takes a folder with train.en, train.de, val.en, val.de and test*.en with test*.de, in any two languages, plain or as .gz"

Files = Mapping[str, Mapping[str, Path]]
"""The file of each language, by the name before it: ``files["train"]["en"]``."""


@dataclass(frozen=True)
class Pairs:
    """Sentences and their translations, place by place.

    >>> pairs = Pairs(("a still",), ("eine Brennblase",))
    >>> len(pairs)
    1
    """

    source: tuple[str, ...]
    target: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.source)


@dataclass(frozen=True)
class Corpus:
    """Pairs to train on, to choose models by, and to test on under the names of their files; the languages are the files' suffixes."""

    source: str
    target: str
    train: Pairs
    valid: Pairs
    tests: Mapping[str, Pairs]
    notes: tuple[str, ...] = ()

    @cached_property
    def checksum(self) -> str:
        """Of all splits."""
        return checksum({TRAIN: self.train, VALID[0]: self.valid, **self.tests})


def checksum(splits: Mapping[str, Pairs]) -> str:
    """SHA-256 of all sentences, split by split, each with its length."""
    digest = hashlib.sha256()
    for name, pairs in splits.items():
        for side in (pairs.source, pairs.target):
            text = "\n".join(side).encode()
            digest.update(f"{name} {len(side)} {len(text)} ".encode() + text)
    return digest.hexdigest()


def load_pairs(data: str | Path = NUMBERS, source: str | None = None, target: str | None = None) -> Corpus:
    """The corpus that ``--data`` names, translated from ``source`` to ``target``: from English where it is one of two, else in alphabetical order.

    A pair with an empty side is left out of the training, and stays where models are measured. Tests may be missing; one that is not there in
    both languages is left out. ``notes`` says what was left out.

    >>> corpus = load_pairs("numbers", source="de", target="en")
    >>> len(corpus.train), len(corpus.valid), list(corpus.tests), len(corpus.notes)
    (6000, 200, ['test'], 0)

    Raises ``DataError`` for a name that means nothing, and for files that are missing, unequal, empty or no UTF-8 text.
    """
    if str(data) == NUMBERS:
        return _numbers(source, target)
    folder = _folder(data)
    files = _files(folder)
    if TRAIN not in files:
        raise DataError(f"{folder} has no train.* files; {LAYOUT}")
    source, target = _languages(tuple(files[TRAIN]), source, target, f"{folder} has training files")
    valid = next((name for name in VALID if {source, target} <= files.get(name, {}).keys()), None)
    if valid is None:
        raise DataError(
            f"{folder} has no val.{source} and val.{target}; add them, with some hundred pairs that are not in the training files"
        )
    train, dropped = _without_blanks(_read(files[TRAIN], source, target))
    if not len(train):
        raise DataError(f"{files[TRAIN][source]} and {files[TRAIN][target]} hold no pair of sentences to train on; put one sentence a line")
    notes = [f"{dropped:,} training pairs with an empty side are left out"] if dropped else []
    tests, left_out = _tests(files, source, target)
    return Corpus(source, target, train, _measured(files[valid], source, target), tests, (*notes, *left_out))


def load_splits(data: str | Path, source: str, target: str, split: str | None = None) -> dict[str, Pairs]:
    """One split of what ``--data`` names, or all its tests. Only their files are read, and no others need be there.

    >>> {name: len(pairs) for name, pairs in load_splits("numbers", "en", "de").items()}
    {'test': 200}

    Raises ``DataError`` where there is no such split, and as ``load_pairs`` does.
    """
    if str(data) == NUMBERS:
        corpus = _numbers(source, target)
        splits = {TRAIN: corpus.train, VALID[0]: corpus.valid, **corpus.tests}
        return {name: splits[name] for name in _wanted(split, splits)}
    there = {name: sides for name, sides in _files(_folder(data)).items() if {source, target} <= sides.keys()}
    valid = next((name for name in VALID if name in there), None)
    files = {VALID[0] if name == valid else name: sides for name, sides in there.items() if name == valid or name not in VALID}
    return {
        name: _without_blanks(_read(files[name], source, target))[0] if name == TRAIN else _measured(files[name], source, target)
        for name in _wanted(split, files)
    }


def _wanted(split: str | None, known: Iterable[str]) -> list[str]:
    """The splits that a name means, or all tests."""
    names = list(known)
    tests = [name for name in names if name.startswith(TEST)]
    if split is None and not tests:
        raise DataError("there is no test among these pairs; evaluate --split valid")
    name = VALID[0] if split in VALID else split
    if name is not None and name not in names:
        raise DataError(f"no split is named '{split}'{did_you_mean(name, names)}; there are {', '.join(names)}")
    return tests if name is None else [name]


def _folder(data: str | Path) -> Path:
    folder = Path(data).expanduser()
    if not folder.is_dir():
        raise DataError(f"no pairs at '{data}': it is neither a folder nor '{NUMBERS}'{did_you_mean(str(data), (NUMBERS,))}; {LAYOUT}")
    return folder


def _numbers(source: str | None, target: str | None) -> Corpus:
    source, target = _languages(LANGUAGES, source, target, f"'{NUMBERS}' is there")
    parts = {part: Pairs(sides[source], sides[target]) for part, sides in number_lists().items()}
    return Corpus(source, target, parts["train"], parts["valid"], {TEST: parts["test"]})


def _files(folder: Path) -> Files:
    """The files of training, validation and tests, by name and language; a plain file goes before a packed one."""
    found: dict[str, dict[str, Path]] = {}
    try:
        paths = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}") from error
    for path in paths:
        name, dot, language = path.name.removesuffix(PACKED).rpartition(".")
        if dot and language and (name in (TRAIN, *VALID) or name.startswith(TEST)):
            found.setdefault(name, {}).setdefault(language, path)
    return found


def _languages(there: Sequence[str], source: str | None, target: str | None, what: str) -> tuple[str, str]:
    """Source and target among the languages that are there.

    >>> _languages(("de", "en"), None, None, "a folder has files")
    ('en', 'de')
    >>> _languages(("cs", "de", "en"), None, "cs", "a folder has files")
    ('en', 'cs')
    """
    for option, language in (("--source", source), ("--target", target)):
        if language is not None and language not in there:
            raise DataError(f"{option} {language}: {what} in {_listed(there)}{did_you_mean(language, there)}")
    if source is not None and source == target:
        raise DataError(f"--source and --target are both {source}; name two languages of {_listed(there)}")
    rest = sorted((language for language in there if language not in (source, target)), key=lambda name: (name != "en", name))
    missing = (source is None) + (target is None)
    if len(rest) < missing:
        raise DataError(f"{what} in {_listed(there)} alone; a translation needs two languages: {LAYOUT}")
    if missing and len(rest) > missing and not (source is None and target is not None and rest[0] == "en"):
        raise DataError(f"{what} in {_listed(there)}; choose two of them with --source and --target")
    source = rest.pop(0) if source is None else source
    return source, rest[0] if target is None else target


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _tests(files: Files, source: str, target: str) -> tuple[dict[str, Pairs], list[str]]:
    """The tests that are there in both languages, by name, and a note for each that lacks one of them."""
    tests, notes = {}, []
    for name, sides in files.items():
        missing = [language for language in (source, target) if language not in sides]
        if name.startswith(TEST) and not missing:
            tests[name] = _measured(sides, source, target)
        elif name.startswith(TEST) and len(missing) == 1:
            notes.append(f"{name} is left out: {name}.{missing[0]} is missing")
    return tests, notes


def _read(sides: Mapping[str, Path], source: str, target: str) -> Pairs:
    pairs = Pairs(lines_of(sides[source]), lines_of(sides[target]))
    if len(pairs.source) != len(pairs.target):
        raise DataError(
            f"{sides[source]} has {len(pairs.source):,} lines and {sides[target]} has {len(pairs.target):,}; "
            "line by line the one must be the translation of the other"
        )
    return pairs


def _measured(sides: Mapping[str, Path], source: str, target: str) -> Pairs:
    """A split to measure on, which is not empty."""
    pairs = _read(sides, source, target)
    if not pairs.source:
        raise DataError(f"{sides[source]} and {sides[target]} are empty; fill them or take them away")
    return pairs


def lines_of(path: Path) -> tuple[str, ...]:
    """The lines of a text file, plain or packed, without white space at their ends; only line feeds end a line.

    Raises ``DataError`` for a file that cannot be read, is damaged, or is not UTF-8.
    """
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if path.name.endswith(PACKED) else raw
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise DataError(f"{path} is damaged or not packed by gzip; copy it again, or unpack it and take the plain file") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    return decoded(raw, str(path))


def decoded(raw: bytes, name: str) -> tuple[str, ...]:
    r"""The lines of UTF-8 text, as ``lines_of`` gives them.

    >>> decoded("a\u2028b \n\nc\n".encode(), "text")
    ('a\u2028b', '', 'c')

    Raises ``DataError`` for what is not UTF-8.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"{name} is not UTF-8 text (line {line}, byte {error.start}); convert it, with iconv for one") from None
    return tuple(line.strip() for line in text.removesuffix("\n").split("\n")) if text else ()


def _without_blanks(pairs: Pairs) -> tuple[Pairs, int]:
    """The pairs of which neither side is empty, and how many were left out.

    >>> _without_blanks(Pairs(("a", "", "c"), ("x", "y", "")))
    (Pairs(source=('a',), target=('x',)), 2)
    """
    kept = [(one, other) for one, other in zip(pairs.source, pairs.target, strict=True) if one and other]
    return Pairs(tuple(one for one, _ in kept), tuple(other for _, other in kept)), len(pairs) - len(kept)
