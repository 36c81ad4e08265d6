"""What does renewing a mask of structures cost: filters, channels, blocks, N:M, one ranking over many tensors, rows by their inputs?

    python benchmarks/structured_renewal.py --threads 2

Prints a Markdown table for each: milliseconds, and ratios measured side by side in one run to one read and one write of the same data, and to what
users have instead: ``torch.nn.utils.prune`` where it has a counterpart, else the usual few lines with ``topk`` or ``sort``. Ours is the whole
path, ``Pruner.masks``, for a first mask and for one that is renewed 1 % sparser. A figure is the median over rounds in which all take turns.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from limbeck.groups import group
from limbeck.pruning.calibrated import wanda_pruner
from limbeck.pruning.composed import composed_pruner
from limbeck.pruning.inputs import KEY
from limbeck.pruning.pruner import Pruner, Site
from limbeck.schedules import Moment
from limbeck.tile import CHANNELS, FILTERS
from timing import machine, medians_in_turns, show

COPY, OURS, RENEWED = "copy (one read, one write)", "limbeck: new mask", "limbeck: 1% sparser"
STEP = 0.01  # how much sparser the mask gets in a renewal
CONVOLUTION, LINEAR, TENSORS = (1024, 512, 3, 3), (4096, 2048), [(250, 500)] * 200

Turn = Callable[[], list[Tensor]]
"""Makes the masks."""

Prepare = Callable[[], Turn]
"""Prepares a turn, untimed."""


@dataclass(frozen=True)
class Question:
    """One way to prune, the tensors that it prunes, and what does the same elsewhere."""

    shapes: Sequence[tuple[int, ...]]
    pruner: Callable[[list[str], float], Pruner]
    others: Mapping[str, Callable[[list[Tensor], float], Prepare]]
    measured: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """What was observed of each tensor, by key, and its shape."""


def filters_by_torch(weights: list[Tensor], sparsity: float) -> Prepare:
    """``ln_structured`` of ``torch.nn.utils.prune`` by the same norm."""
    return partial(_structured, weights, sparsity, 0)


def channels_by_torch(weights: list[Tensor], sparsity: float) -> Prepare:
    """The same, along the second axis."""
    return partial(_structured, weights, sparsity, 1)


def _structured(weights: list[Tensor], sparsity: float, axis: int) -> Turn:
    module = _module(weights)
    return lambda: _masks(prune.ln_structured(module, "0", sparsity, n=1, dim=axis))  # type: ignore[no-untyped-call]


def everywhere_by_torch(weights: list[Tensor], sparsity: float) -> Prepare:
    """``global_unstructured`` of ``torch.nn.utils.prune``."""

    def prepare() -> Turn:
        module = _module(weights)
        targets = [(module, name) for name, _ in module.named_parameters()]
        prune_all: Callable[..., object] = prune.global_unstructured
        return lambda: _masks(module, prune_all(targets, prune.L1Unstructured, amount=sparsity))

    return prepare


def _module(weights: list[Tensor]) -> nn.Module:
    module = nn.Module()
    for number, weight in enumerate(weights):
        module.register_parameter(str(number), nn.Parameter(weight.clone()))
    return module


def _masks(module: nn.Module, _pruned: object = None) -> list[Tensor]:
    return [mask for _, mask in module.named_buffers()]


def blocks_by_topk(weights: list[Tensor], sparsity: float) -> Prepare:
    """Blocks of 8 input channels: the largest by ``topk``, spread over their members."""
    (weight,) = weights

    def mask() -> list[Tensor]:
        out, inputs, *kernel = weight.shape
        scores = weight.abs().view(out, inputs // 8, 8, *kernel).sum(2)
        keep = torch.zeros(scores.numel(), dtype=torch.bool)
        keep[scores.flatten().topk(scores.numel() - int(sparsity * scores.numel())).indices] = True
        return [keep.view(out, inputs // 8, 1, *kernel).expand(-1, -1, 8, *kernel).reshape(weight.shape)]

    return lambda: mask


def pairs_by_topk(weights: list[Tensor], sparsity: float) -> Prepare:
    """2 of 4 by ``topk`` of every four."""
    (weight,) = weights

    def mask() -> list[Tensor]:
        fours = weight.abs().view(-1, 4)
        return [torch.zeros(fours.shape, dtype=torch.bool).scatter_(1, fours.topk(2, dim=1).indices, True).view(weight.shape)]

    return lambda: mask


def rows_by_sort(weights: list[Tensor], sparsity: float) -> Prepare:
    """Wanda as its authors write it: a stable sort of each row, and a scatter of what falls."""
    (weight,) = weights
    square = observed((1, weight.shape[1]))

    def mask() -> list[Tensor]:
        order = (weight.abs() * square.sqrt()).sort(dim=1, stable=True).indices
        return [torch.ones(weight.shape, dtype=torch.bool).scatter_(1, order[:, : int(weight.shape[1] * sparsity)], False)]

    return lambda: mask


def observed(shape: tuple[int, ...]) -> Tensor:
    """The same mean squares of inputs for all contenders."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def cut(granularity: str) -> Callable[[list[str], float], Pruner]:
    units = {"filters": FILTERS, "channels": CHANNELS, "blocks": group("Blocks", [1, 8, 1, 1])}
    return lambda names, sparsity: Pruner(dict.fromkeys(names, sparsity), unit=units[granularity])


def two_of_four(names: list[str], _sparsity: float) -> Pruner:
    return composed_pruner(names, n_of_m="2:4")


def everywhere(names: list[str], sparsity: float) -> Pruner:
    return composed_pruner(names, sparsity, scope="global")


QUESTIONS = {
    "filters": Question([CONVOLUTION], cut("filters"), {"nn.utils.prune.ln_structured": filters_by_torch}),
    "channels": Question([CONVOLUTION], cut("channels"), {"nn.utils.prune.ln_structured": channels_by_torch}),
    "blocks 1x8x1x1": Question([CONVOLUTION], cut("blocks"), {"sums + topk": blocks_by_topk}),
    "2:4": Question([LINEAR], two_of_four, {"topk + scatter": pairs_by_topk}),
    "global": Question(TENSORS, everywhere, {"nn.utils.prune.global_unstructured": everywhere_by_torch}),
    "Wanda": Question([LINEAR], wanda_pruner, {"stable sort + scatter": rows_by_sort}, {KEY: (1, LINEAR[1])}),
}


def contenders(question: Question, sparsity: float) -> dict[str, Prepare]:
    """Who takes turns: a copy, ours, and what users have instead."""
    names = [f"{number}.weight" for number in range(len(question.shapes))]
    weights = [torch.randn(shape) * 0.05 for shape in question.shapes]
    pruner, before = question.pruner(names, sparsity), question.pruner(names, sparsity - STEP)
    stats = {key: observed(shape) for key, shape in question.measured.items()}
    sites = {name: Site(weight, stats=stats) for name, weight in zip(names, weights, strict=True)}
    kept = before.masks(sites, Moment())
    masked = {name: replace(site, weight=site.weight * kept[name], keep=kept[name]) for name, site in sites.items()}
    copies = [torch.empty_like(weight) for weight in weights]
    return {
        COPY: lambda: lambda: [copy.copy_(weight) for copy, weight in zip(copies, weights, strict=True)],
        OURS: lambda: lambda: list(pruner.masks(sites, Moment()).values()),
        RENEWED: lambda: lambda: list(pruner.masks(masked, Moment()).values()),
        **{name: other(weights, sparsity) for name, other in question.others.items()},
    }


def rows(names: Sequence[str], sparsity: float, rounds: int) -> Iterator[list[object]]:
    for name in names:
        question = QUESTIONS[name]
        elements = sum(torch.Size(shape).numel() for shape in question.shapes)
        torch.manual_seed(0)
        taken = medians_in_turns(contenders(question, sparsity), rounds)
        for what, time in taken.items():
            yield [name, f"{elements:,}", what, f"{1000 * time:.2f}", f"{time / taken[COPY]:.1f}", f"{time / taken[OURS]:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--questions", nargs="+", choices=list(QUESTIONS), default=list(QUESTIONS), metavar="NAME", help=", ".join(QUESTIONS)
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"sparsity {options.sparsity}, median of {options.rounds} rounds\n")
    header = ["mask", "elements", "what", "ms", f"x {COPY.split(maxsplit=1)[0]}", f"x {OURS}"]
    show(header, rows(options.questions, options.sparsity, options.rounds))
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
