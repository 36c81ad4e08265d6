"""What is asked of each layer: the options of a quantizer, and the overrides of single layers, all resolved into one ``Setting`` a layer.

Names, defaults and order of precedence are Distiller's (``distiller/quantization/quantizer.py``, ``range_linear.py``).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, PlainValidator, TypeAdapter, ValidationError, WithJsonSchema, with_config
from typing_extensions import TypedDict

from limbeck.errors import QuantizationError, ScheduleWarning, did_you_mean
from limbeck.names import NOT, REGEX, closest, matches
from limbeck.quantization.affine import MOST_BITS, Mode
from limbeck.quantization.clipping import CLIPPINGS, named_clipping
from limbeck.quantization.kinds import Kind


def _one_mode(value: Any) -> Mode:
    try:
        return Mode(value)
    except ValueError:
        remedy = did_you_mean(str(value).lower(), list(Mode)) or f"; the modes are {', '.join(Mode)}"
        raise ValueError(f"no mode is named '{value}'{remedy}") from None


def mode_of(value: Any) -> Mode | dict[str, Mode]:
    """A mode by any of its names, or one for ``activations`` and one for ``weights``; raises ``ValueError`` for names that are none.

    >>> mode_of({"weights": "SYMMETRIC"})
    {'weights': <Mode.SYMMETRIC: 'symmetric'>}
    """
    if not isinstance(value, Mapping):
        return _one_mode(value)
    for side in value:
        if side not in SIDES:
            raise ValueError(f"a mode is for {' or '.join(SIDES)}, not for '{side}'{did_you_mean(str(side), SIDES)}")
    return {side: _one_mode(name) for side, name in value.items()}


def _clipping(value: Any) -> str:
    named_clipping(str(value))
    return str(value).lower()


SIDES = ("activations", "weights")
LISTED = 5
"""Layers that are named where none is close to what was asked for."""
MOST_SUM_BITS = 48
"""Sums of so many bits are exact in float64."""
_MODES = {"enum": [name for mode in Mode for name in (mode.value, mode.name)]}
_CLIPPINGS = {"anyOf": [{"enum": [*CLIPPINGS, *map(str.upper, CLIPPINGS)]}, {"pattern": "^l[1-9]"}]}
_BOTH = {"type": "object", "properties": dict.fromkeys(SIDES, _MODES), "additionalProperties": False}

Bits = Annotated[int, Field(ge=1, le=MOST_BITS)]
SumBits = Annotated[int, Field(ge=1, le=MOST_SUM_BITS)]
OneMode = Annotated[Mode, PlainValidator(_one_mode), WithJsonSchema(_MODES)]
Modes = Annotated[Mode | Mapping[str, Mode], PlainValidator(mode_of), WithJsonSchema({"anyOf": [_MODES, _BOTH]})]
ClippingName = Annotated[str, PlainValidator(_clipping), WithJsonSchema(_CLIPPINGS)]
Positive = Annotated[float, Field(gt=0)]
MultiplierBits = Annotated[int, Field(ge=2, le=31)]
Precision = Annotated[
    Literal[16, 32, 64], BeforeValidator(lambda value: int(value) if isinstance(value, str) and value.isdigit() else value)
]


@with_config(ConfigDict(extra="forbid"))
class InputOverride(TypedDict, total=False):
    """How one input of a layer is quantized: by the layer's own ``output`` range (``from_output``), or by a range of its own with these options."""

    from_output: bool
    bits_activations: Bits
    mode: OneMode
    clip_acts: ClippingName
    clip_n_stds: Positive | None
    clip_half_range: bool


@with_config(ConfigDict(extra="forbid"))
class Override(TypedDict, total=False):
    """What an override may say of a layer; what it leaves out is as for all layers. Bits of None keep floats."""

    bits_activations: Bits | None
    bits_weights: Bits | None
    bits_bias: SumBits | None
    mode: Modes
    per_channel_wts: bool
    clip_acts: ClippingName
    clip_n_stds: Positive | None
    clip_half_range: bool
    also_clip_weights: bool
    scale_approx_mult_bits: MultiplierBits | None
    fake: bool
    fpq_module: Precision | None
    make_identity: bool
    quantize_inputs: bool
    input_overrides: dict[int, InputOverride]


Overrides = Mapping[str, Override]


@dataclass(frozen=True)
class Setting:
    """All that is asked of one layer.

    >>> Setting(bits_weights=4).quantizes, Setting(bits_activations=None, bits_weights=None).quantizes
    (True, False)
    """

    bits_activations: int | None = 8
    """Of the output, and of inputs that have a range of their own; None keeps floats."""
    bits_weights: int | None = 8
    bits_bias: int | None = 32
    """Up to 16 give the bias a range of its own; more hold it as the sums are held; None keeps floats."""
    bits_accum: int = 32
    """Of the signed integers that products are summed up in."""
    mode_activations: Mode = Mode.SYMMETRIC
    mode_weights: Mode = Mode.SYMMETRIC
    per_channel_wts: bool = False
    clip_acts: str = "none"
    clip_n_stds: float | None = None
    clip_half_range: bool = False
    """The layer's output is rectified: the ReLU behind it is a part of it."""
    also_clip_weights: bool = False
    scale_approx_mult_bits: int | None = None
    fake: bool = False
    """Weights and output are quantized, and floats are computed with."""
    fpq_module: int | None = None
    """16, 32 or 64: floats of so many bits in place of integers."""
    make_identity: bool = False
    """The layer passes its input on: it is a part of the one before."""
    quantize_inputs: bool | None = None
    """None: where the layer computes with integers."""
    input_overrides: Mapping[int, InputOverride] = field(default_factory=dict)

    @property
    def clip_weights(self) -> str:
        """The clipping of weights."""
        return self.clip_acts if self.also_clip_weights else "none"

    @property
    def quantizes(self) -> bool:
        """Whether anything is to be done to the layer."""
        return not (self.bits_activations is None and self.bits_weights is None and self.fpq_module is None and not self.make_identity)


_OVERRIDES = TypeAdapter(dict[str, Override])
KEYS = (*Override.__annotations__, *InputOverride.__annotations__)
ELSEWHERE = {"fp16": "write fpq_module: 16", "bits_parameters": "an override says bits_weights"}
"""Keys of other versions, and what they are here."""


def checked(overrides: Mapping[str, Any] | None, place: str = "overrides") -> dict[str, Override]:
    """Overrides with modes, clippings and numbers as values.

    >>> checked({"decoder": {"mode": "ASYMMETRIC_SIGNED", "bits_weights": None}})
    {'decoder': {'bits_weights': None, 'mode': <Mode.ASYMMETRIC_SIGNED: 'asymmetric_signed'>}}

    Raises ``QuantizationError``, which lists all faults, for unknown keys and for values out of range.
    """
    try:
        return _OVERRIDES.validate_python(overrides or {})
    except ValidationError as error:
        raise _faulty(place, [_fault(each) for each in error.errors()]) from error


def _faulty(place: str, faults: Iterable[str]) -> QuantizationError:
    faults = list(dict.fromkeys(faults))
    return QuantizationError(f"{place}: {len(faults)} fault{'s' * (len(faults) > 1)}" + "".join(f"\n  {fault}" for fault in faults), faults)


def _fault(error: Any) -> str:
    """What pydantic found, with its place and the remedy."""
    *above, last = [str(place) for place in error["loc"]] or ["overrides"]
    if error["type"] == "extra_forbidden":
        remedy = f"; {ELSEWHERE[last]}" if last in ELSEWHERE else did_you_mean(last, KEYS) or f"; the keys are {', '.join(KEYS)}"
        return f"{'.'.join(above)}: unknown key '{last}'{remedy}"
    if error["type"] == "value_error":
        return f"{'.'.join((*above, last))}: {error['msg'].removeprefix('Value error, ')}"
    return f"{'.'.join((*above, last))}: {error['msg']}, not {error['input']!r}"


def defaults(**options: Any) -> Setting:
    """The setting that layers have without overrides, from the options of a quantizer, which are checked as overrides are.

    >>> defaults(bits_activations=4, mode={"weights": "SYMMETRIC_RESTRICTED"}).mode_weights
    <Mode.SYMMETRIC_RESTRICTED: 'symmetric_restricted'>

    Raises ``QuantizationError`` for values out of range.
    """
    bits_accum = options.pop("bits_accum", 32)
    if not isinstance(bits_accum, int) or not 8 <= bits_accum <= MOST_SUM_BITS:
        raise QuantizationError(f"bits_accum is a number from 8 to {MOST_SUM_BITS}, not {bits_accum!r}")
    given = checked({"the quantizer": options}, "options")["the quantizer"]
    return applied(Setting(bits_accum=bits_accum, bits_bias=bits_accum), given)


def applied(setting: Setting, override: Override) -> Setting:
    """A setting with what an override says put in its place."""
    changes: dict[str, Any] = dict(override)
    mode = changes.pop("mode", None)
    if isinstance(mode, Mode):
        changes |= {"mode_activations": mode, "mode_weights": mode}
    elif mode is not None:
        changes |= {f"mode_{what}": chosen for what, chosen in mode.items()}
    return replace(setting, **changes)


def named_by(pattern: str, name: str) -> bool:
    """Whether a pattern names a layer: as a name, a glob or ``re:REGEX``, as targets of pruners do, or as Distiller's do, which are regular expressions.

    >>> named_by("rnn.cells.*.act_?", "rnn.cells.0.act_f"), named_by(".*eltwise.*", "rnn.cells.0.eltwiseadd_cell"), named_by("fc", "fc2")
    (True, True, False)

    Raises ``TargetError`` for a ``re:`` that is no regular expression.
    """
    if matches(pattern, name):
        return True
    if pattern.startswith((REGEX, NOT)):
        return False
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error:  # a glob, as '*.act_f'
        return False


def layers_named(pattern: str, layers: Collection[str]) -> list[str]:
    """The layers that a pattern names; one that is a layer's very name is no pattern for others.

    >>> layers_named("fc.1", ["fc.1", "fc_1"]), layers_named("fc.", ["fc1", "fc2"])
    (['fc.1'], ['fc1', 'fc2'])
    """
    return [pattern] if pattern in layers else [name for name in layers if named_by(pattern, name)]


def resolve(default: Setting, overrides: Overrides, kinds: Mapping[str, Kind]) -> dict[str, Setting]:
    """The setting of each layer: of the overrides whose pattern names it, the first one counts.

    Where all layers are quantized by channels an embedding is not, unless an override says so: its rows are what the next layer reads as one tensor.

    >>> found = resolve(Setting(), {"fc": {"bits_weights": 4}, "*": {"bits_weights": 6}}, {"conv": Kind.WEIGHTED, "fc": Kind.WEIGHTED})
    >>> found["conv"].bits_weights, found["fc"].bits_weights
    (6, 4)

    Raises ``QuantizationError`` for patterns that name no layer, and for ``n_std`` without a number of them.
    Warns (``ScheduleWarning``) of patterns that never come first.
    """
    named = {pattern: layers_named(pattern, kinds) for pattern in overrides}
    owners = {name: next((pattern for pattern in overrides if name in named[pattern]), None) for name in kinds}
    faults = [_unmatched(pattern, kinds) for pattern in overrides if not named[pattern]]
    if faults:
        raise _faulty("overrides", faults)
    for pattern in overrides:
        if pattern not in owners.values():
            first = owners[named[pattern][0]]
            message = f"the override '{pattern}' says nothing: '{first}' stands before it and names the same layers; the first one counts"
            warnings.warn(message, ScheduleWarning, stacklevel=2)
    settings = {}
    for name, owner in owners.items():
        base = replace(default, per_channel_wts=False) if kinds[name] is Kind.EMBEDDING else default
        settings[name] = base if owner is None else applied(base, overrides[owner])
    boundless = list(dict.fromkeys(place for name, setting in settings.items() for place in _boundless(owners[name], setting)))
    if boundless:
        raise _faulty(
            "options", [f"{place}: clip_acts 'n_std' needs clip_n_stds, how many standard deviations to keep" for place in boundless]
        )
    return settings


def _boundless(owner: str | None, setting: Setting) -> Iterator[str]:
    """Where a clipping by standard deviations is asked for without their number."""
    place = "the quantizer" if owner is None else owner
    if setting.clip_acts == "n_std" and setting.clip_n_stds is None:
        yield place
    for number, given in setting.input_overrides.items():
        if given.get("clip_acts", setting.clip_acts) == "n_std" and given.get("clip_n_stds", setting.clip_n_stds) is None:
            yield f"{place}.input_overrides.{number}"


def _unmatched(pattern: str, names: Iterable[str]) -> str:
    names = list(names)
    inside = [name for name in names if name.startswith(f"{pattern}.")]
    if inside:
        return f"'{pattern}' is no layer, but holds {len(inside)}, as '{inside[0]}'; write '{pattern}.*' for all of them"
    others = ", ".join(f"'{name}'" for name in names[:LISTED]) + f" and {len(names) - LISTED} more" * (len(names) > LISTED)
    return f"no layer is named '{pattern}'{did_you_mean(pattern, names) or closest(pattern, names) or f'; the layers are {others}'}"
