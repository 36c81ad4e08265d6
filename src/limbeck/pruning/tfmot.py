"""What ``prune_low_magnitude`` of TensorFlow's model optimization (TFMOT) takes, as Limbeck's policies.

Sources: ``tensorflow_model_optimization/python/core/sparsity/keras/`` ``pruning_schedule.py``, ``pruning_impl.py`` and ``pruning_wrapper.py``. How its steps
become Limbeck's stands in ``limbeck.pruning.translated``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from limbeck.errors import ScheduleError, did_you_mean
from limbeck.names import MATRICES, matches
from limbeck.pruning.translated import AT_ONCE, CLASS_OF, CONSTANT, FOR_EVER, POLYNOMIAL, Span, Step, check_power, check_sparsity, renewals

CONFIGS = {
    POLYNOMIAL: ("initial_sparsity", "final_sparsity", "begin_step", "end_step", "power", "frequency"),
    CONSTANT: ("target_sparsity", "begin_step", "end_step", "frequency"),
}
"""What TFMOT's schedules take."""
DEFAULTS: dict[str, Any] = {"end_step": FOR_EVER, "power": 3.0, "frequency": 100}
NEEDED = {POLYNOMIAL: CONFIGS[POLYNOMIAL][:4], CONSTANT: CONFIGS[CONSTANT][:2]}
RAMP = {"initial_sparsity": "initial_sparsity", "target_sparsity": "final_sparsity", "power": "power"}
"""The arguments of a ramp here, and their names there."""


@dataclass(frozen=True)
class TFMOT:
    """What ``prune_low_magnitude`` of TFMOT takes, for ``limbeck.attach``; ``pruning_schedule`` is the schedule's ``get_config()``.

    Pruned are the weights of two dimensions or more, or ``weights``: names, globs, ``re:REGEX``. ``block_size`` is that of TFMOT, whose matrices are
    ``[in, out]``. ``sparsity_m_by_n`` **counts zeros**: (1, 4) drops 1 and keeps 3 of every 4 along the input axis; NVIDIA's "1:4"
    keeps 1. Such masks are made once, before the first step, and the schedule is not used, as in TFMOT.

    >>> ramp = {"class_name": "PolynomialDecay", "config": {"initial_sparsity": 0.5, "final_sparsity": 0.8, "begin_step": 0, "end_step": 400}}
    >>> [(step.window.begin, step.window.end, step.arguments["begin_step"]) for step in TFMOT(ramp).steps()]
    [(99, 400, -1)]

    Raises ``ScheduleError`` for what TFMOT refuses, and for steps at which nothing would ever be pruned; ``TargetError`` for a ``re:REGEX`` that is none.
    """

    pruning_schedule: Mapping[str, Any]
    weights: str | Sequence[str] = (f"{MATRICES}*",)
    block_size: tuple[int, int] = (1, 1)
    block_pooling_type: str = "AVG"
    sparsity_m_by_n: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        given = _spelled("the schedule", self.pruning_schedule, ("class_name", "config"))
        name = given.get("class_name")
        if not isinstance(name, str) or name not in CONFIGS:
            remedy = did_you_mean(str(name), CONFIGS) or f"; give one of {', '.join(CONFIGS)}"
            raise ScheduleError(f"no schedule of TFMOT is named '{name}'{remedy}")
        for key in NEEDED[name]:
            if key not in self.config:
                raise ScheduleError(f"{name} needs '{key}'; get_config() of the schedule has it")
            if key.endswith("_sparsity"):
                check_sparsity(key, self.config[key])
        check_power("power", self.config.get("power", 1))
        _check_targets(self._targets)
        if self.block_pooling_type not in ("AVG", "MAX"):
            raise ScheduleError(f"no block_pooling_type is named '{self.block_pooling_type}'; give AVG or MAX")
        if len(self.block_size) != 2 or min(self.block_size) < 1:
            raise ScheduleError(
                f"block_size {tuple(self.block_size)} must be two numbers from 1 on: rows and columns of a kernel [in, out]"
            )
        self.span.check(name == POLYNOMIAL)
        if self.sparsity_m_by_n is not None:
            zeros, size = self.sparsity_m_by_n
            if not 0 < zeros < size:
                raise ScheduleError(
                    f"sparsity_m_by_n ({zeros}, {size}) would drop {zeros} of every {size}; the first must lie between 0 and the second"
                )
            if tuple(self.block_size) != (1, 1):
                raise ScheduleError(
                    f"sparsity_m_by_n chooses single weights, and block_size {tuple(self.block_size)} does not; give one of the two"
                )

    @property
    def config(self) -> Mapping[str, Any]:
        """The schedule's own arguments, defaults included."""
        name = self.pruning_schedule["class_name"]
        given = _spelled(name, self.pruning_schedule.get("config") or {}, CONFIGS[name])
        return {**{key: value for key, value in DEFAULTS.items() if key in CONFIGS[name]}, **given}

    @property
    def span(self) -> Span:
        """When masks are renewed."""
        return Span(self.config["begin_step"], self.config["end_step"], self.config["frequency"])

    @property
    def _targets(self) -> list[str]:
        return [self.weights] if isinstance(self.weights, str) else list(self.weights)

    def steps(self) -> list[Step]:
        """The policies."""
        weights = self._targets
        if self.sparsity_m_by_n is not None:
            zeros, size = self.sparsity_m_by_n
            return [Step("Pruner", {"n_of_m": f"{size - zeros}:{size}", "weights": weights}, AT_ONCE)]
        config, span, name = self.config, self.span, self.pruning_schedule["class_name"]
        if name == POLYNOMIAL:
            arguments = {key: config[other] for key, other in RAMP.items()}
            window = span.window(ahead=1)
            if span.first <= 1 or window is None or window.begin != span.begin - 1:
                arguments |= {"begin_step": span.begin - 1, "end_step": span.end - 1}
        else:
            arguments = {"target_sparsity": config["target_sparsity"]}
        if tuple(self.block_size) != (1, 1):
            rows, columns = self.block_size
            arguments |= {"block_size": [columns, rows], "block_pooling_type": self.block_pooling_type}
        return renewals(CLASS_OF[name], {**arguments, "weights": weights}, span, ahead=1)


def _check_targets(targets: Sequence[str]) -> None:
    """Raise ``ScheduleError`` where there are none, and ``TargetError`` for one that is not well formed."""
    if not targets:
        raise ScheduleError("weights names no parameter, so nothing would ever be pruned; name one, or leave weights out")
    for target in targets:
        matches(target, "")


def _spelled(what: str, given: object, known: Sequence[str]) -> Mapping[str, Any]:
    """A mapping whose keys are all known."""
    if not isinstance(given, Mapping):
        raise ScheduleError(f"{what} must be a mapping of {', '.join(known)}, not {given!r}")
    for key in given:
        if key not in known:
            remedy = did_you_mean(str(key), known) or f"; it has {', '.join(known)}"
            raise ScheduleError(f"{what} has no '{key}'{remedy}")
    return given
