"""What does renewing an element-wise mask cost? Prints a Markdown table: milliseconds, and ratios measured side by side in one run.

    python benchmarks/mask_renewal.py --threads 2 --sizes 2_000_000 10_000_000 50_000_000

Every contender takes its turn in every round, so that a machine that is busy for a moment is busy for all; a figure is the median over the
rounds. A copy, one read and one write of the weights, is the yardstick of the machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from limbeck._inplace import apply_mask_
from limbeck.pruning._select import lowest_magnitude
from timing import machine, medians_in_turns

COPY, OURS = "copy (one read, one write)", "limbeck: new mask"
STEP = 0.01  # how much sparser the mask gets in a renewal


def contenders(weight: Tensor, sparsity: float) -> dict[str, Callable[[], Callable[[], object]]]:
    """Name -> a function that prepares a turn, untimed, and returns the turn."""
    dropped = int(sparsity * weight.numel())
    kept = lowest_magnitude(weight, None, int((sparsity - STEP) * weight.numel()))
    renewed = weight.numel() - int(kept.count_nonzero())
    masked, target = weight * kept, torch.empty_like(weight)

    def with_parameter() -> Callable[[], object]:
        module = nn.Module()
        module.weight = nn.Parameter(weight.clone())
        return lambda: prune.l1_unstructured(module, "weight", sparsity)  # type: ignore[no-untyped-call]

    def applied() -> Callable[[], object]:
        target.copy_(weight)
        return lambda: apply_mask_(target, kept)

    return {
        COPY: lambda: lambda: target.copy_(weight),
        OURS: lambda: lambda: lowest_magnitude(weight, None, dropped),
        f"limbeck: {STEP:.0%} sparser": lambda: lambda: lowest_magnitude(masked, kept, dropped),
        "limbeck: same sparsity again": lambda: lambda: lowest_magnitude(masked, kept, renewed),
        "limbeck: mask applied": applied,
        "abs + torch.kthvalue + gt": lambda: lambda: (scores := weight.abs()) > torch.kthvalue(scores, dropped).values,
        "abs + torch.topk + scatter": lambda: lambda: by_topk(weight, dropped),
        "torch.kthvalue alone": lambda: lambda: torch.kthvalue(weight, dropped),
        "torch.topk alone": lambda: lambda: torch.topk(weight, weight.numel() - dropped, sorted=False),
        "nn.utils.prune.l1_unstructured": with_parameter,
    }


def by_topk(weight: Tensor, dropped: int) -> Tensor:
    keep = torch.ones(weight.numel(), dtype=torch.bool)
    return keep.index_fill_(0, torch.topk(weight.abs(), dropped, largest=False, sorted=False).indices, False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2_000_000, 10_000_000, 50_000_000], help="elements")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    parser.add_argument("--sparsity", type=float, default=0.7)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"sparsity {options.sparsity}, median of {options.rounds} rounds\n")
    print(f"| elements | what | ms | x {COPY.split(maxsplit=1)[0]} | x {OURS} |\n|---:|---|---:|---:|---:|")
    for size in options.sizes:
        torch.manual_seed(0)
        taken = medians_in_turns(contenders(torch.randn(size) * 0.05, options.sparsity), options.rounds)
        for name, time in taken.items():
            print(f"| {size:,} | {name} | {1000 * time:.2f} | {time / taken[COPY]:.1f} | {time / taken[OURS]:.2f} |", flush=True)
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
