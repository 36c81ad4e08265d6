"""Pruners and regularizers as the ancestor constructed them: ``L1Regularizer(name, model, reg_regims, ...)``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from limbeck.config.components import Builder
from limbeck.config.signature import signature
from limbeck.errors import ScheduleError

RANKED = ("group_type", "desired_sparsity", "weights", "group_dependency", "kwargs")
RANKED_AGP = ("initial_sparsity", "final_sparsity", "group_type", "weights", "group_dependency", "kwargs")
NAMED = ("name",)
NAMED_WITH_MODEL = ("name", "model")

ORDER: Mapping[str, tuple[str, ...]] = {
    "MagnitudeParameterPruner": ("thresholds",),
    "SparsityLevelParameterPruner": ("levels",),
    "SensitivityPruner": ("sensitivities",),
    "SplicingPruner": ("sensitivities", "low_thresh_mult", "hi_thresh_mult", "sensitivity_multiplier"),
    "AutomatedGradualPruner": ("initial_sparsity", "final_sparsity", "weights"),
    "BaiduRNNPruner": ("q", "ramp_epoch_offset", "ramp_slope_mult", "weights"),
    "StructureParameterPruner": ("reg_regims", "threshold_criteria"),
    "L1RankedStructureParameterPruner": (*RANKED, "noise", "group_size", "rounding_fn"),
    "L2RankedStructureParameterPruner": (*RANKED, "noise", "group_size", "rounding_fn"),
    "L1RankedStructureParameterPruner_AGP": RANKED_AGP,
    "L2RankedStructureParameterPruner_AGP": RANKED_AGP,
    "RandomLevelStructureParameterPruner": ("group_type", "sparsity_range", "weights", "group_dependency", "kwargs"),
    **{
        f"{kind}FilterPruner{ramp}": order
        for kind in ("ActivationAPoZRanked", "ActivationMeanRanked", "GradientRanked", "RandomRanked", "Bernoulli")
        for ramp, order in (("", RANKED[:4]), ("_AGP", RANKED_AGP[:5]))
    },
    "L1Regularizer": ("reg_regims", "threshold_criteria"),
    "GroupLassoRegularizer": ("reg_regims", "threshold_criteria"),
    "GroupVarianceRegularizer": ("reg_regims",),
}
"""The order of the ancestor's arguments by place, after the name (and, of a regularizer, the model)."""


def constructors(classes: Mapping[str, Builder], first: tuple[str, ...]) -> dict[str, Callable[..., Any]]:
    """A constructor for each class of a section; ``first`` are the arguments that the ancestor takes before a file's."""
    return {name: _constructor(name, builder, first) for name, builder in classes.items()}


def _constructor(class_name: str, builder: Builder, first: tuple[str, ...]) -> Callable[..., Any]:
    accepted = signature(builder, class_name)
    order = (*first, *ORDER.get(class_name, (str(field.alias) for field in accepted.model.model_fields.values())))

    def construct(*arguments: Any, **named: Any) -> Any:
        if len(arguments) > len(order):
            raise ScheduleError(f"{class_name} takes at most {len(order)} arguments by place: {', '.join(order)}")
        given = dict(zip(order, arguments, strict=False))
        twice = sorted(given.keys() & named.keys())
        if twice:
            raise ScheduleError(f"{class_name} is given '{twice[0]}' twice, by place and by name")
        given = {name: value for name, value in {**given, **named}.items() if name not in first}
        functions = {name: value for name, value in given.items() if name in accepted.functions}
        valid, problems = accepted.check({name: value for name, value in given.items() if name not in functions})
        if problems:
            raise ScheduleError("; ".join(problem.message for problem in problems), [problem.message for problem in problems])
        return builder(**valid, **functions)

    construct.__name__ = construct.__qualname__ = class_name
    construct.__doc__ = f"{(builder.__doc__ or class_name).strip()}\n\nThe ancestor's arguments by place: {', '.join(order)}."
    return construct
