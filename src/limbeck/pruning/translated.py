"""The options of NeurST and of TensorFlow's model optimization (TFMOT), as Limbeck's policies: the same masks after the same steps.

What they share: ``due(t) = t >= begin and (t <= end or end < 0) and (t - begin) % frequency == 0``, with ``end`` included, and ``t`` from 1 on.

NeurST renews the mask of step ``t`` right after the ``t``-th update, before dropped weights are zero again: a policy with ``after_step``, whose
clock then counts ``t`` steps, in the window ``[begin, end + 1)``. ``t = 0`` is never seen, so with a begin of 0 the first renewal is at
``t = frequency``, and the window starts there, with a ramp that begins at 0.

TFMOT renews the mask of step ``t`` right before the ``t``-th forward pass, of weights as the update ``t - 1`` left them. So it does at ``t`` what
NeurST does at ``u = t - 1``: every number is one less, ``p = (t - begin) / (end - begin) = (u - (begin - 1)) / ((end - 1) - (begin - 1))``, and a begin
of 0 becomes a ramp from -1, whose first renewal is at ``u = frequency - 1``. Only ``u = 0``, before any update, needs a policy at the begin
of a step. (At the end of an epoch TFMOT masks the weights once more; Limbeck does not: where a renewal falls on the first step of an
epoch, dropped weights compete there with their last change, which TFMOT has just zeroed.)
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from limbeck.errors import ScheduleError, did_you_mean
from limbeck.events import Action
from limbeck.names import MATRICES, NOT, searched
from limbeck.pruning.action import Prune
from limbeck.pruning.methods import PRUNERS
from limbeck.schedules import Window

POLYNOMIAL, CONSTANT = "PolynomialDecay", "ConstantSparsity"
SCHEDULES = {
    alias: name
    for name, words in ((POLYNOMIAL, ("polynomial", "decay")), (CONSTANT, ("constant", "sparsity")))
    for alias in (name, "".join(words), "_".join(words))
}
"""How NeurST's ``pruning_schedule`` may be spelled."""
CLASS_OF = {POLYNOMIAL: "PolynomialDecayPruner", CONSTANT: "ConstantSparsityPruner"}
AT_ONCE = Window(0, 1, 1, "step")
FOR_EVER = -1


@dataclass(frozen=True)
class Span:
    """The steps ``t`` at which NeurST and TFMOT renew masks; ``end`` is included, and -1 is for ever.

    >>> Span(0, 500, 100).window(), Span(0, 500, 100).window(ahead=1).begin
    (Window(begin=100, end=501, every=100, unit='step', only=()), 99)
    """

    begin: int
    end: int
    every: int
    suffix: str = "_step"
    """Of the names of ``begin`` and ``end`` in messages."""

    def check(self, ramp: bool) -> None:
        """Raise ``ScheduleError`` for steps that are none, or that never come."""
        begin, end = f"begin{self.suffix}", f"end{self.suffix}"
        for name, value in ((begin, self.begin), (end, self.end), ("the frequency", self.every)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise ScheduleError(f"{name} {value!r} must be a whole number of steps")
        if self.begin < 0:
            raise ScheduleError(f"{begin} {self.begin} is before the first step; steps count from 0")
        if self.every < 1:
            raise ScheduleError(f"a frequency of {self.every} steps never fires; give 1 or more")
        if self.end < 0 and (ramp or self.end != FOR_EVER):
            why = "a polynomial decay must arrive somewhere" if ramp else f"only {FOR_EVER} stands for no end"
            raise ScheduleError(f"{end} {self.end}: {why}; give the last step at which masks are renewed")
        if self.end not in (FOR_EVER, max(self.begin, self.end)):
            raise ScheduleError(f"{end} {self.end} comes before {begin} {self.begin}; let the end be the later one")
        if self.end not in (FOR_EVER, self.begin) and self.first > self.end:
            raise ScheduleError(
                f"nothing would ever be pruned: from step {self.begin} on every {self.every}th step counts, step 0 is over before masks are renewed, "
                f"and {end} is {self.end}; let it be {self.first} or more, or {begin} 1"
            )

    @property
    def first(self) -> int:
        """The first renewal; 0, which is at once, where the begin is the end and both are 0."""
        return self.begin or (self.every if self.end else 0)

    def window(self, ahead: int = 0, skip: int = 0) -> Window | None:
        """The renewals but for the first ``skip``, ``ahead`` steps earlier; None where no more are left."""
        begin = self.first + skip * self.every
        if self.end == FOR_EVER:
            return Window(begin - ahead, None, self.every, "step")
        return Window(begin - ahead, self.end + 1 - ahead, self.every, "step") if begin <= self.end else None


@dataclass(frozen=True)
class Step:
    """One policy by step: a class of the schedule file and its arguments, when it fires, and whether at a step's begin or after its update."""

    class_name: str
    arguments: Mapping[str, Any]
    window: Window
    after_step: bool = False

    def policy(self) -> tuple[Window, Action]:
        """What a scheduler runs."""
        return self.window, Prune(PRUNERS[self.class_name](**self.arguments), after_step=self.after_step)


@dataclass(frozen=True)
class NeurST:
    """NeurST's pruning options, with its names and defaults, for ``limbeck.attach``.

    Every weight of two dimensions or more is pruned, or those that ``pruning_variable_pattern`` finds in a name (``re.search``, in the names of
    ``model.named_parameters()``), or else all but those that ``nopruning_variable_pattern`` finds. Biases and gains, which NeurST prunes too, are only
    pruned with ``prune_vectors``. ``target_sparsity`` 0 prunes nothing. The step counts updates of this scheduler, and ``end_pruning_step``
    is included; -1 is for ever, for a constant sparsity alone. ``keep_prune_property`` lets zeros of the model stay zero until the first renewal.

    >>> options = NeurST(target_sparsity=0.5, end_pruning_step=500)
    >>> [(step.class_name, step.window.begin, step.window.end) for step in options.steps()]
    [('KeepZerosPruner', 0, 1), ('PolynomialDecayPruner', 100, 501)]

    What differs from NeurST: the schedule resumes; exactly as many weights are kept as asked for, where NeurST keeps all ties; one weight at least is
    kept, where it fails; a begin that is the end prunes to the target at once, where it gives NaN; a pattern that matches nothing is an
    error; a tensor that is zero as a whole is not frozen.

    Raises ``ScheduleError`` for values that NeurST refuses, and for steps at which nothing would ever be pruned.
    """

    pruning_schedule: str = "polynomial_decay"
    initial_sparsity: float = 0.0
    target_sparsity: float = 0.0
    begin_pruning_step: int = 0
    end_pruning_step: int = FOR_EVER
    pruning_frequency: int = 100
    polynomial_power: float = 3.0
    pruning_variable_pattern: str | None = None
    nopruning_variable_pattern: str | None = None
    keep_prune_property: bool = True
    prune_vectors: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.pruning_schedule, str) or self.pruning_schedule not in SCHEDULES:
            remedy = did_you_mean(str(self.pruning_schedule), SCHEDULES) or f"; give one of {', '.join(SCHEDULES)}"
            raise ScheduleError(f"no pruning_schedule is named '{self.pruning_schedule}'{remedy}")
        check_sparsity("target_sparsity", self.target_sparsity)
        check_sparsity("initial_sparsity", self.initial_sparsity)
        check_power("polynomial_power", self.polynomial_power)
        for name in ("pruning_variable_pattern", "nopruning_variable_pattern"):
            _check_pattern(name, getattr(self, name))
        for name in ("keep_prune_property", "prune_vectors"):
            if not isinstance(value := getattr(self, name), bool):
                raise ScheduleError(f"{name} {value!r} must be true or false")
        if self.target_sparsity:
            self.span.check(self.polynomial)

    @property
    def polynomial(self) -> bool:
        """Whether the sparsity follows a ramp; else it is constant."""
        return SCHEDULES[self.pruning_schedule] == POLYNOMIAL

    @property
    def span(self) -> Span:
        """When masks are renewed."""
        return Span(self.begin_pruning_step, self.end_pruning_step, self.pruning_frequency, "_pruning_step")

    @property
    def weights(self) -> list[str]:
        """The targets."""
        if self.pruning_variable_pattern is not None:
            target = searched(self.pruning_variable_pattern)
        elif self.nopruning_variable_pattern is not None:
            target = NOT + searched(self.nopruning_variable_pattern)
        else:
            target = "*"
        return [target if self.prune_vectors else MATRICES + target]

    def steps(self, weights: Sequence[str] | None = None) -> list[Step]:
        """The policies; none where ``target_sparsity`` is 0. ``weights`` are targets in place of those that the patterns make."""
        if not self.target_sparsity:
            return []
        weights = self.weights if weights is None else list(weights)
        zeros = [Step("KeepZerosPruner", {"weights": weights}, AT_ONCE)] if self.keep_prune_property and self.span.first else []
        arguments: dict[str, Any] = {"target_sparsity": self.target_sparsity}
        if self.polynomial:
            arguments |= {"initial_sparsity": self.initial_sparsity, "power": self.polynomial_power}
            arguments |= {} if self.begin_pruning_step else {"begin_step": 0}
        arguments["weights"] = weights
        return [*zeros, *renewals(CLASS_OF[SCHEDULES[self.pruning_schedule]], arguments, self.span, ahead=0)]


def renewals(class_name: str, arguments: Mapping[str, Any], span: Span, ahead: int) -> list[Step]:
    """The policies of a span: after the update, and at once where a mask is due before any."""
    at_once = span.first <= ahead
    steps = [Step(class_name, arguments, AT_ONCE)] if at_once else []
    window = span.window(ahead, skip=int(at_once))
    return steps if window is None else [*steps, Step(class_name, arguments, window, after_step=True)]


def check_sparsity(name: str, value: object) -> None:
    """Raise ``ScheduleError`` for what is no fraction of zeros below 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ScheduleError(f"{name} {value!r} must be a fraction of zeros: 0 or more, and below 1")


def _check_pattern(name: str, pattern: object) -> None:
    """Raise ``ScheduleError`` for what is no regular expression; None is no pattern."""
    if pattern is not None and not isinstance(pattern, str):
        raise ScheduleError(f"{name} {pattern!r} must be a text, a regular expression; in a file put it in quotes")
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise ScheduleError(f"{name} '{pattern}' is not a regular expression: {error}") from error


def check_power(name: str, value: object) -> None:
    """Raise ``ScheduleError`` for a power that makes no ramp."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ScheduleError(f"{name} {value!r} must be a number above 0; 1 is a straight line, 3 is usual")
