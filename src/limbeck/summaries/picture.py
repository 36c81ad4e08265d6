"""A drawing as text in Graphviz' language, and as a picture where its program ``dot`` is installed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import nn

from limbeck.errors import LimbeckError
from limbeck.graph import Inputs
from limbeck.names import Named
from limbeck.stats import nonzero_groups
from limbeck.summaries.drawing import Box, Drawing, drawing
from limbeck.summaries.render import percent

TEXT = (".dot", ".gv")
PICTURES = (".png", ".svg", ".pdf")
STYLE = """\
  graph [fontname="Helvetica", fontsize=11, ranksep=0.3, nodesep=0.3, color="#b0b0b0", style=rounded, labeljust=l];
  node [shape=box, style="filled,rounded", fontname="Helvetica", fontsize=10, margin="0.12,0.06", color="#606060"];
  edge [color="#606060", arrowsize=0.6];"""
DENSE, SPARSE = (0xDC, 0xE9, 0xF7), (0xF4, 0x9D, 0x37)
"""Colours of a layer without zeros and of one of nothing else."""
PLAIN = {"layer": "#f5f5f5", "input": "#ffffff", "output": "#ffffff"}


def picture(model: nn.Module, example_inputs: Inputs, path: Path, parameters: bool = False) -> None:
    """Draw a model's graph into a file: ``.png``, ``.svg`` and ``.pdf`` through Graphviz' program ``dot``, ``.dot`` and ``.gv`` as the text for it.

    Each layer shows its type, the shape of its result and how many of its weights are zero; with ``parameters`` also each parameter with its shape, and the
    MACs. Raises ``LimbeckError`` for another kind of file, and where ``dot`` is missing or fails; ``CaptureError`` for a model that cannot be captured.
    """
    if path.suffix not in TEXT + PICTURES:
        raise LimbeckError(f"{path} is no file for a drawing; end its name in one of {', '.join(PICTURES + TEXT)}")
    program = None if path.suffix in TEXT else shutil.which("dot")
    if path.suffix in PICTURES and program is None:
        raise LimbeckError(
            f"{path} needs Graphviz' program 'dot', which is not installed (apt install graphviz, brew install graphviz, conda install graphviz); "
            f"or write the drawing as text: {path.with_suffix('.dot')}"
        )
    text = to_dot(drawing(model, example_inputs), parameters)
    if program is None:
        path.write_text(text, encoding="utf-8")
        return
    done = subprocess.run([program, f"-T{path.suffix[1:]}", "-o", str(path)], input=text.encode(), capture_output=True, check=False)
    if done.returncode:
        told = done.stderr.decode(errors="replace").strip().splitlines() or [f"status {done.returncode}"]
        raise LimbeckError(f"{path}: dot failed ({told[0]}); write the drawing as text: {path.with_suffix('.dot')}")


def to_dot(drawing: Drawing, parameters: bool = False) -> str:
    r"""The text for ``dot``: boxes within the modules that hold two or more of them.

    >>> print(to_dot(Drawing((Box("input", "", ("input",), (1, 3)), Box("layer", "fc", ("fc", "Linear"), (1, 2), macs=6)), ((0, 1),))))
    digraph model {
    ...
      b0 [label="input\n1x3", fillcolor="#ffffff"];
      b1 [label="fc\nLinear\n1x2", fillcolor="#f5f5f5"];
      b0 -> b1;
    }
    <BLANKLINE>
    """
    groups: dict[str, list[int]] = {}
    for number, box in enumerate(drawing.boxes):
        for path in _within(box):
            groups.setdefault(path, []).append(number)
    groups = {path: numbers for path, numbers in groups.items() if len(numbers) > 1}
    homes = {
        number: next((path for path in reversed(list(_within(box))) if path in groups), "") for number, box in enumerate(drawing.boxes)
    }
    body = [*_level(drawing, groups, homes, "", parameters), *(f"  b{one} -> b{other};" for one, other in drawing.arrows)]
    return "\n".join(["digraph model {", STYLE, *body, "}", ""])


def _within(box: Box) -> Iterator[str]:
    """The modules around a box, the outermost first; a box of a model's own code stands in the module that runs it."""
    parts = box.module.split(".") if box.module else []
    own = len(box.lines) > 1 and box.lines[0] == box.module
    for count in range(1, len(parts) + (0 if own else 1)):
        yield ".".join(parts[:count])


def _level(drawing: Drawing, groups: dict[str, list[int]], homes: dict[int, str], path: str, parameters: bool) -> Iterator[str]:
    """The boxes that stand in a module itself, and the modules in it."""
    indent = "  " * (1 + (path.count(".") + 1 if path else 0))
    for number, home in homes.items():
        if home == path:
            yield f"{indent}b{number} [{_attributes(drawing.boxes[number], parameters)}];"
    for inner in groups:
        if _parent(inner, groups) == path:
            yield f"{indent}subgraph {quoted('cluster_' + inner)} {{"
            yield f"{indent}  label={quoted(inner)};"
            yield from _level(drawing, groups, homes, inner, parameters)
            yield f"{indent}}}"


def _parent(path: str, groups: dict[str, list[int]]) -> str:
    outer = path.rpartition(".")[0]
    while outer and outer not in groups:
        outer = outer.rpartition(".")[0]
    return outer


def _attributes(box: Box, parameters: bool) -> str:
    weights = [named for named in box.parameters if named.parameter.dim() > 1]
    total, zeros = sum(named.parameter.numel() for named in weights), _zeros(weights)
    lines = list(box.lines)
    if box.shape is not None:
        lines.append(_shape(box.shape))
    if weights:
        lines.append(_weights(total, zeros))
    if parameters:
        outer = box.module.rpartition(".")[0] + "."
        lines += [f"{named.name.removeprefix(outer)} {_shape(named.parameter.shape)}{_share(named)}" for named in box.parameters]
        lines += [f"{box.macs:,} MACs"] if box.macs else ["MACs not known"] if box.macs is None else []
    colour = PLAIN[box.kind] if not weights else _mixed(zeros / total if zeros and total else 0.0)
    return f"label={quoted(chr(10).join(lines))}, fillcolor={quoted(colour)}"


def _weights(total: int, zeros: int | None) -> str:
    return f"{total:,} weights" + (f", {percent(zeros / total)} zero" if zeros is not None and total else "")


def _share(named: Named) -> str:
    zeros = _zeros([named])
    return f", {percent(zeros / named.parameter.numel())} zero" if zeros else ""


def _zeros(parameters: Sequence[Named]) -> int | None:
    """None where there are no numbers to count: on the meta device."""
    if any(named.parameter.is_meta for named in parameters):
        return None
    return sum(named.parameter.numel() - nonzero_groups(named.parameter.detach()) for named in parameters)


def _mixed(share: float) -> str:
    return "#" + "".join(f"{round(dense + (sparse - dense) * share):02x}" for dense, sparse in zip(DENSE, SPARSE, strict=True))


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def quoted(text: str) -> str:
    r"""A string of Graphviz' language.

    >>> quoted('say "a\\b"' + "\n")
    '"say \\"a\\\\b\\"\\n"'
    """
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
