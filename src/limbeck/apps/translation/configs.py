"""Configuration files for a training: options by name, flat or nested as in NeurST's files; later files replace what earlier ones say.

Of NeurST's modules (``optimizer.class: adam``) the class must be the one that does what is done here. Their params are options where they mean
the same. What else such a file holds (data pipelines, task, entry) has no counterpart here, and is noted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from limbeck.apps.translation.options import TrainOptions
from limbeck.config.load import Document
from limbeck.config.nested import Entry, entries, read_document
from limbeck.config.report import Fault, Report
from limbeck.config.signature import signature
from limbeck.errors import LimbeckError, did_you_mean

COMMAND = "limbeck translate train"
OPTIONS = tuple(field.name for field in fields(TrainOptions) if field.name != "command")
SAME = {
    "batch_size": "batch_tokens",
    "beta_1": "adam_beta1",
    "beta_2": "adam_beta2",
    "epsilon": "adam_epsilon",
    "initial_factor": "lr_factor",
    "model_dir": "save",
    "save_checkpoints_steps": "save_checkpoint_steps",
}
"""NeurST's names of options that are called otherwise here."""
CLASSES = {
    "criterion": ("label_smoothed_cross_entropy",),
    "eval_metric": ("bleu", "sacre_bleu"),
    "eval_search_method": ("beam_search",),
    "model": ("transformer",),
    "optimizer": ("adam", "adamw"),
}
"""Modules of which some classes do what is done here, and others would do something else."""
ELSEWHERE = frozenset((
    "batch_by_tokens", "dataset", "decay_steps", "distribution_strategy", "dmodel", "end_factor", "entry", "eval_auto_average_checkpoints",
    "eval_criterion", "eval_dataset", "eval_on_begin", "extra_decode_length", "freeze_variables", "max_src_len", "max_trg_len",
    "maximum_decode_length", "pretrain_variable_pattern", "start_decay_at", "task", "trainer", "validator",
))  # fmt: skip
"""Keys of NeurST's trainer that say nothing here."""
OPAQUE = frozenset(("dataset", "eval_criterion", "eval_dataset", "eval_metric", "model", "task"))
"""Modules that may have any params."""
FOREIGN = OPAQUE - {"task"}
"""Those of them whose params are not options of the training, though they may have the names of some: an evaluation has a smoothing of its own."""


def read_configs(paths: Sequence[Path]) -> tuple[dict[str, Any], list[str]]:
    """The options of some files, in their types, and notes on what was left out; an empty value is none.

    Raises ``LimbeckError`` with all faults of a file, each with its line: keys that name nothing, with the nearest name; values that fit no option;
    modules of another class.
    """
    found: dict[str, Any] = {}
    notes = []
    for path in paths:
        values, left_out = _read(path)
        found |= values
        if left_out:
            notes.append(f"{path}: left out, without a counterpart here: {', '.join(sorted(left_out))}")
    return found, notes


def checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """Options as they were given, in their types.

    >>> checked({"train_steps": "100", "dropout": 0.1}) == {"train_steps": 100, "dropout": 0.1}
    True

    Raises ``LimbeckError`` that lists every value that fits no option.
    """
    valid, problems = signature(TrainOptions, COMMAND).check(values)
    if problems:
        raise LimbeckError("\n".join(f"--{'.'.join(map(str, problem.at))}: {problem.message}" for problem in problems))
    return valid


def _read(path: Path) -> tuple[dict[str, Any], set[str]]:
    document = read_document(path)
    assert isinstance(document.tree, Mapping)
    report = Report(str(path))
    given: dict[str, Entry] = {}
    left_out = set()
    for entry in entries(document.tree):
        name, fault = _meaning(entry, document)
        if fault is not None:
            report.faults.append(fault)
        elif name is None:
            left_out.add(".".join((*entry.modules, entry.key)))
        elif name and entry.value is not None:
            given[name] = entry
    valid, problems = signature(TrainOptions, COMMAND).check({name: entry.value for name, entry in given.items()})
    report.faults += [document.fault(problem.message, given[str(problem.at[0])].place) for problem in problems]
    if report.faults:
        raise LimbeckError(report.text())
    return valid, left_out


def _meaning(entry: Entry, document: Document) -> tuple[str | None, Fault | None]:
    """The option that an entry is, an empty name where it asks for what is done anyway, None where it says nothing here; or the fault that it is."""
    name, inside = SAME.get(entry.key, entry.key), frozenset(entry.modules)
    if entry.key in CLASSES and (entry.is_class or isinstance(entry.value, str)):
        right = {_bare(each) for each in CLASSES[entry.key]}
        if _bare(str(entry.value)) in right:
            return "", None
        message = f"{entry.key} '{entry.value}' is not what is done here, which is {' or '.join(CLASSES[entry.key])}"
        return None, document.fault(message, entry.place)
    if entry.key == "batch_by_tokens" and entry.value is False and not inside & FOREIGN:
        message = "batches are counted in subwords here, not in sentences: set it to true, and batch_size to subwords, 4096 for one"
        return None, document.fault(message, entry.place)
    if name in OPTIONS and not inside & FOREIGN:
        return name, None
    if entry.key in ELSEWHERE or inside & OPAQUE:
        return None, None
    remedy = did_you_mean(entry.key, (*OPTIONS, *SAME)) or f"; {COMMAND} --help names all options"
    return None, document.fault(f"no option is named '{entry.key}'{remedy}", entry.place)


def _bare(name: str) -> str:
    """A class's name however it is spelled.

    >>> _bare("LabelSmoothedCrossEntropy") == _bare("label_smoothed_cross_entropy")
    True
    """
    return "".join(letter for letter in name.lower() if letter.isalnum())
