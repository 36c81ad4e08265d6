"""Policies under the ancestor's names, and the action that runs a policy which was written for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from limbeck.compat.distiller.maskers import MaskDict
from limbeck.config.policies import KINDS
from limbeck.config.signature import show, signature
from limbeck.errors import ScheduleError
from limbeck.events import Action, State
from limbeck.pruning import Pruner
from limbeck.regularization import Regularizer
from limbeck.schedules import Moment
from limbeck.training import LearningRate


class LossComponent(NamedTuple):
    """One term of a loss, for reports."""

    name: str
    value: Tensor


class PolicyLoss(NamedTuple):
    """The loss with all that policies have added, and the terms that they report."""

    overall_loss: Tensor
    loss_components: list[LossComponent]


class ScheduledTrainingPolicy:
    """The base of a policy of your own, with the ancestor's six hooks: overwrite those that you need, and hand it to ``add_policy``.

    The hooks run in the epochs of the policy's window. ``zeros_mask_dict[name].mask`` reads and sets masks; ``meta`` holds
    ``starting_epoch``, ``ending_epoch``, ``frequency``, ``current_epoch``, ``optimizer`` and ``model``. New code writes a ``limbeck.Action``.
    """

    def __init__(self, classes: object = None, layers: object = None) -> None:
        self.classes = classes
        self.layers = layers

    def on_epoch_begin(self, model: nn.Module, zeros_mask_dict: MaskDict, meta: dict[str, Any], **kwargs: Any) -> None:
        """A new epoch is about to begin."""

    def on_minibatch_begin(
        self,
        model: nn.Module,
        epoch: int,
        minibatch_id: int,
        minibatches_per_epoch: int | None,
        zeros_mask_dict: MaskDict,
        meta: dict[str, Any],
        optimizer: Optimizer | None = None,
    ) -> None:
        """The forward pass is about to begin."""

    def before_backward_pass(
        self,
        model: nn.Module,
        epoch: int,
        minibatch_id: int,
        minibatches_per_epoch: int | None,
        loss: Tensor,
        zeros_mask_dict: MaskDict,
        optimizer: Optimizer | None = None,
    ) -> PolicyLoss | None:
        """The loss is computed; a ``PolicyLoss`` that is returned replaces it."""

    def before_parameter_optimization(
        self,
        model: nn.Module,
        epoch: int,
        minibatch_id: int,
        minibatches_per_epoch: int | None,
        zeros_mask_dict: MaskDict,
        meta: dict[str, Any],
        optimizer: Optimizer | None,
    ) -> None:
        """The gradients are computed, the optimizer has not stepped."""

    def on_minibatch_end(
        self,
        model: nn.Module,
        epoch: int,
        minibatch_id: int,
        minibatches_per_epoch: int | None,
        zeros_mask_dict: MaskDict,
        optimizer: Optimizer | None,
    ) -> None:
        """The optimizer has stepped."""

    def on_epoch_end(self, model: nn.Module, zeros_mask_dict: MaskDict, meta: dict[str, Any], **kwargs: Any) -> None:
        """The epoch has ended."""


@dataclass(frozen=True)
class Recipe:
    """A policy that Limbeck has: makes an action for each window that it is added to, so that no two windows share state."""

    make: Callable[[], Action]
    optimizer: Optimizer | None = None
    """The optimizer that the action changes, where it is known."""


def _recipe(kind: str, instance: object, arguments: Mapping[str, Any] | None, unused: Mapping[str, object]) -> Recipe:
    """The recipe of a kind of the schedule file, its arguments checked as there."""
    for name, value in unused.items():
        if value is not None:
            raise ScheduleError(f"a {kind} policy does nothing with '{name}': name the parameters in the {kind} itself")
    action = KINDS[kind].action
    valid, problems = signature(action, f"a {kind} policy", frozenset({kind})).check(arguments or {})
    if problems:
        raise ScheduleError("; ".join(problem.message for problem in problems), [problem.message for problem in problems])
    return Recipe(lambda: action(instance, **valid))


def PruningPolicy(  # noqa: N802  # the ancestor's name
    pruner: Pruner, pruner_args: Mapping[str, Any] | None = None, classes: object = None, layers: object = None
) -> Recipe:
    """Renews a pruner's masks in its window; ``pruner_args`` are what a file holds under ``policies: - pruner: {args: ...}``.

    Raises ``ScheduleError`` for what is no pruner of Limbeck's, and for arguments that the policy does not have.
    """
    if not isinstance(pruner, Pruner):
        raise ScheduleError(
            f"{show(pruner)} is no pruner that Limbeck can run; compose a limbeck.Pruner, whose criterion is one function of your own"
        )
    return _recipe("pruner", pruner, pruner_args, {"classes": classes, "layers": layers})


def RegularizationPolicy(regularizer: Regularizer, keep_mask: bool = False) -> Recipe:  # noqa: N802  # the ancestor's name
    """Adds a regularizer's penalty to the loss in its window.

    Raises ``ScheduleError`` for what is no regularizer of Limbeck's.
    """
    if not isinstance(regularizer, Regularizer):
        raise ScheduleError(f"{show(regularizer)} is no regularizer that Limbeck can run; make a limbeck.Regularizer")
    return _recipe("regularizer", regularizer, {"keep_mask": True} if keep_mask else None, {})


def LRPolicy(lr_scheduler: LRScheduler) -> Recipe:  # noqa: N802  # the ancestor's name
    """Steps a scheduler of ``torch.optim.lr_scheduler`` at the end of each epoch of its window; it counts those epochs."""
    return Recipe(lambda: LearningRate(type(lr_scheduler).__name__, {}, lambda _: lr_scheduler), lr_scheduler.optimizer)


@dataclass
class Call:
    """What a call of the scheduler holds that the hooks of an action do not take."""

    arguments: dict[str, Any] = field(default_factory=dict)
    loss: Tensor | None = None
    components: dict[str, Sequence[LossComponent]] = field(default_factory=dict)
    """What each ancestor's policy reports, under the name that its action gave its penalty."""


class Adapted(Action):
    """Runs a policy that was written for the ancestor, with the arguments that it expects."""

    def __init__(self, policy: ScheduledTrainingPolicy, label: str, call: Call, maskers: MaskDict) -> None:
        self.policy = policy
        self.label = label
        self._call = call
        self._maskers = maskers

    def on_epoch_begin(self, state: State, moment: Moment) -> None:
        """The policy's own hook."""
        self.policy.on_epoch_begin(state.model, self._maskers, _meta(state, moment), **self._call.arguments)

    def on_minibatch_begin(self, state: State, moment: Moment) -> None:
        """The policy's own hook."""
        self.policy.on_minibatch_begin(state.model, *_place(state), self._maskers, _meta(state, moment), state.optimizer)

    def before_backward_pass(self, state: State, moment: Moment) -> Mapping[str, Tensor]:
        """What the policy adds to the loss: the one that it returns less the one that it was given."""
        loss = self._call.loss
        assert loss is not None
        given = self.policy.before_backward_pass(state.model, *_place(state), loss, self._maskers, state.optimizer)
        if given is None:
            return {}
        self._call.components[self.label] = _reported(given)
        self._call.loss = given.overall_loss
        return {self.label: given.overall_loss - loss}

    def before_parameter_optimization(self, state: State, moment: Moment) -> None:
        """The policy's own hook."""
        self.policy.before_parameter_optimization(state.model, *_place(state), self._maskers, _meta(state, moment), state.optimizer)

    def on_minibatch_end(self, state: State, moment: Moment) -> None:
        """The policy's own hook."""
        self.policy.on_minibatch_end(state.model, *_place(state), self._maskers, state.optimizer)

    def on_epoch_end(self, state: State, moment: Moment) -> None:
        """The policy's own hook."""
        self.policy.on_epoch_end(state.model, self._maskers, _meta(state, moment), **self._call.arguments)


def _place(state: State) -> tuple[int, int, int | None]:
    return state.clock.epoch, state.clock.minibatch, state.steps_per_epoch


def _meta(state: State, moment: Moment) -> dict[str, Any]:
    return {
        "starting_epoch": moment.begin,
        "ending_epoch": moment.end,
        "frequency": moment.every,
        "current_epoch": state.clock.epoch,
        "optimizer": state.optimizer,
        "model": state.model,
    }


def _reported(given: object) -> Sequence[LossComponent]:
    if not isinstance(given, PolicyLoss):
        raise TypeError(f"before_backward_pass of a policy must return a PolicyLoss or None, not {show(given)}")
    components = given.loss_components if isinstance(given.loss_components, list) else [given.loss_components]
    for component in components:
        if not isinstance(component, LossComponent):
            raise TypeError(f"the loss_components of a PolicyLoss must be LossComponents, not {show(component)}")
    return components
