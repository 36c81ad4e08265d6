"""How long does a regularizer's penalty take, with its gradient? Prints milliseconds and ratios against the same formula left to autograd.

    python benchmarks/group_penalty.py --threads 2

"Copies" is the time over that of copying the weight once into a buffer that is there already. A penalty with its gradient must read the weight
twice and write the gradient once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from limbeck.groups import groupings
from limbeck.regularization import group_lasso_regularizer, group_variance_regularizer, l1_regularizer
from limbeck.regularization.norms import Norm, split
from timing import machine, medians_in_turns, show

MATRIX, KERNELS = (1500, 6000), (512, 512, 3, 3)
CASES = (
    ("Rows", MATRIX),
    ("Cols", MATRIX),
    ("Rows+Cols", MATRIX),
    ("Filters", KERNELS),
    ("Channels", KERNELS),
    ("2D", KERNELS),
    ("4D", KERNELS),
)
OURS, AUTOGRAD, VECTOR_NORM, COPY = "Limbeck", "square, sum, root", "linalg.vector_norm", "copy"


def squares(kind: str, weight: Tensor) -> Tensor:
    """Group lasso as one writes it down; at a group of zeros its gradient is NaN."""
    views = [split(weight, tile) for tile in groupings(kind)]
    return torch.stack([view.square().sum(inside).sqrt().sum() for view, inside in views]).sum()


def vector_norm(kind: str, weight: Tensor) -> Tensor:
    """Group lasso by torch's own norm."""
    views = [split(weight, tile) for tile in groupings(kind)]
    return torch.stack([torch.linalg.vector_norm(view, dim=inside).sum() for view, inside in views]).sum()


def inverse_variance(weight: Tensor) -> Tensor:
    """One over the variance of the channels' norms, as one writes it down."""
    return 1 / weight.square().sum((0, 2, 3)).sqrt().var()


def turns(weight: Tensor, contenders: dict[str, Norm]) -> dict[str, Callable[[], Callable[[], object]]]:
    """The penalty and its gradient by each contender, and a copy."""
    buffer = torch.empty_like(weight)

    def turn(norm: Norm) -> Callable[[], object]:
        weight.grad = None
        return lambda: norm(weight).backward()  # type: ignore[no-untyped-call]

    return {name: partial(turn, norm) for name, norm in contenders.items()} | {COPY: lambda: partial(buffer.copy_, weight.detach())}


def rows(rounds: int, scale: float) -> Iterator[tuple[object, ...]]:
    """One row a case."""
    cases: list[tuple[str, tuple[int, ...], dict[str, Norm]]] = [
        (
            kind,
            shape,
            {
                OURS: group_lasso_regularizer({"weight": (1.0, kind)}).targets["weight"].norm,  # type: ignore[dict-item]  # one of the names
                AUTOGRAD: partial(squares, kind),
                VECTOR_NORM: partial(vector_norm, kind),
            },
        )
        for kind, shape in CASES
    ]
    variance = group_variance_regularizer({"weight": 1.0}).targets["weight"].norm
    cases.append(("channel variance", KERNELS, {OURS: variance, AUTOGRAD: inverse_variance}))
    cases.append(
        (
            "L1",
            MATRIX,
            {OURS: l1_regularizer({"weight": 1.0}).targets["weight"].norm, VECTOR_NORM: partial(torch.linalg.vector_norm, ord=1)},
        )
    )
    for kind, shape, contenders in cases:
        weight = torch.randn(max(1, int(shape[0] * scale)), *shape[1:], requires_grad=True)
        times = medians_in_turns(turns(weight, contenders), rounds)
        ours = times[OURS]
        others = [f"{times[name] / ours:.1f} x" if name in times else "" for name in (AUTOGRAD, VECTOR_NORM)]
        yield kind, "x".join(map(str, weight.shape)), f"{1e3 * ours:.2f}", f"{ours / times[COPY]:.1f}", *others


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the weights' rows")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    show(("groups", "weight", "ms", "copies", AUTOGRAD, VECTOR_NORM), rows(options.rounds, options.scale))
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
