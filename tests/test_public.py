from __future__ import annotations

import ast
import importlib.metadata
import inspect
from pathlib import Path

import pytest

import limbeck


def test_all_is_sorted_and_has_no_name_twice() -> None:
    assert list(limbeck.__all__) == sorted(set(limbeck.__all__), key=lambda name: (not name.isupper(), name))  # the linter's order


@pytest.mark.parametrize("name", [name for name in limbeck.__all__ if not name.startswith("__")])
def test_a_public_name_is_there_and_says_what_it_is(name: str) -> None:
    value = getattr(limbeck, name)
    if inspect.isclass(value) or inspect.isroutine(value):
        assert (inspect.getdoc(value) or "").strip()
        assert value.__module__.startswith("limbeck.")


def test_nothing_public_is_left_out_of_all() -> None:
    public = {name for name, value in vars(limbeck).items() if getattr(value, "__module__", "").startswith("limbeck.")}
    assert {name for name in public if not name.startswith("_")} <= set(limbeck.__all__)


def test_every_module_says_what_it_is_for() -> None:
    files = [file for file in Path(limbeck.__file__).parent.rglob("*.py") if file.stat().st_size]
    silent = [str(file) for file in files if not ast.get_docstring(ast.parse(file.read_bytes()))]
    assert not silent


def test_the_distribution_has_its_program() -> None:
    (program,) = [point for point in importlib.metadata.distribution("limbeck").entry_points if point.name == "limbeck"]
    assert program.value == "limbeck.cli:main"
    assert callable(program.load())
