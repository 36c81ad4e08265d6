"""What a layer needs in order to be quantized, and what is refused, all of it at once."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping

from torch import nn

from limbeck.errors import QuantizationError, ScheduleWarning, did_you_mean
from limbeck.names import canonical
from limbeck.quantization.convert import HOOKS
from limbeck.quantization.integers import EXACT
from limbeck.quantization.kinds import INTEGER, JOINS, Kind, Leaf
from limbeck.quantization.settings import Setting
from limbeck.quantization.stats import Stats

KEEP = "bits_activations: null, bits_weights: null"
DYNAMIC = frozenset({Kind.WEIGHTED, Kind.MATMUL, Kind.OTHER, Kind.EMBEDDING})
"""Kinds that can do without statistics."""


def has_integers(leaf: Leaf, setting: Setting) -> bool:
    """Whether a layer computes with integers, as opposed to floats that integers stand for."""
    whole = setting.bits_activations is not None and not setting.fake and setting.quantize_inputs is not False
    return leaf.kind in INTEGER and whole and (leaf.kind is not Kind.WEIGHTED or setting.bits_weights is not None)


def has_weight(leaf: Leaf, setting: Setting) -> bool:
    """Whether a layer's weight is quantized."""
    return leaf.kind in (Kind.WEIGHTED, Kind.EMBEDDING) and setting.bits_weights is not None


def has_output(leaf: Leaf, setting: Setting) -> bool:
    """Whether a layer's output is quantized, on a scale of its own."""
    return leaf.kind not in (Kind.EMBEDDING, Kind.MOVED) and setting.bits_activations is not None


def is_touched(leaf: Leaf, setting: Setting) -> bool:
    """Whether anything at all is done to a layer."""
    if setting.make_identity or leaf.kind is Kind.MOVED or not setting.quantizes:
        return setting.make_identity
    if setting.fpq_module is not None:
        return setting.fpq_module != 32
    return leaf.kind is Kind.OPAQUE or has_weight(leaf, setting) or has_output(leaf, setting)


def inputs_of(leaf: Leaf, setting: Setting, stats: Stats | None) -> list[int]:
    """Which of a layer's inputs are quantized, by their places."""
    if setting.bits_activations is None or leaf.kind in (Kind.EMBEDDING, Kind.MOVED):
        return []
    known = sorted(stats[leaf.name].inputs) if stats is not None else list(range(2 if leaf.kind is Kind.MATMUL else 1))
    known = known[:1] if leaf.kind is Kind.WEIGHTED else known
    wanted = leaf.kind in INTEGER if setting.quantize_inputs is None else setting.quantize_inputs
    return known if wanted else [place for place in known if place in setting.input_overrides]


def refuse_model(model: nn.Module, layers: Mapping[str, Leaf]) -> None:
    """Raise ``QuantizationError`` for a model that cannot be quantized as it is."""
    if any(isinstance(module, nn.DataParallel) for module in model.modules()):
        raise QuantizationError("the model holds DataParallel; take the module inside: PostTrainLinearQuantizer(model.module)")
    training = next((name for name, module in model.named_modules() if module.training), None)
    if training is not None:
        what = f"'{canonical(training)}'" if training else "the model"
        raise QuantizationError(f"{what} is in training mode; post-training quantization is for a trained model: call model.eval()")
    if "" in layers:
        raise QuantizationError(
            f"the model is a single {type(model).__name__}, in whose place nothing can be put; wrap it: nn.Sequential(model)"
        )
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.dtype not in EXACT:
            was = str(parameter.dtype).removeprefix("torch.")
            raise QuantizationError(
                f"'{canonical(name)}' is {was}, which does not hold the integers of 8 bits times 8 bits; call model.float()"
            )


def refuse(layers: Mapping[str, Leaf], settings: Mapping[str, Setting], stats: Stats | None) -> None:
    """Raise ``QuantizationError`` with all layers that cannot be quantized as they are set."""
    faults = [fault for name, leaf in layers.items() if is_touched(leaf, settings[name]) for fault in _faults(leaf, settings[name], stats)]
    if faults:
        listed = "".join(f"\n  {fault}" for fault in faults)
        raise QuantizationError(f"{len(faults)} fault{'s' * (len(faults) > 1)}{listed}", faults)


def _faults(leaf: Leaf, setting: Setting, stats: Stats | None) -> Iterator[str]:
    name, module, what = f"'{leaf.name}'", leaf.module, type(leaf.module).__name__
    if leaf.kind is Kind.OPAQUE:
        first = "" if isinstance(module, nn.MultiheadAttention) else "call limbeck.quantization.modular(model) before, or "
        keep = KEEP if setting.fpq_module is None else f"{KEEP}, fpq_module: null"
        yield f"{name} is a {what}, whose weights torch reads by itself; {first}leave it as it is: overrides {{{leaf.name}: {{{keep}}}}}"
        return
    if setting.make_identity or setting.fpq_module is not None:
        return
    integer = has_integers(leaf, setting) or has_weight(leaf, setting)
    if integer and leaf.kind in (Kind.WEIGHTED, Kind.EMBEDDING) and module._parameters.get("weight") is None:
        yield f"{name} computes its weight from others; make it plain: torch.nn.utils.prune.remove, or parametrize.remove_parametrizations"
    elif integer and any(vars(module)[hooks] for hooks in HOOKS):
        yield f"{name} has hooks, which would be lost; take them off, and put them on the quantized layer"
    if has_output(leaf, setting):
        yield from _faults_of_stats(leaf, setting, stats)


def _faults_of_stats(leaf: Leaf, setting: Setting, stats: Stats | None) -> Iterator[str]:
    name = f"'{leaf.name}'"
    if stats is None:
        if leaf.kind not in DYNAMIC:
            remedy = f"give model_activation_stats, or leave it as it is: overrides {{{leaf.name}: {{bits_activations: null}}}}"
            yield f"{name} joins several inputs, and needs statistics for a scale that serves them; {remedy}"
        return
    if leaf.name not in stats:
        close = did_you_mean(leaf.name, stats.layers)
        yield f"there are no statistics of {name}{close or '; collect them from this model, or override it with bits_activations: null'}"
        return
    seen = stats[leaf.name]
    if seen.output is None:
        yield f"the statistics of {name} have no output; override it with bits_activations: null, or collect them again"
    if has_integers(leaf, setting) and not seen.inputs:
        yield f"the statistics of {name} have no inputs; collect them again"
    elif leaf.kind in JOINS and has_integers(leaf, setting) and max(seen.inputs) >= len(seen.inputs):
        missing = min(set(range(max(seen.inputs))) - seen.inputs.keys())
        yield f"input {missing} of {name} is no tensor of floats; leave it as it is: overrides {{{leaf.name}: {{bits_activations: null}}}}"


def warn_of_inputs(layers: Mapping[str, Leaf], settings: Mapping[str, Setting], stats: Stats | None) -> None:
    """Warn (``ScheduleWarning``) of ``input_overrides`` for inputs that a layer was not seen to have."""
    for name in layers:
        given = settings[name].input_overrides
        if given and stats is not None and name in stats and (idle := [place for place in given if place not in stats[name].inputs]):
            has = ", ".join(map(str, sorted(stats[name].inputs))) or "none"
            warnings.warn(
                f"input_overrides of '{name}' for input {idle[0]} say nothing: its inputs are {has}", ScheduleWarning, stacklevel=4
            )


def undecided(places: list[tuple[str, int]]) -> QuantizationError:
    """The error for inputs that come from no quantized layer where they must."""
    faults = [f"input {place} of '{layer}' comes from no quantized layer" for layer, place in places]
    remedy = "quantize what computes them, give them input_overrides, or let them have ranges of their own with inputs_quant_auto_fallback"
    return QuantizationError("".join([f"{len(faults)} inputs have no scale; {remedy}", *[f"\n  {fault}" for fault in faults]]), faults)
