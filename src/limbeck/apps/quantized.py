"""Trained models that are quantized, of any application: what they are measured on, the statistics of their activations, and the report."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.apps.loop import write_json
from limbeck.apps.progress import Progress
from limbeck.errors import QuantizationError
from limbeck.graph import Graph
from limbeck.names import NOT
from limbeck.quantization import PostTrainLinearQuantizer, Stats, collect_stats, graph_of
from limbeck.quantization.kinds import leaves
from limbeck.quantization.quantizers import PostTraining
from limbeck.quantization.rows import Row
from limbeck.quantization.settings import layers_named
from limbeck.quantization.signal import signal_to_noise
from limbeck.quantization.trials import Trials, differences
from limbeck.quantization.tuned import Setting, Tuned

STATS, ABOUT, COSTS = "stats.json", "stats.about.json", "costs"
FLOATS = {"bits_activations": None, "bits_weights": None, "fpq_module": None}

KEPT_BYTES = 1 << 30
"""Up to so much of FP32's predictions is kept while others are held against them; more is computed anew each time."""
LEAST = -1e30
"""A logarithm of zero with which sums go on."""


class Predictions(NamedTuple):
    """What a model says of a batch: ``logits [samples, classes]``, of float32 or more, and what was right, ``targets [samples]``."""

    logits: Tensor
    targets: Tensor


Run = Callable[[nn.Module], Predictions]
"""Runs a model on one batch."""


def cross_entropy(found: Predictions) -> Tensor:
    """Its sum over the samples, nats, ``[1]``."""
    return F.cross_entropy(*found, reduction="sum")[None]


@dataclass(frozen=True)
class Few:
    """How many samples are taken unless a number is given; 0 for all."""

    calibration: int = 0
    costs: int = 2000
    """On which each layer is quantized alone, and signals are compared."""
    search: int = 5000


@dataclass(frozen=True)
class Subject:
    """A trained model in the form that is quantized, in evaluation mode, and what it is measured on."""

    model: nn.Module
    inputs: tuple[Any, ...]
    """A small batch, with which the model's graph is captured."""
    what: str
    """The model in a word, for titles."""
    unit: str
    """What its samples are called: words, images, sentences."""
    calibration: str
    """The split whose samples tell the ranges; never the test."""
    batches: Callable[[str, int], Sequence[Run]]
    """The batches of a split, or of so many of its samples; 0 for all."""
    measures: Callable[[Sequence[float]], dict[str, float]]
    """From means over samples of ``sums`` to what is told: ``loss`` and the application's own measure."""
    about: Mapping[str, Any]
    """What two calibrations must share to be one: the data, and a fingerprint of the weights."""
    few: Few = Few()
    sums: Callable[[Predictions], Tensor] = cross_entropy
    """Sums over the samples of a batch, the loss first."""
    scores: Callable[[nn.Module, str, int, Progress], dict[str, float]] | None = None
    """What else tells a whole model's worth on a split, or on so many of its samples, and takes too long for a search: BLEU."""

    @cached_property
    def graph(self) -> Graph:
        """The model's, read once for all its quantized copies."""
        return graph_of(self.model, self.inputs)


@torch.no_grad()
def evaluate(subject: Subject, model: nn.Module, split: str, samples: int = 0, progress: Progress | None = None) -> dict[str, float]:
    """The measures of a model on a split, or on so many samples of it; ``progress`` counts batches."""
    sums: list[float] = []
    seen = 0
    for run in subject.batches(split, samples):
        found = run(model)
        new = subject.sums(found).double().tolist()
        sums = [one + other for one, other in zip(sums, new, strict=True)] if seen else new
        seen += len(found.targets)
        if progress is not None:
            progress.advance()
    return subject.measures([each / seen for each in sums])


class Divergence:
    """How far a model's predictions are from those of the FP32 model, on samples of the calibration's split: call it with a model.

    The mean over samples of the Kullback-Leibler divergence from FP32's probabilities, in nats; 0 for FP32 itself. The loss on the same samples would rise by
    as much if their targets were drawn from FP32's probabilities; they are one draw, and chance in it is what a search for the least loss finds first.
    """

    def __init__(self, subject: Subject, samples: int) -> None:
        self._subject, self._samples = subject, samples
        self._kept: list[Tensor] = []

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> float:
        """In nats; of a model that has broken down NaN or infinity."""
        total, seen = 0.0, 0
        for expected, run in zip(self._expected(), self._runs(), strict=True):
            found = _log_probabilities(run(model))
            total += float(F.kl_div(found, expected, reduction="sum", log_target=True))
            seen += len(found)
        return 0.0 if total < 0 else total / seen  # below zero it is rounding; NaN stays NaN

    def _expected(self) -> Iterator[Tensor]:
        """FP32's logarithms of probabilities, batch by batch."""
        if self._kept:
            yield from self._kept
            return
        kept: list[Tensor] = []
        runs = self._runs()
        for run in runs:
            expected = _log_probabilities(run(self._subject.model))
            if expected.nbytes * len(runs) <= KEPT_BYTES:
                kept.append(expected)
            yield expected
        self._kept = kept if len(kept) == len(runs) else []

    def _runs(self) -> Sequence[Run]:
        """New ones for each model: they may carry its state from batch to batch, and keep it alive."""
        return self._subject.batches(self._subject.calibration, self._samples)


def _log_probabilities(found: Predictions) -> Tensor:
    return F.log_softmax(found.logits, 1).clamp_(min=LEAST)


def statistics(subject: Subject, samples: int, folder: Path, progress: Progress) -> Stats:
    """The statistics of all layers over samples of the calibration's split; those that lie in the folder already, where they are of the same model and data.

    Raises ``QuantizationError`` for a folder that has those of another model, before anything is calibrated.
    """
    about = {**subject.about, "split": subject.calibration, "samples": samples}
    path, note = folder / STATS, folder / ABOUT
    held = json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}
    other = differences({name: held[name] for name in subject.about if name in held}, subject.about) if held else []
    if other:
        raise QuantizationError(
            f"{folder} has the ranges of another model: {'; '.join(other)}; give this one a folder of its own with --out"
        )
    if path.exists() and held == about:
        progress.say(f"ranges from {path}")
        return Stats.load(path)
    runs = subject.batches(subject.calibration, samples)
    progress.begin(f"calibration, {subject.calibration}", total=len(runs), done=0)
    with torch.no_grad(), collect_stats(subject.model) as collected:
        for run in runs:
            run(subject.model)
            progress.advance()
    folder.mkdir(parents=True, exist_ok=True)
    note.unlink(missing_ok=True)
    collected.stats.save(path)
    write_json(note, about)
    return collected.stats


def quantized(subject: Subject, described: PostTraining, stats: Stats | None, **changes: Any) -> PostTrainLinearQuantizer:
    """A copy of the model, quantized as a file describes it; ``changes`` are arguments in place of the file's.

    Raises ``QuantizationError`` for what cannot be quantized so.
    """
    return described.prepare(copy.deepcopy(subject.model), subject.graph, stats, **changes)


@contextmanager
def named_in_errors(quantizer: object) -> Iterator[None]:
    """Put a file's name before what is wrong with the quantizer that it describes, once there is a model to tell by."""
    try:
        yield
    except QuantizationError as error:
        raise QuantizationError(f"{quantizer}: {error}", error.faults) from error


def with_signal(rows: Sequence[Row], subject: Subject, quantizer: PostTrainLinearQuantizer, samples: int, progress: Progress) -> list[Row]:
    """The rows, of outputs with the signal-to-noise ratio that was measured on samples of the calibration's split, noise of earlier layers in it."""
    twins = {row.layer: quantizer.folded.get(row.layer, row.layer) for row in rows if row.tensor == "output"}
    runs = subject.batches(subject.calibration, samples)
    progress.begin("signal to noise", total=len(runs), done=0)
    found = signal_to_noise(subject.model, quantizer.model, counted(runs, progress), twins, quantizer.bounds)
    return [
        replace(row, snr_db=found[row.layer], snr_of="evaluation") if row.tensor == "output" and row.layer in found else row for row in rows
    ]


def counted(runs: Sequence[Run], progress: Progress) -> Iterator[Run]:
    """The runs, each counted when the next one is asked for."""
    for run in runs:
        yield run
        progress.advance()


@dataclass(frozen=True)
class Recipe:
    """How a model is quantized: what a file describes, and the ranges that a search has found in place of the file's."""

    described: PostTraining
    ranges: Setting = field(default_factory=dict)

    def quantized(self, subject: Subject, stats: Stats | None) -> PostTrainLinearQuantizer:
        """A copy of the model, so quantized; ranges of tensors that it has none for are left aside."""
        if not self.ranges:
            return quantized(subject, self.described, stats)
        quantizer = quantized(subject, self.described, stats, save_fp_weights=True)
        known = {name: choice for name, choice in self.ranges.items() if name in quantizer.ranges}
        if known:
            Tuned(quantizer).apply(known)
        return quantizer


def costs(
    subject: Subject, described: PostTraining, quantizer: PostTrainLinearQuantizer, stats: Stats | None, samples: int, folder: Path,
    progress: Progress,
) -> dict[str, float]:  # fmt: skip
    """The divergence from FP32's predictions, on samples of the calibration's split, of each layer quantized alone while all others compute with floats.

    A layer has the ranges that it has in ``quantizer``, its inputs those of the layers that they come from, in as many bits as its own. A call that was cut
    off goes on from the folder's log.
    """
    ranges = {name: [bound.tolist() for bound in bounds] for name, bounds in quantizer.ranges.items()}
    about = about_losses(subject, described, stats, samples) | {"ranges": _fingerprint(ranges), "measure": "divergence"}
    divergence, names = Divergence(subject, samples), leaves(subject.model)

    def measured(asked: Mapping[str, Any]) -> float:
        layer = asked["layer"]
        progress.begin(f"{layer} alone")
        one = quantized(subject, alone(described, layer, names), stats, save_fp_weights=True, inputs_quant_auto_fallback=True)
        for name in one.ranges:
            bounds = quantizer.ranges.get(quantizer.sources.get(name, name))
            if bounds is not None:
                one.set_range(name, *bounds)
        found = divergence(one.model)
        progress.advance()
        progress.show({"divergence": found})
        return found

    layers = dict.fromkeys(row.layer for row in quantizer.rows())
    trials = Trials(measured, log=log_of(folder, COSTS, about), about=about)
    progress.begin("layers, one at a time", total=len(layers), done=trials.made)
    return {layer: trials({"layer": layer}) for layer in layers}


def _fingerprint(tree: Any) -> str:
    return sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]


def log_of(folder: Path, stem: str, about: Mapping[str, Any]) -> Path:
    """The log of one question, with a mark of all that its answers depend on: what is asked otherwise has a log of its own.

    >>> log_of(Path("out"), "costs", {"samples": 100}).name, log_of(Path("out"), "costs", {"samples": 200}).name
    ('costs_21b86583.jsonl', 'costs_8b9492a7.jsonl')
    """
    return folder / f"{stem}_{_fingerprint(about)[:8]}.jsonl"


def about_losses(subject: Subject, described: PostTraining, stats: Stats | None, samples: int) -> dict[str, Any]:
    """What losses of quantized models, on samples of the calibration's split, depend on, as plain data; of statistics a fingerprint."""
    about = {**subject.about, "split": subject.calibration, "samples": samples}
    return {**about, "quantizer": plain(described), "statistics": "" if stats is None else fingerprint_of(stats)}


def fingerprint_of(stats: Stats) -> str:
    """Of all numbers, in the order of the layers."""
    return sha256(json.dumps(stats.tree()).encode()).hexdigest()[:16]


def plain(described: PostTraining) -> dict[str, Any]:
    """What a file says as data for JSON; overrides are pairs, as the first that names a layer counts.

    >>> plain(PostTraining({"overrides": {"fc*": {"bits_weights": 4}, "*": {"bits_weights": 6}}}))
    {'overrides': [['fc*', {'bits_weights': 4}], ['*', {'bits_weights': 6}]]}
    """
    arguments: dict[str, Any] = json.loads(json.dumps(dict(described.arguments)))
    overrides = arguments.get("overrides")
    return arguments if overrides is None else {**arguments, "overrides": [list(pair) for pair in overrides.items()]}


def alone(described: PostTraining, layer: str, layers: Collection[str]) -> PostTraining:
    """The same quantizer for one of the layers, and floats for all others.

    >>> alone(PostTraining({"overrides": {"fc*": {"bits_weights": 4}}}), "fc1", ["fc1", "fc2"]).arguments["overrides"]
    {'fc1': {'bits_weights': 4}, 'not:fc1': {'bits_activations': None, 'bits_weights': None, 'fpq_module': None}}
    """
    return replace(
        described, arguments={**described.arguments, "overrides": {layer: override_of(described, layer, layers), f"{NOT}{layer}": FLOATS}}
    )


def override_of(described: PostTraining, layer: str, layers: Collection[str]) -> Mapping[str, Any]:
    """What the file says of one of the layers: the first pattern that names it counts."""
    overrides: Mapping[str, Mapping[str, Any]] = described.arguments.get("overrides") or {}
    return next((override for pattern, override in overrides.items() if layer in layers_named(pattern, layers)), {})
