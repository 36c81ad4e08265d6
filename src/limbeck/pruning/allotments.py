"""How an amount that is asked of all tensors is spread over them, by their shapes alone: ``(shapes, amounts) -> amounts``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from limbeck.pruning.pruner import Allot

EXACT = 1e-13  # of a tensor's size: what floating point loses on the way


def erdos_renyi_kernel(shapes: Mapping[str, Sequence[int]], amounts: Mapping[str, float]) -> dict[str, float]:
    """Tensors keep in proportion to the sum of their axes, not to their product, so that large ones are sparser (Evci et al. 2020, arXiv 1911.11134).

    As many elements are kept of all together as the ``amounts`` would keep, but for what each tensor rounds. A tensor that would keep more than it
    has is dense, and the others keep what that leaves.

    >>> spread = erdos_renyi_kernel({"small": (10, 10), "large": (10, 100)}, {"small": 0.5, "large": 0.5})
    >>> {name: round(amount, 4) for name, amount in spread.items()}  # 550 are kept: 20 and 110 parts of 130
    {'small': 0.1538, 'large': 0.5346}
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    kept = sum((1 - amounts[name]) * size for name, size in sizes.items())
    densities = dict.fromkeys(shapes, 1.0)
    sparse = [name for name, size in sizes.items() if size]
    while sparse:
        rest = max(0.0, kept - sum(size for name, size in sizes.items() if name not in sparse))
        part = rest / sum(sum(shapes[name]) or 1 for name in sparse)
        densities |= {name: part * (sum(shapes[name]) or 1) / sizes[name] for name in sparse}
        dense = [name for name in sparse if densities[name] >= 1]
        if not dense:
            break
        densities |= dict.fromkeys(dense, 1.0)
        sparse = [name for name in sparse if name not in dense]
    return {name: _amount((1 - density) * sizes[name], sizes[name]) for name, density in densities.items()}


def _amount(dropped: float, size: int) -> float:
    """The fraction; where a whole number is meant, one of which the product with the size is no less: 1 - (1 - 0.1) is, of ten units."""
    whole = round(dropped)
    if not size or abs(dropped - whole) > EXACT * size:
        return dropped / max(1, size)
    return whole / size if whole / size * size >= whole else math.nextafter(whole / size, 1.0)


ALLOTMENTS: dict[str, Allot | None] = {"erdos_renyi_kernel": erdos_renyi_kernel, "uniform": None}
"""Names of the ways to spread an amount; ``uniform`` asks the same of each tensor."""
