"""From YAML to plain data with the line of every node; loading runs no code.

Plain scalars are read by the core rules of YAML 1.2, which is what people mean:
``1e-6`` is a number, ``on``, ``no`` and ``12:30`` are words.
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from limbeck.config.report import Fault, Path

Source = str | os.PathLike[str] | Mapping[str, object]
"""A schedule: the path of a file, a text of more than one line, or a mapping that is already read."""

MAX_NODES = 100_000
CORE = "tag:yaml.org,2002:"
PLAIN = "plain"
"""The tag of a scalar without quotes and without a tag of its own."""

KINDS: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (float, int), "bool": (bool,), "null": (type(None),)}
"""What a scalar with the tag ``!!int`` and so on may hold."""

TAGS = frozenset((PLAIN, *(CORE + kind for kind in (*KINDS, "seq", "map"))))
CONSTANTS: dict[str, object] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", "+.inf", ".Inf", "+.Inf", ".INF", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
REAL = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


@dataclass
class Document:
    """A schedule as plain data, with the line of every node and the faults that reading it found."""

    source: str
    tree: object = None
    text: str | None = None
    lines: dict[Path, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def fault(self, message: str, path: Path = (), at: Path | None = None) -> Fault:
        """A fault at ``path``, or, when the line of another node tells more, at the line of the node ``at``."""
        return Fault(message, path, self.line(path if at is None else at))

    def line(self, path: Path) -> int | None:
        """The line of a node, or of the nearest one around it that has a line."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path) if path else None


def scalar(text: str) -> object:
    """The value of a plain scalar.

    >>> [scalar(text) for text in ("1e-6", "12", ".5", "true", "on", "1:30", "~")]
    [1e-06, 12, 0.5, True, 'on', '1:30', None]
    """
    if text in CONSTANTS:
        return CONSTANTS[text]
    if INTEGER.fullmatch(text):
        return int(text)
    return float(text) if REAL.fullmatch(text) else text


def load(source: Source) -> Document:
    r"""Read a schedule; whatever is wrong with it as YAML is among the faults of the document.

    >>> document = load("version: 1\npruners: {}\npruners: {}")
    >>> document.tree, str(document.faults[0])
    ({'version': 1, 'pruners': {}}, "line 3: 'pruners' is given twice, on lines 2 and 3")

    Raises ``TypeError`` for anything else than a schedule.
    """
    if not isinstance(source, str | os.PathLike | Mapping):
        what = f"the path of a file, its text or a mapping, not {type(source).__name__}"
        raise TypeError(f"a schedule is {what}; it comes first, and the model second: load_schedule('agp.yaml', model, optimizer)")
    if isinstance(source, Mapping):
        return Document("schedule", tree=_plain(source))
    if isinstance(source, str) and "\n" in source:
        return parse(source, "schedule")
    name = os.fspath(source)
    try:
        return parse(pathlib.Path(name).read_text(encoding="utf-8"), name)
    except OSError as error:
        return Document(name, faults=[Fault(f"cannot be read: {error.strerror}")])
    except UnicodeDecodeError as error:
        return Document(name, faults=[Fault(f"is not UTF-8 text: {error.reason} at byte {error.start}")])


def _plain(value: object) -> object:
    """A mapping from Python as a file would hold it: dicts with text keys, and lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def parse(text: str, source: str) -> Document:
    """A document from YAML text; ``source`` is what its faults are reported under."""
    document = Document(source, text=text)
    try:
        _Reader(document).read(_compose(text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(part for part in (error.context, error.problem) if part)
        if "scanning an alias" in problem:
            problem += "; put quotes around a pattern that begins with '*'"
        document.faults.append(Fault(f"not YAML: {problem}", line=None if mark is None else mark.line + 1))
    except yaml.YAMLError as error:
        document.faults.append(Fault(f"not YAML: {str(error).splitlines()[0]}"))
    except RecursionError:
        document.faults.append(Fault("is nested too deeply to be a schedule"))
    return document


def _compose(text: str) -> yaml.Node | None:
    """The document's nodes: from libyaml, ten times faster, where PyYAML was built with it; a fault is told in PyYAML's own words."""
    try:
        return yaml.compose(text, _FAST)
    except yaml.YAMLError:
        return yaml.compose(text, _PLAIN_SPOKEN)


def _marking(loader: type[Any]) -> type[Any]:
    """A loader that tells ``5`` from ``!!str 5``."""

    def resolve(self: Any, kind: type[yaml.Node], value: Any, implicit: Any) -> Any:
        return PLAIN if kind is yaml.ScalarNode and implicit[0] else loader.resolve(self, kind, value, implicit)

    return type(loader.__name__, (loader,), {"resolve": resolve})


_FAST, _PLAIN_SPOKEN = _marking(getattr(yaml, "CBaseLoader", yaml.BaseLoader)), _marking(yaml.BaseLoader)


class _Reader:
    """Turns nodes into plain data and notes lines and faults in the document."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.nodes = 0
        self.open: set[int] = set()

    def read(self, root: yaml.Node | None) -> None:
        """Fill in the document's tree."""
        try:
            self.document.tree = None if root is None else self.value(root, ())
        except OverflowError:
            self.document.tree = None
            self.document.faults.append(Fault(f"its aliases unfold to more than {MAX_NODES:,} nodes"))

    def value(self, node: yaml.Node, path: Path) -> object:
        """The node as plain data."""
        line = node.start_mark.line + 1
        self.document.lines.setdefault(path, line)
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise OverflowError
        if node.tag not in TAGS:
            tag = node.tag.replace(CORE, "!!")
            self.refuse(f"the tag '{tag}' is refused: a schedule holds plain data only, and loading it runs no code", path, line)
            return None
        if id(node) in self.open:
            self.refuse("an alias contains itself", path, line)
            return None
        self.open.add(id(node))
        try:
            return self.plain(node, path)
        finally:
            self.open.discard(id(node))

    def plain(self, node: yaml.Node, path: Path) -> object:
        """A scalar, list or dict."""
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if node.tag == PLAIN:
            return scalar(node.value)
        return self.tagged(node.value, node.tag.removeprefix(CORE), path, node.start_mark.line + 1)

    def tagged(self, text: str, tag: str, path: Path, line: int) -> object:
        """A scalar in quotes, or with a tag."""
        if tag == "str":
            return text
        value = scalar(text)
        if type(value) not in KINDS.get(tag, ()):
            self.refuse(f"'{text}' is not what its tag '!!{tag}' says; leave the tag out", path, line)
            return None
        return float(value) if tag == "float" and isinstance(value, int) else value

    def mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, object]:
        """A dict with text keys; ``<<`` merges what it names under the keys that are given here."""
        given: dict[str, int] = {}
        found: dict[str, object] = {}
        merged: dict[str, object] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self.refuse("a key must be a word", path, line)
            elif key.value == "<<" and not key.style:
                for base in self.bases(value, path):
                    merged = {**base, **merged}
            else:
                name = str(key.value)
                if name in given:
                    self.refuse(f"'{name}' is given twice, on lines {given[name]} and {line}", path, line)
                given.setdefault(name, line)
                self.document.lines[*path, name] = line
                found[name] = self.value(value, (*path, name))
        return {**merged, **found}

    def bases(self, value: yaml.Node, path: Path) -> Iterator[Mapping[str, object]]:
        """The mappings that a merge key names."""
        for node in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if isinstance(node, yaml.MappingNode):
                base = self.value(node, path)
                assert isinstance(base, Mapping) or base is None
                yield base or {}
            else:
                self.refuse("'<<' must name a mapping", path, node.start_mark.line + 1)

    def refuse(self, message: str, path: Path, line: int) -> None:
        """Note a fault."""
        self.document.faults.append(Fault(message, path, line))
