"""Functions that a user names as ``package.module:function``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from limbeck.errors import LimbeckError, did_you_mean


def search_current_folder() -> None:
    """Let code that the user names be imported from the current folder too, after all else."""
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.append(folder)


def imported(spec: str) -> Callable[..., Any]:
    """The function that ``package.module:function`` names, as ``--model`` takes it.

    >>> imported("math:floor")(1.5)
    1

    Raises ``LimbeckError`` where there is no such module or function.
    """
    module, _, function = spec.partition(":")
    search_current_folder()
    try:
        home = import_module(module)
    except Exception as error:  # a module of the user's may raise anything
        what = str(error) if isinstance(error, ImportError) else f"importing {module} raised {type(error).__name__}: {error}"
        raise LimbeckError(f"--model {spec}: {what}") from error
    found: Callable[..., Any] | None = getattr(home, function, None)
    if not callable(found):
        missing = f"has no function '{function}'{did_you_mean(function, vars(home))}"
        raise LimbeckError(f"--model {spec}: the module {module} {missing if found is None else f'has {function!r}, which is no function'}")
    return found
