"""Post-training quantization of a whole model, with the options of Distiller's ``PostTrainLinearQuantizer``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from limbeck._forward import part_by_part
from limbeck.errors import CaptureError, QuantizationError, did_you_mean
from limbeck.graph import Graph, Inputs, capture
from limbeck.names import unwrap
from limbeck.quantization.affine import Mode, QParams
from limbeck.quantization.build import Tensors, floating, keep_apart, put, quantized
from limbeck.quantization.choice import Range, clipped, of_input, with_room
from limbeck.quantization.demands import is_touched, refuse, refuse_model, undecided, warn_of_inputs
from limbeck.quantization.fold import Folded, foldings
from limbeck.quantization.fuse import Network, aware
from limbeck.quantization.held import Held, rows_of, tree_of
from limbeck.quantization.kinds import Leaf, leaves
from limbeck.quantization.paths import Paths, with_movers
from limbeck.quantization.plan import Plan, planned
from limbeck.quantization.rows import Row
from limbeck.quantization.settings import (
    Bits,
    ClippingName,
    Modes,
    MultiplierBits,
    Override,
    Positive,
    Precision,
    Setting,
    checked,
    defaults,
    resolve,
)
from limbeck.quantization.stats import Stats

PLACE = re.compile(r"\.inputs\.\d+$")
"""How the name of an input's range ends."""


@dataclass(eq=False)
class PostTrainLinearQuantizer:
    """Quantizes a trained model in place: layers become such as compute with integers, simulated exactly in floats.

    The options are Distiller's, with its names and defaults; each holds for all layers, and ``overrides`` change it for some. The model is for evaluation only
    then. Zeros stay zeros: a pruned model is as sparse as it was.

    >>> from limbeck.quantization import collect_stats
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    >>> inputs = torch.linspace(-1, 1, 8).reshape(2, 4)
    >>> with collect_stats(model) as collected:
    ...     expected = model(inputs)
    >>> quantizer = PostTrainLinearQuantizer(model, model_activation_stats=collected.stats, overrides={"2": {"bits_weights": 4}})
    >>> quantizer.prepare_model([inputs])
    Sequential(
      (0): QuantizedWeighted(0, 8 bits, weights of 8)
      (1): Identity()
      (2): QuantizedWeighted(2, 8 bits, weights of 4)
    )
    >>> bool((model(inputs) - expected).abs().max() < 0.1)
    True

    Raises ``QuantizationError``, which lists all faults, for options out of range, unknown keys, and patterns that name no layer.
    """

    model: nn.Module = field(repr=False)
    """Its recurrent modules in modular form (``limbeck.quantization.modular``), where they are to be quantized."""
    bits_activations: Bits | None = 8
    """Of every layer's output, and of those inputs that come from no quantized layer; None keeps floats."""
    bits_parameters: Bits | None = 8
    """Of weights; None keeps floats. A bias has ``bits_accum`` bits unless an override gives it others."""
    bits_accum: int = 32
    """Of the integers that products are summed up in, and are cut to."""
    overrides: Mapping[str, Override] | None = None
    """By name or pattern of layers, options for these; the first that names a layer counts."""
    mode: Modes | str = Mode.SYMMETRIC
    """For both, or ``{"activations": .., "weights": ..}``."""
    clip_acts: ClippingName = "none"
    """How ranges of activations are cut; one of ``CLIPPINGS``."""
    per_channel_wts: bool = False
    """A scale for each output channel of a weight."""
    model_activation_stats: Stats | str | Path | Mapping[str, Any] | None = field(default=None, repr=False)
    """What ``collect_stats`` has seen, or a file of it; None takes ranges of every batch anew."""
    clip_n_stds: Positive | None = None
    """How many standard deviations ``n_std`` keeps."""
    clip_half_range: bool = False
    """All outputs are rectified; it is found by itself where a ReLU follows."""
    scale_approx_mult_bits: MultiplierBits | None = None
    """Scales are multiplied by as integer hardware does: a whole number of so many bits, and a shift."""
    inputs_quant_auto_fallback: bool = True
    """Inputs that come from no quantized layer have ranges of their own; otherwise they are an error."""
    fpq_module: Precision | None = None
    """Floats of 16, 32 or 64 bits in place of integers."""
    save_fp_weights: bool = False
    """Keep the floats of weights, so that ``set_range`` can change their ranges."""
    also_clip_weights: bool = False
    """Cut weights too, by ``clip_acts``."""
    settings: dict[str, Setting] = field(init=False, repr=False)
    """What is asked of each layer, resolved; ``prepare_model`` adds what the graph says."""

    def __post_init__(self) -> None:
        self._inner = unwrap(self.model)
        self._leaves = leaves(self._inner)
        default = defaults(
            bits_activations=self.bits_activations,
            bits_weights=self.bits_parameters,
            bits_accum=self.bits_accum,
            mode=self.mode,
            clip_acts=self.clip_acts,
            per_channel_wts=self.per_channel_wts,
            clip_n_stds=self.clip_n_stds,
            clip_half_range=self.clip_half_range,
            scale_approx_mult_bits=self.scale_approx_mult_bits,
            fpq_module=self.fpq_module,
            also_clip_weights=self.also_clip_weights,
        )
        self.settings = resolve(default, checked(self.overrides), {name: leaf.kind for name, leaf in self._leaves.items()})
        self._network = Network()
        self._folded: dict[str, Folded] = {}
        self._held: dict[str, Held] = {}
        self._ranges: dict[str, Range] = {}
        self._params: dict[str, QParams] = {}

    @torch.no_grad()
    def prepare_model(self, example_inputs: Inputs | Graph | None = None) -> nn.Module:
        """Quantize the model in place, and return it.

        With ``example_inputs``, a sequence of arguments or a mapping, the model's graph is read; it may be given as ``graph_of`` has read it. Then batch
        norms are folded, ReLUs become part of the layer before, ranges are net-aware, and a layer's input is on the scale of the layer that it comes
        from. Without, every layer stands for itself.

        Nothing is changed where it raises ``QuantizationError``: for a model in training mode, missing statistics, layers that cannot be quantized;
        ``CaptureError`` for a model whose graph cannot be read.
        """
        if self._held:
            raise QuantizationError("the model is quantized already; change ranges with set_range, or begin with the model as it was")
        before = self._leaves, self._folded, self._network
        try:
            return self._prepare(example_inputs)
        except Exception:
            self._leaves, self._folded, self._network = before
            raise

    def _prepare(self, example_inputs: Inputs | Graph | None) -> nn.Module:
        refuse_model(self.model, self._leaves)
        stats, settings = _stats(self.model_activation_stats), dict(self.settings)
        layers = self._read(example_inputs, stats, settings)
        refuse(layers, settings, stats)
        warn_of_inputs(layers, settings, stats)
        touched = {name: leaf for name, leaf in layers.items() if is_touched(leaf, settings[name]) and not settings[name].make_identity}
        plan = planned(touched, settings, stats, self._network, self._weights(touched))
        if plan.undecided and not self.inputs_quant_auto_fallback:
            raise undecided(plan.undecided)
        self.settings = settings
        self._ranges = plan.ranges
        self._params = {name: found.params for name, found in plan.ranges.items()}
        self._held = {name: self._hold(leaf, plan) for name, leaf in touched.items()}
        self._install(layers)
        return self.model

    @property
    def ranges(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Between which numbers each tensor's integers are spread, by ``LAYER.weight``, ``LAYER.output`` and ``LAYER.inputs.0``, with one bound a group.

        An input that is on the scale of a layer before has none of its own.
        """
        return MappingProxyType({name: (found.low, found.high) for name, found in self._ranges.items()})

    @property
    def sources(self) -> Mapping[str, str]:
        """By tensors that have no range of their own the one that they are on.

        That is of ``LAYER.inputs.0`` the range of the layer that it comes from, and of an output that of the concatenation that it becomes a part of.
        """
        wires = {f"{name}.inputs.{place}": wire for name, held in self._held.items() for place, wire in enumerate(held.inputs)}
        wires |= {f"{name}.output": held.output for name, held in self._held.items()}
        return MappingProxyType({name: wire for name, wire in wires.items() if isinstance(wire, str) and wire != name})

    @property
    def clippings(self) -> Mapping[str, str]:
        """By the same names, where each range comes from."""
        return MappingProxyType({name: found.clipping for name, found in self._ranges.items()})

    @torch.no_grad()
    def set_range(self, name: str, low: Tensor | float, high: Tensor | float, clipping: str = "set") -> None:
        """Spread a tensor's integers between other numbers; all that reads the tensor follows. ``clipping`` is what ``rows`` say of it.

        Raises ``QuantizationError`` for a name that has no range, with the one that it shares; for bounds that are no range; and for weights whose floats
        are gone (``save_fp_weights``).
        """
        if name not in self._ranges:
            raise QuantizationError(f"no range is named '{name}'{self._shared(name) or did_you_mean(name, self._ranges)}")
        held = [held for held in self._held.values() if name in held.wires()]
        if name.endswith(".weight") and any(each.weight == name and not each.keeps_floats for each in held):
            raise QuantizationError(f"the floats of '{name}' are gone; make the quantizer with save_fp_weights=True")
        self._ranges[name] = self._ranges[name].moved(low, high, clipping)
        self._params[name] = self._ranges[name].params
        for each in held:
            each.settle(self._params)

    @torch.no_grad()
    def clipped(self, name: str, clipping: str) -> tuple[Tensor, Tensor]:
        """The range that another clipping would give a tensor, for ``set_range``; nothing is changed.

        Raises ``QuantizationError`` for a name that has no range, and for a clipping that does not go with the tensor.
        """
        if name not in self._ranges:
            raise QuantizationError(f"no range is named '{name}'{did_you_mean(name, self._ranges)}")
        layer, _, tensor = name.rpartition(".inputs." if PLACE.search(name) else ".")
        tensors, setting = self._held[layer].tensors, self.settings[layer]
        if tensor == "weight" and (tensors is None or tensors.weight is None):
            raise QuantizationError(f"the floats of '{name}' are gone; make the quantizer with save_fp_weights=True")
        weight = tensors.weight if tensor == "weight" and tensors is not None else None
        if tensor not in ("weight", "output"):
            setting = of_input(setting, setting.input_overrides.get(int(tensor)))
        bounds = self._network.bounds.get(layer) if tensor == "output" else None
        found = clipped(self._ranges[name], clipping, setting, weight, bounds)
        source = self._params.get(str(self._held[layer].inputs[0])) if weight is not None and self._held[layer].inputs else None
        if source is not None and tensors is not None:
            found = with_room(found, tensors.bias, source, setting.bits_accum)
        return found.low, found.high

    @property
    def folded(self) -> Mapping[str, str]:
        """By layer, the batch norm that became a part of it."""
        return MappingProxyType({layer: found.norm for layer, found in self._folded.items()})

    @property
    def bounds(self) -> Mapping[str, tuple[float, float]]:
        """By layer, outside of which its output makes no difference: a ReLU, a sigmoid or a tanh follows."""
        return MappingProxyType(dict(self._network.bounds))

    def rows(self) -> tuple[Row, ...]:
        """What was quantized and how, layer by layer: bits, scales, clipping, signal-to-noise ratio, zeros before and after."""
        return tuple(rows_of(self._held, self._ranges))

    def save(self, path: str | Path) -> None:
        """Write all numbers as YAML, layer by layer: bits, modes, and by tensor scale, zero point and range."""
        text = yaml.safe_dump(tree_of(self._held, self._ranges), sort_keys=False, width=160)
        Path(path).write_text(text, encoding="utf-8")

    def _read(self, example_inputs: Inputs | Graph | None, stats: Stats | None, settings: dict[str, Setting]) -> dict[str, Leaf]:
        """The layers that run; what the graph has to say of their settings is put into ``settings``."""
        if example_inputs is None:
            return self._leaves
        graph = example_inputs if isinstance(example_inputs, Graph) else graph_of(self._inner, example_inputs)
        self._leaves = with_movers(Paths(graph, self._leaves), self._leaves, stats)
        self._folded = foldings(Paths(graph, self._leaves), self._leaves)
        norms = {folded.norm: layer for layer, folded in self._folded.items()}
        paths = Paths(graph, self._leaves, frozenset(norms))
        if stats is not None:
            outputs = {layer: found for norm, layer in norms.items() if norm in stats and (found := stats[norm].output) is not None}
            others = {name: leaf for name, leaf in self._leaves.items() if name not in norms}
            self._network = aware(paths, others, settings, stats, outputs)
        for name in self._network.rectified:
            settings[name] = replace(settings[name], clip_half_range=True)
        for name in (*norms, *self._network.identities):
            settings[name] = replace(settings[name], make_identity=True)
        ran = paths.nodes_of.keys() | norms.keys() | (stats.layers.keys() if stats else set())
        return {name: leaf for name, leaf in self._leaves.items() if any(f"{each}.".startswith(f"{name}.") for each in ran)}

    def _weights(self, touched: Mapping[str, Leaf]) -> dict[str, Tensors]:
        """By layer its weight and bias, with batch norms folded in."""
        found = {}
        for name, leaf in touched.items():
            folded = self._folded.get(name)
            held = leaf.module._parameters
            found[name] = Tensors(folded.weight, folded.bias) if folded else Tensors(held.get("weight"), held.get("bias"))
        return found

    def _hold(self, leaf: Leaf, plan: Plan) -> Held:
        """A layer's quantized twin, that computes by the numbers of the plan."""
        setting, tensors = self.settings[leaf.name], plan.tensors[leaf.name]
        if setting.fpq_module is not None:
            dtype = next((each.dtype for each in self._inner.parameters() if each.is_floating_point()), torch.float32)
            return Held(leaf, setting, floating(leaf, setting, tensors, dtype), tensors)
        held = Held(leaf, setting, quantized(leaf, setting, tensors), tensors, **plan.wires[leaf.name])
        held.settle(self._params)
        if not self.save_fp_weights:
            held.forget(self._ranges)
        return held

    def _install(self, layers: Mapping[str, Leaf]) -> None:
        """Change the model: from here on nothing is refused."""
        for name, folded in self._folded.items():
            if name not in self._held:
                module = self._leaves[name].module
                module.weight, module.bias = nn.Parameter(folded.weight), nn.Parameter(folded.bias)
        for name, leaf in layers.items():
            if self.settings[name].make_identity:
                put(self._inner, leaf, nn.Identity())
        for held in self._held.values():
            put(self._inner, held.leaf, held.module)
        keep_apart(self._inner, {id(held.module) for held in self._held.values()})

    def _shared(self, name: str) -> str:
        """The remedy for an input that has no range of its own; empty where there is none such."""
        layer, _, place = name.rpartition(".inputs.")
        wires = self._held[layer].inputs if layer in self._held else []
        wire = wires[int(place)] if place.isdigit() and int(place) < len(wires) else None
        return f": it is on the scale of '{wire}'; set that one" if isinstance(wire, str) else ""


def graph_of(model: nn.Module, example_inputs: Inputs) -> Graph:
    """What ``prepare_model`` reads of a model's graph; it holds names alone, so that it is the graph of all copies.

    >>> model = nn.Sequential(nn.Linear(2, 2)).eval()
    >>> graph = graph_of(model, [torch.zeros(1, 2)])
    >>> PostTrainLinearQuantizer(model).prepare_model(graph)
    Sequential(
      (0): QuantizedWeighted(0, 8 bits, weights of 8)
    )

    Raises ``CaptureError`` for a model whose graph cannot be read.
    """
    try:
        with part_by_part():
            return capture(model, example_inputs)
    except CaptureError as error:
        raise CaptureError(f"{error}; prepare_model() without inputs does without the graph") from error


def _stats(given: Stats | str | Path | Mapping[str, Any] | None) -> Stats | None:
    if given is None or isinstance(given, Stats):
        return given
    return Stats.load(given) if isinstance(given, str | Path) else Stats.of(given)
