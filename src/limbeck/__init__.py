"""Limbeck compresses PyTorch models on a schedule: a file says what and when, the training loop stays yours.

::

    scheduler = limbeck.load_schedule("agp.yaml", model, optimizer)
    for epoch in scheduler.epochs(40):
        for x, y in scheduler.steps(loader):
            loss = scheduler.loss(criterion(model(x), y))
            optimizer.zero_grad(); loss.backward(); optimizer.step()
        scheduler.metrics(loss=evaluate(model))

Names are imported when they are first used, so that ``import limbeck`` and the program's ``--help`` do not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limbeck.config import Plan, Rehearsal, Report, check_file, load_quantizer, load_schedule, plan, rehearse
    from limbeck.errors import (
        CaptureError,
        CheckpointError,
        DataError,
        LimbeckError,
        MaskError,
        MissingExtraError,
        QuantizationError,
        RecipeError,
        ScheduleError,
        ScheduleWarning,
        TargetError,
    )
    from limbeck.events import Action, State
    from limbeck.masks import Masks
    from limbeck.needs import Activations, Gradients
    from limbeck.optimizer import attach
    from limbeck.pruning import Prune, Pruner, Site
    from limbeck.pruning.criteria import Units
    from limbeck.pruning.tfmot import TFMOT
    from limbeck.pruning.translated import NeurST
    from limbeck.quantization import PostTrainLinearQuantizer, Stats, collect_stats
    from limbeck.ramps import Ramp
    from limbeck.regularization import Regularize, Regularizer
    from limbeck.scheduler import Scheduler
    from limbeck.schedules import Moment, Window
    from limbeck.thinning import Recipe, Thin, load_thinned, replay, save_thinned, thin
    from limbeck.tile import Tile
    from limbeck.training import LearningRate, PlateauDecay

_HOMES = {
    "limbeck.config": ("Plan", "Rehearsal", "Report", "check_file", "load_quantizer", "load_schedule", "plan", "rehearse"),
    "limbeck.errors": (
        "CaptureError",
        "CheckpointError",
        "DataError",
        "LimbeckError",
        "MaskError",
        "MissingExtraError",
        "QuantizationError",
        "RecipeError",
        "ScheduleError",
        "ScheduleWarning",
        "TargetError",
    ),
    "limbeck.events": ("Action", "State"),
    "limbeck.masks": ("Masks",),
    "limbeck.needs": ("Activations", "Gradients"),
    "limbeck.optimizer": ("attach",),
    "limbeck.pruning": ("Prune", "Pruner", "Site"),
    "limbeck.pruning.criteria": ("Units",),
    "limbeck.pruning.tfmot": ("TFMOT",),
    "limbeck.pruning.translated": ("NeurST",),
    "limbeck.quantization": ("PostTrainLinearQuantizer", "Stats", "collect_stats"),
    "limbeck.regularization": ("Regularize", "Regularizer"),
    "limbeck.scheduler": ("Scheduler",),
    "limbeck.ramps": ("Ramp",),
    "limbeck.schedules": ("Moment", "Window"),
    "limbeck.thinning": ("Recipe", "Thin", "load_thinned", "replay", "save_thinned", "thin"),
    "limbeck.tile": ("Tile",),
    "limbeck.training": ("LearningRate", "PlateauDecay"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "TFMOT",
    "Action",
    "Activations",
    "CaptureError",
    "CheckpointError",
    "DataError",
    "Gradients",
    "LearningRate",
    "LimbeckError",
    "MaskError",
    "Masks",
    "MissingExtraError",
    "Moment",
    "NeurST",
    "Plan",
    "PlateauDecay",
    "PostTrainLinearQuantizer",
    "Prune",
    "Pruner",
    "QuantizationError",
    "Ramp",
    "Recipe",
    "RecipeError",
    "Regularize",
    "Regularizer",
    "Rehearsal",
    "Report",
    "ScheduleError",
    "ScheduleWarning",
    "Scheduler",
    "Site",
    "State",
    "Stats",
    "TargetError",
    "Thin",
    "Tile",
    "Units",
    "Window",
    "attach",
    "check_file",
    "collect_stats",
    "load_quantizer",
    "load_schedule",
    "load_thinned",
    "plan",
    "rehearse",
    "replay",
    "save_thinned",
    "thin",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'limbeck' has no attribute '{name}'")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
