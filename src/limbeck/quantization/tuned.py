"""The ranges of a quantized model as something that is searched: for each tensor a clipping, and a factor on what it gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from limbeck.errors import QuantizationError
from limbeck.quantization.post_train import PostTrainLinearQuantizer
from limbeck.quantization.search import Step, best_start, greedy, powell, vertex

Choice = tuple[str, float]
"""A clipping, and the factor by which both ends of its range are multiplied."""
Setting = Mapping[str, Choice]
"""By the names of ranges."""
Evaluate = Callable[[Setting], float]

AS_IT_IS = "given"
"""The range that the quantizer was made with, whatever it came from."""
CLIPPINGS = ("none", "avg", "gauss", "laplace", "kl", "mse")
"""What a search tries for activations."""
FOR_WEIGHTS = ("mse",)
"""And for weights, of which a channel's few numbers have no outliers to speak of, and of which there may be many channels."""
WEIGHT = ".weight"
POWERS = (2.0, 2.5, 3.0, 3.5, 4.0)
"""Of the norms of LAPQ."""


class Tuned:
    """A prepared quantizer whose ranges are changed: ``apply`` puts a setting in place, and only what differs from the last one is computed.

    >>> import torch
    >>> from torch import nn
    >>> from limbeck.quantization import collect_stats
    >>> model = nn.Sequential(nn.Linear(4, 3)).eval()
    >>> with collect_stats(model) as collected:
    ...     _ = model(torch.ones(2, 4))
    >>> quantizer = PostTrainLinearQuantizer(model, model_activation_stats=collected.stats, save_fp_weights=True)
    >>> _ = quantizer.prepare_model((torch.ones(2, 4),))
    >>> tuned = Tuned(quantizer)
    >>> sorted(tuned.start)
    ['0.inputs.0', '0.output', '0.weight']
    >>> before = quantizer.ranges["0.weight"][1].clone()
    >>> tuned.apply({**tuned.start, "0.weight": ("given", 0.5)})
    >>> bool(torch.allclose(quantizer.ranges["0.weight"][1], before / 2))
    True

    Raises ``QuantizationError`` for a model without ranges, as one is that computes with floats alone, or whose ranges are taken anew of every batch.
    """

    def __init__(self, quantizer: PostTrainLinearQuantizer) -> None:
        self._quantizer = quantizer
        self._given = dict(quantizer.ranges)
        self._first = quantizer.clippings
        if not self._given:
            raise QuantizationError("the quantized model has no ranges to search; give statistics, and bits to some layers")
        self._applied: dict[str, Choice] = dict(self.start)
        self._known: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}

    @property
    def start(self) -> dict[str, Choice]:
        """Every range as it is."""
        return dict.fromkeys(self._given, (AS_IT_IS, 1.0))

    @property
    def activations(self) -> list[str]:
        """The names of ranges that are not a weight's."""
        return [name for name in self._given if not name.endswith(WEIGHT)]

    def apply(self, setting: Setting) -> None:
        """Give the model these ranges; raises ``QuantizationError`` for a name that it lacks and for a clipping that does not go with a tensor."""
        for name, (clipping, factor) in setting.items():
            if self._applied.get(name) != (clipping, factor):
                low, high = self._range(name, clipping)
                self._quantizer.set_range(name, low * factor, high * factor, self._told(name, clipping, factor))
                self._applied[name] = (clipping, factor)

    def _told(self, name: str, clipping: str, factor: float) -> str:
        """A choice in words: ``mse``, or ``mse x 0.8``."""
        what = self._first[name] if clipping == AS_IT_IS else clipping
        return what if factor == 1 else f"{what or 'none'} x {factor:.3g}"

    def allows(self, name: str, clipping: str) -> bool:
        """Whether a clipping can be taken for a tensor: not all are known for all numbers of bits, and some need histograms."""
        try:
            self._range(name, clipping)
        except ValueError:
            return False
        return True

    def _range(self, name: str, clipping: str) -> tuple[Tensor, Tensor]:
        if clipping == AS_IT_IS and name in self._given:
            return self._given[name]
        key = (name, clipping)
        if key not in self._known:
            self._known[key] = self._quantizer.clipped(name, clipping)
        return self._known[key]


def starts(tuned: Tuned, clippings: Sequence[str] = CLIPPINGS) -> list[dict[str, Choice]]:
    """The setting as it is, and for each clipping the one that takes it for all activations that allow it."""
    return [tuned.start, *(uniform(tuned, clipping) for clipping in clippings)]


def uniform(tuned: Tuned, clipping: str) -> dict[str, Choice]:
    """One clipping for all activations that allow it; weights stay as they are."""
    return tuned.start | {name: (clipping, 1.0) for name in tuned.activations if tuned.allows(name, clipping)}


def best_clippings(tuned: Tuned, evaluate: Evaluate, rounds: int = 1) -> Iterator[Step[Choice]]:
    """Greedy: the best clipping for all, and then for each tensor, in the order of the model, the best one for it.

    Source: ``distiller/quantization/ptq_greedy_search.py``.
    """
    best = yield from _following(best_start(starts(tuned), evaluate))
    tried = {name: FOR_WEIGHTS if name.endswith(WEIGHT) else CLIPPINGS for name in tuned.start}
    choices = {name: [(clipping, 1.0) for clipping in found if tuned.allows(name, clipping)] for name, found in tried.items()}
    yield from greedy(choices, evaluate, best, rounds)


def lapq(tuned: Tuned, evaluate: Evaluate, rounds: int = 2, start: Step[Choice] | None = None) -> Iterator[Step[Choice]]:
    """Loss-aware: the best norm for all tensors, by a parabola through the losses of several powers, and then Powell's method on the factors of all.

    Other clippings than norms are tried as well, and ``start``, which is the best of an earlier search.

    Source: Nahshan et al. 2019, arXiv 1911.07190, section 4.
    """
    if start is None:
        best = yield from _following(best_start(starts(tuned), evaluate))
        best = yield from _following(_best_power(tuned, evaluate, best))
    else:
        best = start
    chosen = best.setting

    def with_factors(factors: Mapping[str, float]) -> dict[str, Choice]:
        return {name: (clipping, factors[name]) for name, (clipping, _) in chosen.items()}

    factors = Step({name: factor for name, (_, factor) in chosen.items()}, best.loss)
    for step in powell(factors, lambda moved: evaluate(with_factors(moved)), rounds=rounds):
        yield replace(best, setting=with_factors(step.setting), loss=step.loss)


def both(tuned: Tuned, evaluate: Evaluate, rounds: int = 1) -> Iterator[Step[Choice]]:
    """The best clipping of each tensor, and Powell's method from there."""
    best = yield from _following(best_clippings(tuned, evaluate, rounds))
    yield from lapq(tuned, evaluate, start=best)


SEARCHES: Mapping[str, Callable[[Tuned, Evaluate], Iterator[Step[Choice]]]] = {"greedy": best_clippings, "lapq": lapq, "both": both}
"""By the names of options."""


def _best_power(tuned: Tuned, evaluate: Evaluate, best: Step[Choice]) -> Iterator[Step[Choice]]:
    """What is better than ``best``: a norm for all activations, its power on a parabola through the losses of the best of ``POWERS`` and its neighbours."""
    yield best
    losses = []
    for power in POWERS:
        setting = uniform(tuned, f"l{power:g}")
        losses.append(evaluate(setting))
        if losses[-1] < best.loss:
            best = Step(setting, losses[-1])
            yield best
    least = min(range(1, len(POWERS) - 1), key=lambda place: losses[place])
    shift = vertex(losses[least - 1], losses[least], losses[least + 1])
    if shift is not None and math.isfinite(shift):
        power = min(max(POWERS[least] + shift * (POWERS[1] - POWERS[0]), 1.0), 6.0)
        setting = uniform(tuned, f"l{power:.3g}")
        loss = evaluate(setting)
        if loss < best.loss:
            yield Step(setting, loss)


def _following(steps: Iterator[Step[Choice]]) -> Generator[Step[Choice], None, Step[Choice]]:
    """Pass steps on, and return the last one."""
    last: Step[Choice] | None = None
    for step in steps:
        last = step
        yield step
    assert last is not None
    return last
