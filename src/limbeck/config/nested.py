"""Files of options in which modules are nested as NeurST nests them: ``optimizer.class: adam`` beside ``optimizer.params: {beta_2: 0.98}``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from limbeck.config.load import Document, load
from limbeck.errors import LimbeckError

CLASS, PARAMS = ".class", ".params"


class Entry(NamedTuple):
    """A key that holds a value, with its way from the root of the file."""

    place: tuple[str, ...]
    value: Any

    @property
    def key(self) -> str:
        """The key without the ``.class`` that names a module's class."""
        return self.place[-1].removesuffix(CLASS)

    @property
    def is_class(self) -> bool:
        """Whether the value is the class of the module that the key names."""
        return self.place[-1].endswith(CLASS)

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules whose params this is one of, the innermost last."""
        return tuple(part.removesuffix(PARAMS) for part in self.place[:-1])


def entries(tree: Mapping[str, Any], place: tuple[str, ...] = ()) -> Iterator[Entry]:
    """Every value of a file.

    >>> [(entry.modules, entry.key, entry.value) for entry in entries({"lr.class": "noam", "lr.params": {"warmup_steps": 4000}})]
    [((), 'lr', 'noam'), (('lr',), 'warmup_steps', 4000)]
    """
    for key, value in tree.items():
        if key.endswith(PARAMS) and isinstance(value, Mapping):
            yield from entries(value, (*place, key))
        else:
            yield Entry((*place, key), value)


def read_document(path: Path) -> Document:
    """A file of options; raises ``LimbeckError`` for what is no mapping."""
    document = load(path)
    if document.faults or not isinstance(document.tree, Mapping):
        faults = "; ".join(str(fault) for fault in document.faults) or "it must be a mapping of options"
        raise LimbeckError(f"{path}: {faults}")
    return document
