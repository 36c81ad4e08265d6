"""Searches for the setting of a quantized model that costs least: choices tensor by tensor, and ranges coordinate by coordinate.

A search is a generator of ever better settings, each with its loss: whoever runs it may stop it anywhere and keep the last one, which is how a budget works
(``limbeck.quantization.trials``). It knows of its problem only ``evaluate``, a function from a setting to a loss; NaN counts as infinite.

Sources: ``distiller/quantization/ptq_greedy_search.py`` (layer by layer, the best of several clippings, all earlier ones kept); Nahshan et al. 2019, "Loss
Aware Post-training Quantization" (LAPQ, arXiv 1911.07190): layer-wise norms, a parabola through their losses, and then Powell's method on all ranges at once
(Powell 1964, doi 10.1093/comjnl/7.2.155).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
FLAT = 1e-12
"""Second differences up to this are no parabola."""


@dataclass(frozen=True)
class Step(Generic[T]):
    """A setting that is better than all before it, by name, and its loss."""

    setting: Mapping[str, T]
    loss: float


def best_start(starts: Sequence[Mapping[str, T]], evaluate: Callable[[Mapping[str, T]], float]) -> Iterator[Step[T]]:
    """The settings of a list, as far as each is better than those before it.

    >>> [step.loss for step in best_start([{"a": 3.0}, {"a": 5.0}, {"a": 1.0}], lambda setting: setting["a"])]
    [3.0, 1.0]

    Raises ``ValueError`` for an empty list.
    """
    if not starts:
        raise ValueError("a search begins somewhere; give at least one setting to start from")
    best: Step[T] | None = None
    for start in starts:
        found = _measured(start, evaluate)
        if best is None or found.loss < best.loss:
            best = found
            yield best


def greedy(
    choices: Mapping[str, Sequence[T]], evaluate: Callable[[Mapping[str, T]], float], start: Step[T], rounds: int = 1
) -> Iterator[Step[T]]:
    """Name by name, the choice with the least loss, all others as they are found so far; again while a round finds something, up to ``rounds``.

    One round costs as many evaluations as there are choices, less one for each name. The first step is ``start``.

    >>> steps = greedy({"a": (1, 3), "b": (1, 2)}, lambda at: abs(at["a"] - 3) + abs(at["b"] - 2), Step({"a": 1, "b": 1}, 3.0))
    >>> [(dict(step.setting), step.loss) for step in steps]
    [({'a': 1, 'b': 1}, 3.0), ({'a': 3, 'b': 1}, 1), ({'a': 3, 'b': 2}, 0)]
    """
    best = start
    yield best
    for _ in range(rounds):
        before = best
        for name, options in choices.items():
            for option in options:
                if option == best.setting[name]:
                    continue
                found = _measured({**best.setting, name: option}, evaluate)
                if found.loss < best.loss:
                    best = found
                    yield best
        if best is before:
            return


def narrow(
    widths: Mapping[str, Sequence[int]], evaluate: Callable[[Mapping[str, int]], float], start: Step[int], most: float,
    sizes: Mapping[str, float],
) -> Iterator[Step[int]]:  # fmt: skip
    """Fewer bits, one tensor at a time, as long as the loss stays within ``most``: each time the one that costs least loss for each bit that it saves.

    ``widths`` are the bits that each name may have, and ``sizes`` how many numbers it holds. Each step has fewer bits in all than the one before, and a loss
    of ``most`` at the most. A name that broke that bound is not tried at fewer bits any more. Only the cheapest is measured again after a step ("lazy"
    greedy: Minoux 1978). The first step is ``start``.

    >>> widths = {"a": (8, 4), "b": (8, 4)}
    >>> steps = narrow(widths, lambda bits: 0.1 * (bits["a"] < 8) + 1.0 * (bits["b"] < 8), Step({"a": 8, "b": 8}, 0.0), 0.5, {"a": 1, "b": 1})
    >>> [dict(step.setting) for step in steps]
    [{'a': 8, 'b': 8}, {'a': 4, 'b': 8}]
    """
    best = start
    yield best
    known = [(-math.inf, name) for name in widths]  # what a bit costs, as it was when it was measured; it seldom falls since
    while known:
        known.sort()
        name = known.pop(0)[1]
        lower = max((bits for bits in widths[name] if bits < best.setting[name]), default=None)
        if lower is None:
            continue
        tried = _measured({**best.setting, name: lower}, evaluate)
        if tried.loss > most:
            continue
        cost = (tried.loss - best.loss) / ((best.setting[name] - lower) * sizes[name])
        if known and cost > known[0][0]:
            known.append((cost, name))
        else:
            best = tried
            yield best
            known.append((-math.inf, name))


def powell(
    start: Step[float], evaluate: Callable[[Mapping[str, float]], float], reach: float = 0.25, rounds: int = 2
) -> Iterator[Step[float]]:
    """Factors, all above 0, moved one after the other to where a parabola through three losses is least; then all along the way that the round has gone.

    The three points of a name are its factor, and that divided and multiplied by ``1 + reach``; distances count on a log scale. The round's own way is
    Powell's new direction. Each round halves ``reach``, which bounds how far the parabola is followed to twice of it. The first step is ``start``.

    >>> import math
    >>> steps = list(powell(Step({"a": 1.0, "b": 1.0}, 2.0), lambda at: math.log(at["a"] / 2) ** 2 + math.log(at["b"] * 2) ** 2, 0.5, 3))
    >>> round(steps[-1].setting["a"], 6), round(steps[-1].setting["b"], 6)
    (2.0, 0.5)
    """
    best = start
    yield best
    for _ in range(rounds):
        before = best
        for name in start.setting:
            for found in _along(best, {name: math.log1p(reach)}, evaluate):
                best = found
                yield best
        way = {name: math.log(factor / before.setting[name]) for name, factor in best.setting.items()}
        if sum(map(bool, way.values())) > 1:
            for found in _along(best, way, evaluate):
                best = found
                yield best
        reach /= 2


def _along(best: Step[float], way: Mapping[str, float], evaluate: Callable[[Mapping[str, float]], float]) -> Iterator[Step[float]]:
    """What is better than ``best`` along a way, in logarithms of factors: one way forth, one back, and where the parabola of the three is least."""

    def at(length: float) -> Step[float]:
        moved = {name: factor * math.exp(length * way.get(name, 0.0)) for name, factor in best.setting.items()}
        return _measured(moved, evaluate)

    middle, forth, back = best, at(1.0), at(-1.0)
    least = middle
    for found in (forth, back):
        if found.loss < least.loss:
            least = found
            yield least
    length = vertex(back.loss, middle.loss, forth.loss)
    if length is not None and (found := at(max(-2.0, min(2.0, length)))).loss < least.loss:
        yield found


def vertex(left: float, middle: float, right: float) -> float | None:
    """Where the parabola through ``(-1, left)``, ``(0, middle)`` and ``(1, right)`` is least; None where it opens downwards, is flat, or a point is infinite.

    >>> vertex(9.0, 4.0, 1.0), vertex(1.0, 1.0, 1.0), vertex(4.0, 1.0, 4.0)    # (x - 2) ** 2
    (2.0, None, 0.0)
    """
    bend = left - 2 * middle + right
    if not math.isfinite(bend) or bend <= FLAT:
        return None
    return (left - right) / (2 * bend)


def _measured(setting: Mapping[str, T], evaluate: Callable[[Mapping[str, T]], float]) -> Step[T]:
    loss = evaluate(setting)
    return Step(setting, math.inf if math.isnan(loss) else loss)
