"""The embedded corpus: the documentation strings of the running Python's own standard library, and its language reference in ``pydoc_data``.

Nothing is downloaded, imported from the library or written down: its source files are parsed. One Python version gives one corpus, of about
450,000 tokens and 5,600 words.
"""

from __future__ import annotations

import ast
import os
import re
import sysconfig
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path

from limbeck.errors import DataError

UNKNOWN = "<unk>"
RAREST = 3
"""A word that the training part holds less often than this is ``<unk>``."""

LEAST_WORDS = 50_000
"""A Python that was stripped of its sources or docstrings has less text than this, and no corpus."""

SKIPPED_FOLDERS = frozenset(
    {
        "__pycache__",
        "dist-packages",
        "encodings",
        "ensurepip",
        "idlelib",
        "lib2to3",
        "pydoc_data",
        "site-packages",
        "test",
        "tests",
        "turtledemo",
    }
)
SKIPPED_FILES = frozenset({"sitecustomize.py", "usercustomize.py"})
WORD = re.compile(r"\w+|([^\w\s])\1*")
PARAGRAPH = re.compile(r"\n\s*\n")
PARTS = {0: "valid", 1: "test"}
"""Of twenty documents one is for validation and one for the test, by a checksum of the name; all others are for training."""


def docs_texts(library: Path | None = None, topics: Mapping[str, str] | None = None) -> dict[str, str]:
    """The corpus as three texts, ``train``, ``valid`` and ``test``: lower case, tokens separated by blanks, one paragraph a line.

    ``library`` and ``topics`` replace the running Python's own standard library and ``pydoc_data``.

    Raises ``DataError`` when there is too little text.
    """
    documents = {name: list(_lines(texts)) for name, texts in _documents(library or Path(sysconfig.get_path("stdlib")), topics)}
    parts: dict[str, list[list[str]]] = {"train": [], "valid": [], "test": []}
    for name, lines in documents.items():
        parts[part_of(name)] += lines
    if (words := sum(len(line) for lines in parts.values() for line in lines)) < LEAST_WORDS or not all(parts.values()):
        raise DataError(
            f"this Python's standard library holds only {words:,} words of documentation, too few for the corpus 'docs' ({LEAST_WORDS:,}): its "
            "source files may have been left out; give --data a folder with train.txt, valid.txt and test.txt, or another Python"
        )
    counts = Counter(word for line in parts["train"] for word in line)
    known = {word for word, count in counts.items() if count >= RAREST}
    return {part: "".join(_render(line, known) for line in lines) for part, lines in parts.items()}


def part_of(name: str) -> str:
    """Which part of the corpus a document belongs to; a function of its name alone.

    >>> part_of("argparse.py"), part_of("ast.py")
    ('train', 'train')
    """
    return PARTS.get(zlib.crc32(name.encode()) % 20, "train")


def tokenize(text: str) -> list[str]:
    """Words and punctuation in lower case; a run of one mark is one token.

    >>> tokenize("Return a *new* list -- or raise ValueError...")
    ['return', 'a', '*', 'new', '*', 'list', '--', 'or', 'raise', 'valueerror', '...']
    """
    return [match.group() for match in WORD.finditer(text.lower())]


def docstrings(source: bytes) -> list[str]:
    r"""The documentation strings of a module's source, in order; none where it cannot be parsed.

    >>> docstrings(b'"About."\nclass C:\n    def f(self): "Do it."\n')
    ['About.', 'Do it.']
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a library file may hold an escape that a newer Python dislikes
        try:
            return list(_walk(ast.parse(source)))
        except (SyntaxError, ValueError, RecursionError):
            return []


def _walk(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (text := ast.get_docstring(node)):
        yield text
    for child in getattr(node, "body", ()):
        yield from _walk(child)


def _documents(library: Path, topics: Mapping[str, str] | None) -> Iterator[tuple[str, list[str]]]:
    """Name and new texts of every document: a text that an earlier document holds word for word is left out."""
    seen: set[str] = set()
    for name, texts in _everything(library, topics):
        fresh = [text for text in dict.fromkeys(texts) if text not in seen]
        seen.update(fresh)
        yield name, fresh


def _everything(library: Path, topics: Mapping[str, str] | None) -> Iterator[tuple[str, list[str]]]:
    for name, file in sorted(_sources(library)):
        yield name, docstrings(file.read_bytes())
    for topic, text in sorted((_topics() if topics is None else topics).items()):
        yield f"pydoc_data/{topic}", [text]


def _sources(library: Path) -> Iterator[tuple[str, Path]]:
    for folder, inner, files in os.walk(library):
        inner[:] = [name for name in inner if name not in SKIPPED_FOLDERS and not name.startswith("config-")]
        for name in files:
            if name.endswith(".py") and name not in SKIPPED_FILES and not name.startswith("_sysconfigdata"):
                file = Path(folder, name)
                yield file.relative_to(library).as_posix(), file


def _topics() -> Mapping[str, str]:
    try:
        topics: Mapping[str, str] = import_module("pydoc_data.topics").topics
    except ImportError:  # some distributions leave it out
        return {}
    return topics


def _lines(texts: Iterable[str]) -> Iterator[list[str]]:
    for text in texts:
        yield from filter(None, map(tokenize, PARAGRAPH.split(text)))


def _render(line: list[str], known: set[str]) -> str:
    return " ".join(word if word in known else UNKNOWN for word in line) + "\n"
