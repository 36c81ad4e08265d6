"""The JSON Schema of a schedule file, for editors; made of the same signatures that check it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from limbeck.config.check import VERSION
from limbeck.config.components import SECTIONS, Section
from limbeck.config.policies import ENDS, KINDS, LISTS, accepted
from limbeck.config.signature import PLUGIN, signature

WHOLE = {"type": "integer", "minimum": 0}
POSITIVE = {"type": "integer", "minimum": 1}


def json_schema() -> dict[str, Any]:
    """The schema of the whole file (JSON Schema, draft 2020-12).

    >>> schema = json_schema()
    >>> sorted(schema["properties"])[:4]
    ['extensions', 'lr_schedulers', 'policies', 'pruners']
    """
    definitions: dict[str, Any] = {}
    sections = {section.name: _section(section, definitions) for section in SECTIONS}
    policies = {"description": "what is applied when", "type": "array", "minItems": 1, "items": _policy()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Limbeck schedule",
        "type": "object",
        "properties": {"version": {"const": VERSION, "description": "the version of this language"}, **sections, "policies": policies},
        "anyOf": [{"required": ["policies"]}, *_some(section.name for section in SECTIONS if section.afterwards)],
        "additionalProperties": False,
        "$defs": definitions,
    }


def _some(names: Iterable[str]) -> list[dict[str, Any]]:
    """That a section is there, and not empty."""
    return [{"required": [name], "properties": {name: {"type": "object", "minProperties": 1}}} for name in names]


def _section(section: Section, definitions: dict[str, Any]) -> dict[str, Any]:
    """One section: a mapping of names to instances, each of one of the section's classes or a plugin."""
    choices: list[dict[str, Any]] = []
    for name, builder in sorted(section.classes.items()):
        schema = signature(builder, name, section.injected).json_schema()
        definitions.update(schema.pop("$defs", {}))
        schema["properties"] = {"class": {"const": name}, **schema.get("properties", {})}
        schema["required"] = ["class", *schema.get("required", [])]
        if builder.__doc__ and builder.__module__.startswith("limbeck"):
            schema["description"] = builder.__doc__.strip().splitlines()[0]
        definitions[name] = schema
        choices.append({"$ref": f"#/$defs/{name}"})
    by_path = {"type": "string", "pattern": f"^{PLUGIN.pattern}$"}
    plugin = {"type": "object", "properties": {"class": by_path}, "required": ["class"]}
    use = section.afterwards or "policies apply them by these names"
    most = {"maxProperties": 1} if section.afterwards else {}
    return {
        "description": f"{section.name} by name; {use}",
        "type": ["object", "null"],
        "additionalProperties": {"oneOf": [*choices, plugin]},
        **most,
    }


def _policy() -> dict[str, Any]:
    """One policy: exactly one kind, and one of the ways to say when."""
    kinds = [kind for kind, section in KINDS.items() if not section.afterwards]
    windows: dict[str, Any] = {
        "starting_epoch": WHOLE,
        "ending_epoch": {**POSITIVE, "description": "the first epoch that is not in the window any more"},
        "starting_step": WHOLE,
        "ending_step": {**POSITIVE, "description": "the first optimizer step that is not in the window any more"},
        "frequency": {**POSITIVE, "default": 1, "description": "every how many epochs, or steps, the policy fires"},
        **{
            key: {"type": "array", "items": WHOLE, "minItems": 1, "description": f"the {key} at which the policy fires"}
            for key in LISTS.values()
        },
    }
    whens = [{"required": list(ends), "not": _any_of(windows, set(ends) | {"frequency"})} for ends in ENDS.values()]
    whens += [{"required": [key], "not": _any_of(windows, {key})} for key in LISTS.values()]
    return {
        "type": "object",
        "properties": {**{kind: _use(kind) for kind in kinds}, **windows},
        "additionalProperties": False,
        "allOf": [
            {"oneOf": [{"required": [kind]} for kind in kinds]},
            {"oneOf": whens},
        ],
    }


def _use(kind: str) -> dict[str, Any]:
    """Which instance a policy applies, and the arguments of its own."""
    arguments = accepted(kind).json_schema()
    return {
        "type": "object",
        "properties": {"instance_name": {"type": "string"}, "args": {**arguments, "type": ["object", "null"]}},
        "required": ["instance_name"],
        "additionalProperties": False,
    }


def _any_of(keys: dict[str, Any], besides: set[str]) -> dict[str, Any]:
    return {"anyOf": [{"required": [key]} for key in keys if key not in besides]}
