"""Replace a folder whole or not at all.

A new folder is filled beside the old one and synced; then the old one is set aside, the new one takes its name, and the old one goes::

    last                 .last.new is filled and synced
    last -> .last.old    for this instant the set-aside twin is what stands
    .last.new -> last    the new one stands
                         .last.old is removed

Whatever instant the power fails at, ``standing`` finds a whole folder. One process may write to a folder at a time; any number may read.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def standing(target: Path) -> Path:
    """The folder that holds the contents of ``target`` now: itself, or its set-aside twin after a crash between two renames."""
    aside = _aside(target)
    return aside if aside.is_dir() and not target.exists() else target


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A new empty folder to fill; when the block ends well it stands in the place of ``target``, else nothing has changed.

    Leftovers of a write that was cut off are cleaned first. Raises ``OSError`` as the file system does.
    """
    fresh, aside = target.with_name(f".{target.name}.new"), _aside(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    _clean(target, fresh, aside)
    fresh.mkdir()
    try:
        yield fresh
        for path in fresh.iterdir():
            _sync(path)
        _sync(fresh)
        if target.exists():
            target.rename(aside)
        fresh.rename(target)
    except BaseException:
        _clean(target, fresh, aside)
        raise
    _sync(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _clean(target: Path, fresh: Path, aside: Path) -> None:
    """Bring back a folder that was set aside and never replaced; remove what was left half-written or half-removed."""
    if standing(target) == aside:
        aside.rename(target)
    for leftover in (fresh, aside):
        if leftover.exists():
            shutil.rmtree(leftover)


def _sync(path: Path) -> None:
    """Have the contents of a file, or the names in a folder, reach the disk."""
    if path.is_dir() and os.name == "nt":  # Windows has no handle on a folder; its renames are journaled
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
