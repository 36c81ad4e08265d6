"""Imports point only downward; the algorithm packages do not know each other."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"
ALGORITHMS = ("pruning", "regularization", "quantization", "thinning", "training", "summaries")
LAYERS: tuple[tuple[str, ...], ...] = (
    ("tile", "groups", "ramps", "schedules", "names", "errors", "fields", "recipes", "_inplace", "_tensors", "_version"),
    ("masks", "events", "_forward", "_saved", "_steps", "scheduler", "stats", "graph", "needs", "watch"),
    ALGORITHMS,
    ("config",),
    ("optimizer", "sensitivity"),
    ("apps",),
    ("compat",),
    ("cli",),
)
LAYER = {part: number for number, parts in enumerate(LAYERS) for part in parts}


def module_name(file: Path) -> str:
    parts = file.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): ast.parse(file.read_bytes()) for file in sorted(SOURCE.rglob("*.py"))}


def imported(tree: ast.Module) -> set[str]:
    """The modules of this package that a module imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            assert node.module
            found |= {inner if (inner := f"{node.module}.{alias.name}") in MODULES else node.module for alias in node.names}
    return found & MODULES.keys()


IMPORTS = {name: imported(tree) for name, tree in MODULES.items()}


def part(module: str) -> str:
    return module.split(".")[1]


def edges() -> list[tuple[str, str]]:
    """Who imports whom, besides the package's own list of public names."""
    return [(name, other) for name, others in IMPORTS.items() if name != "limbeck" for other in sorted(others)]


def test_there_is_something_to_check() -> None:
    assert "limbeck.tile" in MODULES
    assert ("limbeck.masks", "limbeck.names") in edges()


def test_every_module_has_a_layer() -> None:
    assert {part(name) for name in MODULES if name != "limbeck"} <= LAYER.keys()


def test_imports_point_only_downward() -> None:
    upward = [f"{name} -> {other}" for name, other in edges() if other == "limbeck" or LAYER[part(name)] < LAYER[part(other)]]
    assert not upward


def test_algorithm_packages_do_not_import_each_other() -> None:
    across = [f"{name} -> {other}" for name, other in edges() if {part(name), part(other)} <= set(ALGORITHMS) and part(name) != part(other)]
    assert not across


def test_no_cycle() -> None:
    TopologicalSorter(IMPORTS).prepare()  # raises CycleError, which names the cycle


def test_no_star_import() -> None:
    stars = [
        f"{name}, line {node.lineno}"
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)
    ]
    assert not stars
