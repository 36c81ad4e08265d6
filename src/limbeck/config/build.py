"""From a checked schedule file to a scheduler."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping

import yaml
from torch import nn
from torch.optim import Optimizer

from limbeck.config.check import Checked, Plugins, check
from limbeck.config.load import Source, load
from limbeck.config.policies import KINDS, Policy
from limbeck.config.report import Report
from limbeck.errors import LimbeckError, ScheduleWarning
from limbeck.events import Action
from limbeck.graph import Inputs
from limbeck.names import Named, named_parameters
from limbeck.quantization.models import modular
from limbeck.quantization.quantizers import PostTraining
from limbeck.scheduler import Scheduler
from limbeck.schedules import Window

RECURRENT = (nn.RNNBase, nn.RNNCellBase)


def load_schedule(
    source: Source,
    model: nn.Module,
    optimizer: Optimizer | None = None,
    *,
    example_inputs: Inputs | None = None,
    allow_plugins: bool = False,
) -> Scheduler:
    """A scheduler from a schedule file (its path, its text, or the mapping that it holds).

    >>> text = '''
    ... version: 1
    ... pruners: {half: {class: SparsityLevelParameterPruner, levels: {weight: 0.5}}}
    ... policies: [{pruner: {instance_name: half}, epochs: [0]}]
    ... '''
    >>> layer = nn.Linear(4, 2)
    >>> load_schedule(text, layer).on_epoch_begin(0)
    >>> int(layer.weight.count_nonzero())
    4

    ``example_inputs`` is one small batch of what the model takes, ``(images,)``: with it structures are pruned with all that is coupled to them, and
    extensions can thin them out.

    Raises ``ScheduleError`` with all faults, each with its line, its path in the file and the remedy. Nothing is built before that.
    What is only worth a warning comes as one ``ScheduleWarning``.
    """
    checked = read_schedule(source, named_parameters(model), optimizer, allow_plugins=allow_plugins, stacklevel=3)
    return built(checked, model, optimizer, example_inputs)


def load_quantizer(source: Source, *, allow_plugins: bool = False) -> PostTraining:
    """The post-training quantizer of a schedule file, for ``prepare`` to apply to a trained model; its pruners and policies are left alone.

    >>> load_quantizer({"quantizers": {"int8": {"class": "PostTrainLinearQuantizer", "clip_acts": "avg"}}}).arguments["clip_acts"]
    'avg'

    Raises ``ScheduleError`` with all faults of the file, and where it has no quantizer.
    """
    checked = check(load(source), plugins="import" if allow_plugins else "refuse")
    found = [entry.made for entry in checked.entries.values() if isinstance(entry.made, PostTraining)]
    if checked.report.ok and not found:
        message = "there are no quantizers; name one, as in {int8: {class: PostTrainLinearQuantizer, bits_activations: 8}}"
        checked.report.faults.append(checked.document.fault(message, ("quantizers",)))
    checked.report.raise_if_faulty()
    return found[0]


def built(checked: Checked, model: nn.Module, optimizer: Optimizer | None = None, example_inputs: Inputs | None = None) -> Scheduler:
    """The scheduler of a schedule that was read without faults; its text is that of the file, or of the mapping as a file."""
    text = checked.document.text
    if text is None:
        text = yaml.safe_dump(checked.document.tree, sort_keys=False)
    return Scheduler(model, [applied(checked, policy) for policy in checked.policies], optimizer, text, example_inputs)


def read_schedule(
    source: Source,
    parameters: Mapping[str, Named],
    optimizer: Optimizer | None = None,
    *,
    allow_plugins: bool = False,
    by_step: bool = False,
    stacklevel: int = 2,
) -> Checked:
    """A schedule file, checked for a model's parameters and ready for ``applied``; ``by_step``, policies that count epochs are faults too.

    Raises and warns as ``load_schedule`` does, which is this and a scheduler of its own.
    """
    checked = check(load(source), parameters, optimizer, "import" if allow_plugins else "refuse")
    if optimizer is None:
        _ask_for_optimizer(checked)
    if by_step:
        _refuse_epochs(checked)
    _refuse_nothing(checked)
    checked.report.raise_if_faulty()
    if checked.report.warnings:
        warnings.warn(checked.report.warning_text(), ScheduleWarning, stacklevel=stacklevel)
    return checked


def check_file(source: str | os.PathLike[str], model: nn.Module | None = None, *, allow_plugins: bool = False) -> Report:
    """All faults and warnings of a schedule file; with a model also names that match none of its parameters or layers. Plugins are never run.

    >>> print(check_file("nowhere.yaml").text())
    nowhere.yaml: 1 fault
      cannot be read: No such file or directory
    """
    plugins: Plugins = "allow" if allow_plugins else "refuse"
    checked = check(load(source), None if model is None else named_parameters(model), plugins=plugins)
    if model is not None:
        _check_quantizers(checked, model)
    return checked.report


def _check_quantizers(checked: Checked, model: nn.Module) -> None:
    """What is wrong with quantizers for a model, whose recurrent modules are taken into parts as for quantization."""
    parts: nn.Module | None = None
    for entry in checked.entries.values():
        if not isinstance(entry.made, PostTraining):
            continue
        try:
            if parts is None:
                parts = modular(model, inplace=False) if any(isinstance(each, RECURRENT) for each in model.modules()) else model
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always", ScheduleWarning)
                entry.made.quantizer(parts)
        except LimbeckError as error:
            found, kept = getattr(error, "faults", ()) or [str(error)], checked.report.faults
        else:
            found, kept = [str(each.message) for each in said if issubclass(each.category, ScheduleWarning)], checked.report.warnings
        kept += [checked.document.fault(text, (entry.section.name, entry.name, "overrides")) for text in found]


def applied(checked: Checked, policy: Policy) -> tuple[Window, Action]:
    """When a policy fires and what it does; every policy has an action of its own, also where two apply one instance."""
    instance = checked.entries[policy.kind, policy.instance].made
    return policy.window, KINDS[policy.kind].action(instance, **policy.arguments)


def _ask_for_optimizer(checked: Checked) -> None:
    for policy in checked.policies:
        if policy.kind == "lr_scheduler":
            message = "changes the learning rate and needs the optimizer: load_schedule(file, model, optimizer)"
            checked.report.faults.append(checked.document.fault(message, (*policy.path, policy.kind)))


def _refuse_nothing(checked: Checked) -> None:
    """Note that a training is asked for by a file that has something for afterwards alone."""
    later = next((entry.section for entry in checked.entries.values() if entry.section.afterwards), None)
    if later is not None and checked.report.ok and not checked.policies:
        message = f"nothing is applied while training: there are only {later.name}; {later.afterwards}"
        checked.report.faults.append(checked.document.fault(message, (later.name,)))


def _refuse_epochs(checked: Checked) -> None:
    """Note the policies that count epochs, each with its line."""
    message = (
        "counts epochs, and optimizer.step() knows of steps alone; give starting_step and ending_step, or loop over scheduler.epochs(N)"
    )
    by_epoch = [policy for policy in checked.policies if policy.window.unit == "epoch"]
    checked.report.faults += [checked.document.fault(message, policy.path) for policy in by_epoch]
