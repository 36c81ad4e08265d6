"""How much of each parameter goes: the smallest rise of the loss, summed over parameters, within a budget.

The rises are taken to add up, so this is ``min sum_p rise_p(k_p)`` subject to ``cost(k) <= budget``. It is solved by Lagrangian relaxation
(Everett 1963, "Generalized Lagrange multiplier method"): for a price of the cost each parameter takes its best level in turn until none
changes; the price is found by bisection; what the budget then leaves is spent where it lowers the loss most for its cost. Costs need not be
sums over parameters: a convolution that loses filters makes its reader cheaper, too. Where they are sums and rises are convex, this is the
optimum up to a last unit.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from limbeck.errors import DataError
from limbeck.sensitivity.costs import Costs
from limbeck.sensitivity.curves import Curve

UNITS, STEP = 256, 0.005
"""Of a parameter with more units than these, levels this far apart are tried."""
EVEN = 1e-6
"""Weighs ``fraction ** 2``, against the largest rise: parameters whose loss does not rise at all are pruned alike."""
SWEEPS, HALVINGS = 20, 50

Choices = Mapping[str, tuple[NDArray[np.int64], NDArray[np.float64]]]
"""By parameter: how many units may go, and by how much the loss rises then."""


def allocate(curves: Mapping[str, Curve], costs: Costs, budget: float) -> dict[str, int]:
    """How many units of each parameter go, so that no more than ``budget`` times the dense cost is left.

    >>> half = Costs({"a": (10,), "b": (10,)}, {"a": 1.0, "b": 1.0}, {"a": 10, "b": 10}, {"a": {("a", 0): 1}, "b": {("b", 0): 1}})
    >>> allocate({"a": Curve((0.0, 0.9), (0.0, 9.0)), "b": Curve((0.0, 0.8), (0.0, 0.1))}, half, 0.5)
    {'a': 2, 'b': 8}

    Raises ``DataError`` when the highest measured levels do not reach the budget.
    """
    most = budget * costs.total({})
    choices = _choices(curves, costs)
    all_of_it = {name: int(counts[-1]) for name, (counts, _) in choices.items()}
    if costs.total(all_of_it) > most:
        least = costs.total(all_of_it) / costs.total({})
        raise DataError(
            f"the budget of {budget:.4g} cannot be reached: with {len(choices)} parameters at their highest measured levels {least:.4g} is left; "
            "measure more parameters or higher levels, or allow more"
        )
    dropped = _priced(choices, costs, most)
    return _given_back(choices, costs, most, all_of_it if dropped is None else dropped)


def _choices(curves: Mapping[str, Curve], costs: Costs) -> Choices:
    largest = max([curve.rises[-1] for curve in curves.values()], default=0.0) or 1.0
    dense = costs.total({})
    found = {}
    for name, curve in curves.items():
        number = costs.units[name]
        most = int(curve.highest * number + 1e-9)
        counts = np.arange(most + 1)
        if most > UNITS:
            counts = np.unique([*(int(level * number) for level in np.arange(0, curve.highest, STEP)), most])
        share = (dense - costs.total({name: number})) / dense
        found[name] = counts, curve.at(counts / number) + EVEN * largest * share * (counts / number) ** 2
    return found


def _priced(choices: Choices, costs: Costs, most: float) -> dict[str, int] | None:
    """The solution at the lowest price that keeps the budget; None where none does, which only costs that are no sums allow."""
    low, high, best = 0.0, 1 / max(most, 1.0), None
    for _ in range(2 * HALVINGS):
        best = _at_price(choices, costs, high)
        if costs.total(best) <= most:
            break
        low, high, best = high, 4 * high, None
    for _ in range(HALVINGS if best is not None else 0):
        middle = (low + high) / 2
        found = _at_price(choices, costs, middle)
        if costs.total(found) <= most:
            high, best = middle, found
        else:
            low = middle
    return best


def _at_price(choices: Choices, costs: Costs, price: float) -> dict[str, int]:
    """Each parameter in turn at its best, given the others, until none changes: the sum of rise and priced cost only falls."""
    dropped = dict.fromkeys(choices, 0)
    for _ in range(SWEEPS):
        before = dict(dropped)
        for name, (counts, rises) in choices.items():
            dropped[name] = int(counts[int(np.argmin(rises + price * costs.along(name, counts, dropped)))])
        if dropped == before:
            break
    return dropped


def _given_back(choices: Choices, costs: Costs, most: float, dropped: dict[str, int]) -> dict[str, int]:
    """Units come back where that lowers the loss most for what it costs, as long as the budget allows."""
    dropped = dict(dropped)
    while True:
        best, found = 0.0, None
        room = most - costs.total(dropped)
        for name, (counts, rises) in choices.items():
            now = int(np.searchsorted(counts, dropped[name]))
            if not now:
                continue
            along = costs.along(name, counts[: now + 1], dropped)
            dearer, gain = along[:now] - along[now], rises[now] - rises[:now]
            ratio = np.where((dearer <= room) & (gain > 0), gain / np.maximum(dearer, 1e-12), 0.0)
            if ratio.max() > best:
                best, found = float(ratio.max()), (name, int(counts[int(np.argmax(ratio))]))
        if found is None:
            return dropped
        dropped[found[0]] = found[1]
