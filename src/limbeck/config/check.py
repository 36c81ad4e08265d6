"""Everything that can be wrong with a schedule, found before anything is built, all at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from typing import Any, Literal

from torch.optim import Optimizer

from limbeck.config.components import SECTIONS, Builder, Section
from limbeck.config.lint import (
    hidden_gradients,
    idle_patterns,
    place,
    pruners_that_meet,
    rate_in_wrong_unit,
    resolvable,
    unmatched_targets,
    vectors_by_pattern,
    winning,
)
from limbeck.config.load import Document
from limbeck.config.policies import Policy, check_policies
from limbeck.config.report import Fault, Path, Report
from limbeck.config.signature import PLUGIN, Signature, show, signature
from limbeck.config.usage import faults_of_use, ramps_cut_short, used
from limbeck.errors import LimbeckError, did_you_mean
from limbeck.names import Named

VERSION = 1
FEW = 5
"""More choices than this are not listed."""
NOTHING_APPLIED = "no policies: nothing would be applied; list under 'policies' what is applied when"
KEYS = ("version", *(section.name for section in SECTIONS), "policies")

Plugins = Literal["refuse", "allow", "import"]
"""Plugins are a fault, or are allowed but left alone (their code does not run), or are imported and checked like all others."""


@dataclass(frozen=True)
class Entry:
    """An instance that the file declares; ``made`` is None when it has faults, or is a plugin that was not imported."""

    section: Section
    name: str
    class_name: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    made: object = None


@dataclass
class Checked:
    """A schedule file, checked: what it declares, when it fires, and the report."""

    document: Document
    report: Report
    entries: dict[tuple[str, str], Entry] = field(default_factory=dict)
    """By ``(kind, name)``: ``("pruner", "rnn")``."""
    policies: list[Policy] = field(default_factory=list)


def check(
    document: Document, parameters: Mapping[str, Named] | None = None, optimizer: Optimizer | None = None, plugins: Plugins = "refuse"
) -> Checked:
    """All faults and warnings of a document; with ``parameters`` also names that match none of them.

    >>> from limbeck.config.load import load
    >>> print(check(load({"version": 1, "policies": [{"pruner": {"instance_name": "fine"}, "epochs": [1]}]})).report.text())
    schedule: 1 fault
      policies[0].pruner: no pruner named 'fine'; none is defined
    """
    checked = Checked(document, Report(document.source, list(document.faults)))
    tree = document.tree
    if isinstance(tree, Mapping):
        _check_root(checked, tree)
        for section in SECTIONS:
            _Instances(checked, section, parameters, optimizer, plugins).check(tree.get(section.name))
        if tree.get("policies"):
            declared = {section.kind: _names(checked, section.kind) for section in SECTIONS}
            checked.policies = check_policies(document, tree["policies"], declared, checked.report.faults)
            _check_uses(checked, parameters)
            _check_meetings(checked, parameters)
        if tree.get("policies") or checked.report.ok:
            _warn_of_idle(checked, tree.get("policies"))
    elif not document.faults:
        what = "is empty" if tree is None else f"is {show(tree)}"
        checked.report.faults.append(Fault(f"the schedule {what}; it must be a mapping of {', '.join(KEYS)}"))
    return checked


def _names(checked: Checked, kind: str) -> list[str]:
    """The instances of a kind that the file declares."""
    return [name for of_kind, name in checked.entries if of_kind == kind]


def _check_root(checked: Checked, tree: Mapping[str, object]) -> None:
    document, faults = checked.document, checked.report.faults
    for key in tree:
        if key not in KEYS:
            remedy = did_you_mean(str(key), KEYS) or f"; sections: {', '.join(KEYS)}"
            faults.append(document.fault(f"no section is named '{key}'{remedy}", at=(key,)))
    version = tree.get("version", VERSION)
    if isinstance(version, bool) or version != VERSION:
        what = "is empty" if version is None else f"version {show(version)} is unknown"
        faults.append(document.fault(f"{what}; this program reads version {VERSION}", ("version",)))
    if not tree.get("policies") and not any(section.afterwards and tree.get(section.name) for section in SECTIONS):
        faults.append(document.fault(NOTHING_APPLIED, at=("policies",)))


def _check_uses(checked: Checked, parameters: Mapping[str, Named] | None) -> None:
    """What policies do with their instances: arguments and amounts that mean nothing in their windows, or to the model."""
    for policy in checked.policies:
        entry = checked.entries[policy.kind, policy.instance]
        faults = list(faults_of_use(checked.document, policy, entry.section, entry.made, parameters))
        checked.report.faults += faults
        if entry.made is not None and not faults:
            checked.report.warnings += ramps_cut_short(checked.document, policy, entry.section, entry.made)


def _check_meetings(checked: Checked, parameters: Mapping[str, Named] | None) -> None:
    """Windows that do not go with what they drive, and, given a model, with each other."""
    entries = [(policy, checked.entries[policy.kind, policy.instance]) for policy in checked.policies]
    for policy, entry in entries:
        fault, warning = rate_in_wrong_unit(checked.document, policy, entry.class_name)
        checked.report.faults += [fault] if fault else []
        checked.report.warnings += [warning] if warning and entry.made is not None else []
    entries = [(policy, entry) for policy, entry in entries if entry.made is not None]
    if parameters is not None and checked.report.ok:
        pruners = [(policy, used(policy, entry.section, entry.made)) for policy, entry in entries if policy.kind == "pruner"]
        targets = [(policy, action.pruner.targets) for policy, action in pruners]
        checked.report.warnings += pruners_that_meet(checked.document, targets, parameters)
        checked.report.faults += hidden_gradients(checked.document, pruners, parameters)


def _warn_of_idle(checked: Checked, policies: object) -> None:
    """Warn of what is declared and that no policy names, faulty policies and misspelt names included."""
    named = {
        (kind, str(use.get("instance_name")))
        for policy in (policies if isinstance(policies, list) else [])
        if isinstance(policy, Mapping)
        for kind, use in policy.items()
        if isinstance(use, Mapping)
    }
    remedies = [(kind, did_you_mean(word, _names(checked, kind))) for kind, word in named - set(checked.entries)]
    for (kind, name), entry in checked.entries.items():
        meant = any(kind == other and f"'{name}'" in remedy for other, remedy in remedies)
        if (kind, name) not in named and not meant and not entry.section.afterwards:
            path = (entry.section.name, name)
            checked.report.warnings.append(checked.document.fault(f"declared, but no policy applies this {kind}", path))


@dataclass(frozen=True)
class _Instances:
    """Checks the instances of one section."""

    checked: Checked
    section: Section
    parameters: Mapping[str, Named] | None
    optimizer: Optimizer | None
    plugins: Plugins

    def check(self, tree: object) -> None:
        """Note the section's entries and faults."""
        if tree is None:
            return
        if not isinstance(tree, Mapping):
            self.fault(f"must be a mapping of names to {self.section.name}, not {show(tree)}", (self.section.name,))
            return
        for name, body in tree.items():
            self.checked.entries[self.section.kind, name] = self.entry(name, body, (self.section.name, name))
        if self.section.afterwards and len(tree) > 1:
            first, *others = tree
            self.fault(
                f"a model is quantized once, and '{first}' does it already; leave one of them in the file", (self.section.name, others[0])
            )

    def entry(self, name: str, body: object, path: Path) -> Entry:
        """One instance, made as far as it has no faults."""
        empty = Entry(self.section, name)
        if not isinstance(body, Mapping):
            what = f"must be a mapping with 'class' and its arguments, not {show(body)}"
            self.fault(f"is empty; it needs 'class' and that class's arguments; {self.choices()}" if body is None else what, path)
            return empty
        class_name = body.get("class")
        if not isinstance(class_name, str):
            self.fault(f"needs 'class'; {self.choices()}", path)
            return empty
        builder = self.builder(class_name, path)
        if builder is None:
            return empty
        arguments = {key: value for key, value in body.items() if key != "class"}
        accepted = signature(builder, class_name, self.section.injected)
        plugins = self.plugins_among(arguments, accepted, path)
        valid, problems = accepted.check({**arguments, **plugins})
        for problem in problems:
            self.fault(problem.message, (*path, *problem.path), (*path, *problem.at))
        made = None if problems or None in plugins.values() else self.make(class_name, builder, valid, path)
        targets = dict.fromkeys(accepted.targets(arguments)) if made is None else self.section.targets(made)
        self.check_targets(targets, arguments, path)
        self.check_units(made, targets, path)
        if self.parameters is not None and made is not None:
            self.warn_of_patterns(made, targets, arguments, path, self.parameters)
        return Entry(self.section, name, class_name, valid, made)

    def builder(self, class_name: str, path: Path) -> Builder | None:
        """What builds the class, or None after a fault, or for a plugin that is left alone."""
        if PLUGIN.fullmatch(class_name):
            return self.plugin(class_name, path, (*path, "class"))
        if class_name in self.section.classes:
            return self.section.classes[class_name]
        at = (*path, "class")
        if class_name in self.section.refused:
            self.fault(f"no schedule file can describe {class_name}: it needs {self.section.refused[class_name]}", path, at)
        else:
            remedy = did_you_mean(class_name, self.section.classes) or f"; {self.choices(class_name)}"
            self.fault(f"no {self.section.kind} class is named '{class_name}'{remedy}", path, at)
        return None

    def choices(self, name: str = "") -> str:
        """The section's classes in words: all where these are few, else those near to a name, and where to find the others."""
        classes = sorted(self.section.classes)
        if not classes:
            return f"this version of Limbeck has no {self.section.name}"
        if len(classes) <= FEW:
            return f"choose one of {', '.join(classes)}"
        near = [known for known in classes if name and name.lower() in known.lower()] or get_close_matches(name, classes, cutoff=0.5)
        found = f"the nearest are {', '.join(near[:FEW])}; " if near else ""
        return f"{found}docs/schedule.md tells which {self.section.kind} is for what, and limbeck schema lists all {len(classes)}"

    def plugins_among(self, arguments: Mapping[str, object], accepted: Signature, path: Path) -> dict[str, Builder | None]:
        """The arguments that name a function of the user's, each imported, or None after a fault and where plugins are left alone."""
        named = {name: value for name in accepted.by_name if isinstance(value := arguments.get(name), str) and PLUGIN.fullmatch(value)}
        return {name: self.plugin(value, (*path, name), (*path, name)) for name, value in named.items()}

    def plugin(self, class_name: str, path: Path, at: Path) -> Builder | None:
        """The function that ``package.module:function`` at ``at`` names, imported if that is allowed."""
        if self.plugins == "refuse":
            remedy = "if you trust it, it is allowed with --allow-plugins (in Python: allow_plugins=True)"
            self.fault(f"'{class_name}' is a plugin, whose code would run; {remedy}", path, at)
        if self.plugins != "import":
            return None
        module, _, function = class_name.partition(":")
        try:
            found = getattr(import_module(module), function)
        except (ImportError, AttributeError) as error:
            self.fault(f"the plugin '{class_name}' cannot be imported: {error}", path, at)
            return None
        if not callable(found):
            self.fault(f"the plugin '{class_name}' is {show(found)}, not a function", path, at)
            return None
        builder: Builder = found
        return builder

    def make(self, class_name: str, builder: Builder, arguments: Mapping[str, Any], path: Path) -> object:
        """The instance, or None when the builder refuses the arguments."""
        try:
            made = self.section.make(class_name, builder, arguments, self.optimizer)
        except (LimbeckError, ValueError, TypeError) as error:
            self.fault(f"{class_name}: {error}", path)
            return None
        except Exception as error:
            if class_name in self.section.classes:
                raise
            self.fault(f"the plugin '{class_name}' raised {type(error).__name__}: {error}", path, (*path, "class"))
            return None
        if isinstance(made, self.section.instance):
            return made
        self.fault(f"the plugin '{class_name}' gave {show(made)}, not a {self.section.instance.__name__}", path, (*path, "class"))
        return None

    def check_targets(self, targets: Mapping[str, Any], arguments: object, path: Path) -> None:
        """Names and patterns: well formed and, given a model, each matching a parameter."""
        for target, message in unmatched_targets(targets, self.parameters):
            self.fault(message, place(target, arguments, path) or path)

    def check_units(self, made: object, targets: Mapping[str, Any], path: Path) -> None:
        """Given a model: a mask can be made for each target's tensor, by its shape."""
        misfits = getattr(made, "misfits", None)
        if self.parameters is None or misfits is None:
            return
        resolved = resolvable(targets, self.parameters)
        for message in misfits(resolved, {name: tuple(self.parameters[name].parameter.shape) for name in resolved}):
            self.fault(message, path)

    def warn_of_patterns(
        self, made: object, targets: Mapping[str, Any], arguments: object, path: Path, parameters: Mapping[str, Named]
    ) -> None:
        """Patterns that do nothing, and those by which a pruner gets hold of more than is probably meant."""
        winners = winning(targets, parameters)
        doubts = list(idle_patterns(targets, winners, parameters))
        if self.section.kind == "pruner" and not getattr(getattr(made, "score", None), "vectors", False):
            doubts += vectors_by_pattern(targets, winners, parameters)
        for target, message in doubts:
            where = place(target, arguments, path) or path
            self.checked.report.warnings.append(self.checked.document.fault(f"'{target}' {message}", where))

    def fault(self, message: str, path: Path, at: Path | None = None) -> None:
        """Note a fault."""
        self.checked.report.faults.append(self.checked.document.fault(message, path, at))
