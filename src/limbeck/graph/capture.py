"""A model as data: every module, operation, tensor and shape of one forward pass, captured with ``torch.export``."""

from __future__ import annotations

import logging
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind

from limbeck.errors import CaptureError
from limbeck.names import canonical

Inputs = Sequence[Any] | Mapping[str, Any]
"""What a model takes, in the order of its arguments or by their names."""

TORCH = Path(torch.__file__).parent
FRAME = re.compile(r'File "(.+?)", line (\d+)')
SIZES = (
    *("in_features", "out_features", "in_channels", "out_channels", "groups", "num_features", "num_groups", "num_channels"),
    *("num_embeddings", "embedding_dim", "input_size", "hidden_size", "proj_size", "embed_dim", "num_heads", "head_dim"),
)


@dataclass(frozen=True)
class Ref:
    """The result of another node, as an argument."""

    name: str


@dataclass(frozen=True)
class Node:
    """One step of the forward pass: a stored tensor, an input, an operation, or the output."""

    name: str
    kind: Literal["tensor", "input", "call", "output"]
    target: Callable[..., Any] | None
    """The operation that is called."""
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    """Arguments as they were given, other nodes' results as ``Ref``."""
    shapes: tuple[tuple[int, ...] | None, ...]
    """Of each result; None for what is no tensor."""
    floating: bool
    """Whether the (first) result holds floating point numbers."""
    module: str
    """The module in whose forward pass it runs; an empty string is the model itself."""
    line: str
    """``file:line`` of the model's own code."""

    @property
    def operation(self) -> str:
        """``conv2d``, ``add_``: the operation's name without its overload."""
        return str(getattr(self.target, "__name__", self.target)).split(".", maxsplit=1)[0]

    @property
    def where(self) -> str:
        """The operation, its module and its line, for messages."""
        return f"{self.operation}{f' in {self.module}' if self.module else ''}{f' ({self.line})' if self.line else ''}"


@dataclass(frozen=True)
class Stored:
    """A parameter or buffer under its canonical first name."""

    name: str
    shape: tuple[int, ...]
    aliases: tuple[str, ...] = ()
    buffer: bool = False


@dataclass(frozen=True)
class Module:
    """A module: the class of ``torch.nn`` that it is of, and those of its attributes that are sizes."""

    name: str
    type: str
    sizes: Mapping[str, int]


@dataclass(frozen=True)
class Graph:
    """One forward pass of a model: its nodes in the order they run, and all that they name."""

    nodes: tuple[Node, ...]
    tensors: Mapping[str, Stored]
    modules: Mapping[str, Module]
    stored: Mapping[str, str] = field(default_factory=dict)
    """Which parameter or buffer a node of kind ``tensor`` stands for."""


def arguments(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a model is called with: a sequence in its order, a mapping by name.

    >>> arguments([1, 2]), arguments({"input_ids": 3})
    (((1, 2), {}), ((), {'input_ids': 3}))
    """
    return ((), dict(inputs)) if isinstance(inputs, Mapping) else (tuple(inputs), {})


def capture(model: nn.Module, example_inputs: Inputs) -> Graph:
    """The graph of one forward pass in evaluation mode; neither the model nor its mode is changed.

    >>> graph = capture(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), (torch.zeros(2, 3),))
    >>> [(node.operation, node.module, node.shapes) for node in graph.nodes if node.kind == "call"]
    [('linear', '0', ((2, 4),)), ('relu', '1', ((2, 4),))]

    Raises ``CaptureError``, with the model's line and its text, for a forward pass that depends on the values of its inputs or leaves torch.
    """
    with (
        _evaluating(model),
        torch.no_grad(),
        warnings.catch_warnings(),
        _quiet(),
    ):  # without no_grad, a model's own no_grad would hide what runs in it
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(model, *arguments(example_inputs), strict=False)
        except Exception as error:
            raise CaptureError(_refusal(error)) from error
    tensors, first = _tensors(model)
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    stored = {
        name: first[spec.target]
        for name, spec in specs.items()
        if spec.kind in {InputKind.PARAMETER, InputKind.BUFFER} and spec.target in first
    }
    nodes = tuple(_node(node, stored) for node in program.graph.nodes)
    return Graph(nodes, tensors, {canonical(name): _module(name, module) for name, module in model.named_modules()}, stored)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the listing of the graph that torch writes where it refuses a model; what a model itself writes there comes through."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stderr(StringIO()) as said:
            yield
        sys.stderr.write(said.getvalue())
    finally:
        logging.disable(disabled)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)  # it hides an attention's operations in one
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, mode in modes:
            module.training = mode


def _tensors(model: nn.Module) -> tuple[dict[str, Stored], dict[str, str]]:
    """All parameters and buffers once, and the first name of every name."""
    names: dict[int, list[str]] = {}
    found: dict[int, tuple[Tensor, bool]] = {}
    first: dict[str, str] = {}
    for buffer, group in ((False, model.named_parameters(remove_duplicate=False)), (True, model.named_buffers(remove_duplicate=False))):
        for name, tensor in group:
            names.setdefault(id(tensor), []).append(canonical(name))
            found[id(tensor)] = tensor, buffer
            first[name] = names[id(tensor)][0]
    tensors = {}
    for key, (name, *aliases) in names.items():
        tensor, buffer = found[key]
        tensors[name] = Stored(name, tuple(tensor.shape), tuple(aliases), buffer)
    return tensors, first


def _module(name: str, module: nn.Module) -> Module:
    sizes = {size: int(value) for size in SIZES if isinstance(value := getattr(module, size, None), int) and not isinstance(value, bool)}
    kind = next((base.__name__ for base in type(module).__mro__ if base.__module__.startswith("torch.nn.modules")), "Module")
    return Module(canonical(name), kind, sizes)


def _node(node: torch.fx.Node, stored: Mapping[str, str]) -> Node:
    values = node.meta.get("val")
    results = tuple(values) if isinstance(values, (tuple, list)) else (values,)
    kind: Literal["tensor", "input", "call", "output"] = "call"
    if node.op == "placeholder":
        kind = "tensor" if node.name in stored else "input"
    elif node.op == "output":
        kind = "output"
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return Node(
        name=node.name,
        kind=kind,
        target=node.target if callable(node.target) else None,
        args=_plain(node.args),
        kwargs=_plain(node.kwargs),
        shapes=tuple(tuple(int(size) for size in value.shape) if isinstance(value, Tensor) else None for value in results),
        floating=isinstance(results[0], Tensor) and results[0].is_floating_point(),
        module=canonical(stack[-1][0]) if stack else "",
        line=_line(FRAME.findall(node.stack_trace or "")),
    )


def _plain(argument: Any) -> Any:
    """Nodes become references, lists tuples."""
    if isinstance(argument, torch.fx.Node):
        return Ref(argument.name)
    if isinstance(argument, (list, tuple)):
        return tuple(map(_plain, argument))
    return {key: _plain(value) for key, value in argument.items()} if isinstance(argument, dict) else argument


def _line(frames: Sequence[tuple[str, str]]) -> str:
    own = [(file, line) for file, line in frames if TORCH not in Path(file).parents]
    return f"{Path(own[-1][0]).name}:{own[-1][1]}" if own else ""


def _refusal(error: Exception) -> str:
    """What could not be captured, where, and what to do about it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _foreign(frame.filename)]
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}: {frames[-1].line}" if frames else "its forward pass"
    reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return (
        f"the model cannot be captured at {where} ({reason}); let its forward pass not depend on the values of its inputs, nor leave torch"
    )


def _foreign(file: str) -> bool:
    """Whether a frame is the model's: neither torch's, nor the standard library's, nor ours."""
    path = Path(file)
    ours = {TORCH, Path(__file__).parents[1], Path(sys.base_prefix) / "lib"}
    return not ours & set(path.parents)
