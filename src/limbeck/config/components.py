"""Which classes a schedule file may name, section by section: the one module that knows every algorithm package, by its plain tables."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from limbeck.events import Action
from limbeck.pruning import Prune, Pruner
from limbeck.pruning.methods import PRUNERS
from limbeck.quantization.quantizers import QUANTIZERS, PostTraining
from limbeck.regularization import REGULARIZERS, Regularize, Regularizer
from limbeck.thinning import Thin
from limbeck.thinning.extensions import EXTENSIONS, Remover
from limbeck.training.learning_rate import NEEDS_CODE, LearningRate, lr_schedulers

Builder = Callable[..., Any]
Make = Callable[[str, Builder, Mapping[str, Any], Optimizer | None], object]
"""``(class name, builder, arguments, optimizer) -> instance``, for a policy to hand to its action; raises what is wrong."""


def _built(name: str, builder: Builder, arguments: Mapping[str, Any], optimizer: Optimizer | None) -> object:
    return builder(**arguments)


def _no_targets(instance: object) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True)
class Section:
    """One section of the file: its name, what its instances are called in a policy, and its classes."""

    name: str
    kind: str
    classes: Mapping[str, Builder] = field(default_factory=dict)
    action: Callable[..., Action] = Action
    """Makes a policy's action of an instance; its further arguments are what the policy's ``args`` may hold."""
    make: Make = _built
    instance: type[object] = object
    """What the builders make; a plugin may make something else."""
    targets: Callable[[Any], Mapping[str, Any]] = _no_targets
    """The parameter names and patterns that an instance names."""
    injected: frozenset[str] = frozenset()
    """Arguments of the builders that the program gives."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Classes that exist but that no file can describe, and what they need."""
    blank: object = None
    """Stands in for an instance that has faults, so that what policies ask of it can be checked; None where they ask nothing."""
    afterwards: str = ""
    """Says of instances that no policy applies, because it comes after training, how they are applied."""


@dataclass(frozen=True)
class DescribedRate:
    """A learning-rate scheduler before it has an optimizer."""

    name: str
    arguments: Mapping[str, Any]
    builder: Builder


def _described_rate(name: str, builder: Builder, arguments: Mapping[str, Any], optimizer: Optimizer | None) -> DescribedRate:
    """Build the scheduler on a throwaway optimizer and step it once, so that a wrong argument shows before training."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            scheduler = builder(_throwaway(arguments, optimizer), **arguments)
            if not isinstance(scheduler, LRScheduler):
                raise TypeError(f"gave {type(scheduler).__name__}, which is no torch.optim.lr_scheduler.LRScheduler")
            scheduler.step(0.0) if isinstance(scheduler, ReduceLROnPlateau) else scheduler.step()
        except ZeroDivisionError as error:
            raise ValueError("divides by zero at its first steps; no length, and no share of one, may come to 0") from error
    return DescribedRate(name, dict(arguments), builder)


def _throwaway(arguments: Mapping[str, Any], optimizer: Optimizer | None) -> Optimizer:
    """An optimizer with the hyperparameters of the real one, or, without one, with as many groups as the longest list asks for."""
    groups = max((len(value) for value in arguments.values() if isinstance(value, list)), default=1)
    given: list[dict[str, Any]] = [{}] * max(groups, 1) if optimizer is None else optimizer.param_groups
    weights = [nn.Parameter(torch.zeros(1)) for _ in given]
    trial = torch.optim.SGD([{"params": [weight]} for weight in weights], lr=0.1, momentum=0.9)
    for group, real in zip(trial.param_groups, given, strict=True):
        group.update({key: value for key, value in real.items() if key not in ("params", "initial_lr")})
    if optimizer is not None:
        trial.defaults = dict(optimizer.defaults)
    return trial


def _learning_rate(rate: DescribedRate) -> Action:
    return LearningRate(rate.name, rate.arguments, rate.builder)


def _thin(remover: Remover) -> Action:
    return Thin(remover.input_shape, remover.shifts)


SECTIONS: tuple[Section, ...] = (
    Section("pruners", "pruner", PRUNERS, Prune, instance=Pruner, targets=lambda pruner: pruner.targets, blank=Pruner({})),
    Section(
        "regularizers",
        "regularizer",
        REGULARIZERS,
        Regularize,
        instance=Regularizer,
        targets=lambda regularizer: regularizer.targets,
        blank=Regularizer("a regularizer", {}, "Max"),
    ),
    Section(
        "quantizers",
        "quantizer",
        QUANTIZERS,
        instance=PostTraining,
        afterwards="limbeck quantize FILE --model RUN applies it to a trained model",
    ),
    Section(
        "lr_schedulers",
        "lr_scheduler",
        lr_schedulers(),
        _learning_rate,
        make=_described_rate,
        injected=frozenset({"optimizer", "last_epoch"}),
        refused=NEEDS_CODE,
    ),
    Section("extensions", "extension", EXTENSIONS, _thin, instance=Remover),
)
