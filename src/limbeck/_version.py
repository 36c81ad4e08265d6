"""Which version of Limbeck this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """The installed version, or ``from source`` where nothing is installed."""
    try:
        return version("limbeck")
    except PackageNotFoundError:
        return "from source"
