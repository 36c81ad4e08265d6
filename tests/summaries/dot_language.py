"""A reader of Graphviz' language, after its grammar (graphviz.org/doc/info/lang.html), for what limbeck writes: it refuses all else."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

TOKEN = re.compile(r'\s*(?:("(?:\\.|[^"\\\n])*")|(->)|([A-Za-z_]\w*|-?\d+(?:\.\d+)?)|([{}\[\]=,;]))')
WORD = re.compile(r'"|[\w.-]+$')


@dataclass
class Read:
    """Nodes with their attributes, edges, and the subgraphs with the nodes in each."""

    nodes: dict[str, dict[str, str]] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)
    subgraphs: dict[str, list[str]] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


def read(text: str) -> Read:
    """Raises ``ValueError`` or ``IndexError`` for a text that is not of the language."""
    tokens, place = [], 0
    while text[place:].strip():
        found = TOKEN.match(text, place)
        if found is None:
            raise ValueError(f"no token at {text[place : place + 20]!r}")
        tokens.append(next(group for group in found.groups() if group))
        place = found.end()
    reader = Reader(tokens)
    reader.take("digraph")
    reader.word()
    reader.take("{")
    reader.statements([])
    if reader.tokens:
        raise ValueError(f"more after the end: {reader.tokens[:3]}")
    return reader.read


class Reader:
    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.read = Read()

    def take(self, wanted: str) -> None:
        if (token := self.tokens.pop(0)) != wanted:
            raise ValueError(f"{token} where {wanted} must stand")

    def word(self) -> str:
        token = self.tokens.pop(0)
        if not WORD.match(token):
            raise ValueError(f"{token} where a word must stand")
        return re.sub(r'\\([\\"n])', lambda found: "\n" if found[1] == "n" else found[1], token[1:-1]) if token.startswith('"') else token

    def statements(self, within: list[str]) -> None:
        while self.tokens[0] != "}":
            self.statement(within)
            if self.tokens[0] == ";":
                self.tokens.pop(0)
        self.take("}")

    def statement(self, within: list[str]) -> None:
        word = self.word()
        if word == "subgraph":
            name = self.word()
            self.take("{")
            self.statements([*within, name])
        elif self.tokens[0] == "=":
            self.take("=")
            self.read.labels[within[-1]] = self.word()
        elif self.tokens[0] == "->":
            self.take("->")
            self.read.edges.append((word, self.word()))
        else:
            attributes = self.attributes()
            if word not in ("graph", "node", "edge"):
                self.read.nodes[word] = attributes
                for name in within:
                    self.read.subgraphs.setdefault(name, []).append(word)

    def attributes(self) -> dict[str, str]:
        found = {}
        self.take("[")
        while self.tokens[0] != "]":
            name = self.word()
            self.take("=")
            found[name] = self.word()
            if self.tokens[0] == ",":
                self.tokens.pop(0)
        self.take("]")
        return found
