"""The ancestor's ``CompressionScheduler``: its methods and its call shapes, over a ``limbeck.Scheduler``."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from limbeck.compat.distiller.maskers import MaskDict
from limbeck.compat.distiller.policy import Adapted, Call, LossComponent, PolicyLoss, Recipe, ScheduledTrainingPolicy
from limbeck.config.signature import show
from limbeck.errors import CheckpointError, ScheduleError, ScheduleWarning
from limbeck.events import Action
from limbeck.names import canonical
from limbeck.scheduler import Scheduler
from limbeck.schedules import Window

MASKS = "masks_dict"
"""The one key of the ancestor's checkpoint of a scheduler."""

OWN_RESULT = ("_saved_result", "_saved_output")
"""How autograd's nodes call what they keep of their own results."""


class CompressionScheduler:
    """A ``limbeck.Scheduler`` under the ancestor's name; it holds the scheduler as ``.scheduler`` and adds no mechanism of its own.

    >>> import limbeck.compat.distiller as distiller
    >>> layer = nn.Linear(4, 2)
    >>> scheduler = distiller.CompressionScheduler(layer)
    >>> pruner = distiller.SparsityLevelParameterPruner("half", {"module.weight": 0.5})
    >>> scheduler.add_policy(distiller.PruningPolicy(pruner, None), starting_epoch=0, ending_epoch=1, frequency=1)
    >>> scheduler.on_epoch_begin(0)
    >>> distiller.sparsity(layer.weight)
    0.5
    """

    def __init__(self, model: nn.Module, zeros_mask_dict: Mapping[str, Any] | None = None, device: object = None) -> None:
        self.model = model
        self.scheduler = Scheduler(model)
        self.zeros_mask_dict = MaskDict(self.scheduler.masks, self.scheduler.state.parameters, self.scheduler.state)
        self._call = Call()
        self._pending: Mapping[str, Any] | None = None
        if zeros_mask_dict is not None:
            self.init_from_masks_dict({name: masker.mask for name, masker in zeros_mask_dict.items()})

    def add_policy(
        self,
        policy: Recipe | ScheduledTrainingPolicy | Action,
        epochs: Sequence[int] | None = None,
        starting_epoch: int | None = None,
        ending_epoch: int | None = None,
        frequency: int = 1,
    ) -> None:
        """Append a policy, with the epochs at which it fires or with its first epoch, the epoch before which it ends, and its frequency.

        The same policy may be added again, for another window. Raises ``ScheduleError`` for a window that is given twice, not at all, or
        that never fires.
        """
        window = _window(epochs, starting_epoch, ending_epoch, frequency)
        if isinstance(policy, Recipe):
            if policy.optimizer is not None:
                self._use(policy.optimizer)
            self.scheduler.add(window, policy.make())
        elif isinstance(policy, Action):
            self.scheduler.add(window, policy)
        elif isinstance(policy, ScheduledTrainingPolicy):
            label = f"{type(policy).__name__} (policy {len(self.scheduler.schedule)})"
            self.scheduler.add(window, Adapted(policy, label, self._call, self.zeros_mask_dict))
        else:
            raise ScheduleError(f"{show(policy)} is no policy; give a PruningPolicy, RegularizationPolicy, LRPolicy, or one of your own")

    # --- the six callbacks -------------------------------------------------------------------------------------------------------

    def on_epoch_begin(self, epoch: int, optimizer: Optimizer | None = None, **kwargs: Any) -> None:
        """Before an epoch: masks are renewed, and applied at once."""
        self._catch_up()
        self._call.arguments = kwargs
        self.scheduler.on_epoch_begin(epoch, optimizer)

    def on_minibatch_begin(self, epoch: int, minibatch_id: int, minibatches_per_epoch: int, optimizer: Optimizer | None = None) -> None:
        """Before the forward pass."""
        self._catch_up()
        self.scheduler.on_minibatch_begin(epoch, minibatch_id, minibatches_per_epoch, optimizer)

    def before_backward_pass(
        self,
        epoch: int,
        minibatch_id: int,
        minibatches_per_epoch: int,
        loss: Tensor,
        optimizer: Optimizer | None = None,
        return_loss_components: bool = False,
    ) -> Tensor | PolicyLoss:
        """The loss with the penalties of this step's policies.

        The penalties are added **in place**, as a step that autograd knows of, and the same tensor is returned: so loops that use what is
        returned and loops that drop it (the ancestor's first version changed the loss in place) train alike. With
        ``return_loss_components`` ``loss`` stays as it is, and a ``PolicyLoss`` is returned, which must be used.

        Where autograd does not allow a change in place (a leaf, or ``exp(...)``, which keeps its value for the backward pass), a new tensor
        is returned, with a ``ScheduleWarning`` that it must be used.
        """
        self._call.loss, self._call.components = loss, {}
        total = self.scheduler.before_backward_pass(epoch, minibatch_id, minibatches_per_epoch, loss, optimizer)
        self._call.loss = None
        penalties = self.scheduler.penalties
        if return_loss_components:
            own = self._call.components
            named = [own.get(name) or [LossComponent(name, value)] for name, value in penalties.items()]
            return PolicyLoss(total, [component for components in named for component in components])
        if not penalties:
            return loss
        if not _may_change_in_place(loss):
            message = "this loss cannot be changed in place, so the penalties are only in what before_backward_pass returns: use that"
            warnings.warn(f"{message} (loss = scheduler.before_backward_pass(...))", ScheduleWarning, stacklevel=2)
            return total
        for penalty in penalties.values():
            loss.add_(penalty)
        return loss

    def before_parameter_optimization(
        self, epoch: int, minibatch_id: int, minibatches_per_epoch: int, optimizer: Optimizer | None = None
    ) -> None:
        """Between the backward pass and ``optimizer.step()``; a scheduler that was given the optimizer does without this call."""
        self.scheduler.before_parameter_optimization(epoch, minibatch_id, minibatches_per_epoch, optimizer)

    def on_minibatch_end(self, epoch: int, minibatch_id: int, minibatches_per_epoch: int, optimizer: Optimizer | None = None) -> None:
        """After ``optimizer.step()``: all masks are applied again."""
        self.scheduler.on_minibatch_end(epoch, minibatch_id, minibatches_per_epoch, optimizer)

    def on_epoch_end(
        self, epoch: int, optimizer: Optimizer | None = None, metrics: Mapping[str, float] | None = None, **kwargs: Any
    ) -> None:
        """After the evaluation; ``metrics={'min': loss, 'max': top1}`` is what ``ReduceLROnPlateau`` watches."""
        self._call.arguments = kwargs if metrics is None else {**kwargs, "metrics": metrics}
        self.scheduler.on_epoch_end(epoch, optimizer, metrics)

    def mask_all_weights(self, is_forward: bool = True) -> None:
        """Apply all masks."""
        self.scheduler.masks.apply()

    # --- state -------------------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The ancestor's ``{'masks_dict': {name: mask or None}}``, and under ``'limbeck'`` all else that a resumed run needs."""
        masks = {name: masker.mask for name, masker in self.zeros_mask_dict.items()}
        return {MASKS: masks, "limbeck": self.scheduler.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any], normalize_dataparallel_keys: bool = False) -> None:
        """Stand where ``state_dict`` was taken; before or after the policies are there, but before the first epoch.

        A checkpoint of the ancestor's holds masks only: what was measured once, and learning rates, then start anew, which is warned of.
        Names may carry ``module.`` whatever the flag says. Raises ``CheckpointError`` for what is no state of a scheduler, or has masks
        that do not fit the model.
        """
        if MASKS not in state:
            raise CheckpointError(f"this is no state of a CompressionScheduler: it has no '{MASKS}', only {sorted(state)}")
        self.init_from_masks_dict(state[MASKS])
        self._pending = state.get("limbeck")
        if self._pending is None:
            message = "this checkpoint holds masks only: measured numbers and learning rates start anew"
            warnings.warn(message, ScheduleWarning, stacklevel=2)
        elif self._fits(self._pending):
            self._catch_up()

    @property
    def resumes(self) -> bool:
        """Whether a whole state was loaded that waits for the policies."""
        return self._pending is not None

    def init_from_masks_dict(self, masks_dict: Mapping[str, Tensor | None], normalize_dataparallel_keys: bool = False) -> None:
        """Replace all masks; None stands for none, and names may carry ``module.`` whatever the flag says."""
        masks = {canonical(name): mask.bool() for name, mask in masks_dict.items() if mask is not None}
        self.scheduler.masks.load_state_dict(masks)

    def _catch_up(self) -> None:
        """Take over a state that was loaded before the policies were there."""
        state, self._pending = self._pending, None
        if state is not None and self._fits(state):
            self.scheduler.load_state_dict(state)
        elif state is not None:
            message = "the checkpoint belongs to another schedule: of its state only the masks are taken"
            warnings.warn(message, ScheduleWarning, stacklevel=3)

    def _fits(self, state: Mapping[str, Any]) -> bool:
        return [type(action).__name__ for _, action in self.scheduler.schedule] == [kind for kind, _ in state["actions"]]

    def _use(self, optimizer: Optimizer) -> None:
        if self.scheduler.state.optimizer is not optimizer:
            self.scheduler.attach(optimizer)


def _window(epochs: Sequence[int] | None, begin: int | None, end: int | None, every: int) -> Window:
    try:
        if epochs is not None:
            if begin is not None or end is not None:
                raise ValueError("epochs and starting_epoch, ending_epoch at once; give the list, or the two ends")
            if not len(epochs):
                raise ValueError("an empty list of epochs never fires")
            return Window(only=tuple(int(epoch) for epoch in epochs))
        if begin is None or end is None:
            raise ValueError("no window; give starting_epoch and ending_epoch, or epochs=[...]")
        return Window(begin, end, every)
    except ValueError as error:
        raise ScheduleError(f"add_policy: {error}") from error


def _may_change_in_place(loss: Tensor) -> bool:
    """Whether autograd lets the loss be changed: it is not a leaf that takes a gradient, nor did its operation keep its value."""
    made_by = loss.grad_fn
    if made_by is None:
        return not (loss.requires_grad and torch.is_grad_enabled())
    kept = [getattr(made_by, name) for name in dir(made_by) if name.startswith(OWN_RESULT)]
    kept += getattr(made_by, "saved_tensors", ())  # of a torch.autograd.Function
    return not any(isinstance(value, Tensor) and value.data_ptr() == loss.data_ptr() for value in kept)
