"""A search for the best quantization of a trained model as a job: its budget, its progress, its log, and the file that it leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from limbeck.apps.loop import write_json
from limbeck.apps.progress import Progress
from limbeck.apps.quantized import Divergence, Recipe, Subject, about_losses, evaluate, log_of, override_of, quantized
from limbeck.errors import QuantizationError
from limbeck.quantization import PostTrainLinearQuantizer, Stats
from limbeck.quantization.quantizers import PostTraining
from limbeck.quantization.search import Step, narrow
from limbeck.quantization.settings import layers_named
from limbeck.quantization.trials import Found, Trials, differences
from limbeck.quantization.tuned import SEARCHES, Setting, Tuned

BITS = "bits"
DIVERGENCE, LOSS = "divergence", "loss"
METHODS = (*SEARCHES, BITS)
RANGES, LOG = "ranges.json", "search_{method}"
SCHEDULE = "bits.yaml"
TOLD = 20


@dataclass(frozen=True)
class SearchOptions:
    """What is searched, and how long."""

    method: str
    budget: int
    """Evaluations in all, those of a log that is gone on with included."""
    samples: int | None
    """Of the calibration's split, on which each evaluation is made; None for as many as the application takes."""
    objective: str = DIVERGENCE
    """What ranges are searched for the least of: the divergence from FP32's predictions, or the loss. Bits are bound by the loss."""
    widths: tuple[int, ...] = (8, 6, 4)
    """Bits that a weight may have, in a search for bits."""
    tolerance: float = 0.01
    """What the loss may rise by, as a fraction, in a search for bits."""


@dataclass(frozen=True)
class Searched:
    """Where a search has come to: the quantized model with the best setting, how it is made, what the log says of it, and the file that holds it."""

    quantizer: PostTrainLinearQuantizer
    recipe: Recipe
    found: Found[Any]
    start: float
    """What the search began with."""
    file: Path
    objective: str = LOSS
    saved: str = ""
    """What a search for bits has saved."""

    def told(self) -> str:
        """In a line."""
        end = "its own end" if self.found.finished else "the end of its budget"
        change = f"{self.objective} {self.start:.4f} -> {self.found.best.loss:.4f}"
        made = f"{self.found.evaluations:,} evaluation{'s' * (self.found.evaluations != 1)}"
        return f"search: {change} in {made}, to {end}; {self.saved}{'; ' * bool(self.saved)}wrote {self.file}"


def search(
    subject: Subject, described: PostTraining, stats: Stats | None, options: SearchOptions, folder: Path, progress: Progress
) -> Searched:
    """Search from what a file describes; a call that was cut off goes on from the folder's log.

    Raises ``QuantizationError`` where there is nothing to search, and for a log of another search.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = _bits if options.method == BITS else _ranges
    return found(subject, described, stats, options, folder, progress)


def load_ranges(path: Path, about: Mapping[str, Any] | None = None) -> dict[str, tuple[str, float]]:
    """The setting that a search has written: for each tensor a clipping and a factor; ``about`` is the model that it is for.

    Raises ``QuantizationError`` for anything else, and where the ranges were found for another model.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        setting = {str(name): (str(clipping), float(factor)) for name, (clipping, factor) in tree["ranges"].items()}
        other = differences(tree.get("about", {}), {name: (about or {}).get(name) for name in tree.get("about", {})})
    except OSError as error:
        raise QuantizationError(f"{path} cannot be read: {error.strerror}; name a file that a search wrote, {RANGES}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise QuantizationError(f"{path} holds no ranges of a search; name a file that a search wrote, {RANGES}") from error
    if about is not None and other:
        raise QuantizationError(f"{path} was found for another model: {'; '.join(other)}; search for this one")
    return setting


def _job(
    subject: Subject, described: PostTraining, stats: Stats | None, options: SearchOptions, folder: Path, progress: Progress
) -> _Job:  # fmt: skip
    about = {**about_losses(subject, described, stats, _samples(subject, options)), "method": options.method}
    if options.method == BITS:
        about |= {"widths": list(options.widths), "tolerance": options.tolerance}
        return _Job(subject, options, about, progress, log=log_of(folder, LOG.format(method=options.method), about))
    about["objective"] = options.objective
    divergence = Divergence(subject, _samples(subject, options)) if options.objective == DIVERGENCE else None
    return _Job(subject, options, about, progress, divergence, log_of(folder, LOG.format(method=options.method), about))


def _samples(subject: Subject, options: SearchOptions) -> int:
    return subject.few.search if options.samples is None else options.samples


@dataclass
class _Job:
    """The evaluations of one search."""

    subject: Subject
    options: SearchOptions
    about: Mapping[str, Any]
    progress: Progress
    divergence: Divergence | None = None
    log: Path | None = None
    start: float | None = None
    made: int = 0

    @property
    def objective(self) -> str:
        """What is measured, in a word."""
        return LOSS if self.divergence is None else DIVERGENCE

    def measured(self, quantizer: PostTrainLinearQuantizer) -> float:
        """Of a model what is to be least."""
        if self.divergence is not None:
            return self.divergence(quantizer.model)
        return evaluate(self.subject, quantizer.model, self.subject.calibration, _samples(self.subject, self.options))["loss"]

    def count(self, loss: float) -> None:
        """One more evaluation, of which every so many are told where no bar is."""
        self.progress.advance()
        self.made += 1
        if self.made % TOLD == 0:
            self.progress.show({self.objective: loss})

    def run(self, trials: Trials, steps: Any) -> Found[Any]:
        """To the end of the search, or of the budget, with what it finds shown."""
        self.progress.begin(f"search, {self.options.method}", total=self.options.budget, done=trials.made)
        known = trials.made

        def tell(step: Step[Any]) -> None:
            if self.start is None:
                self.start = step.loss
            elif trials.made == known:  # from the log, as it was told when it was found
                return
            self.progress.show({f"best {self.objective}": step.loss, "at first": self.start})

        return trials.run(steps, tell)


def _ranges(
    subject: Subject, described: PostTraining, stats: Stats | None, options: SearchOptions, folder: Path, progress: Progress
) -> Searched:  # fmt: skip
    job = _job(subject, described, stats, options, folder, progress)
    quantizer = quantized(subject, described, stats, save_fp_weights=True)
    tuned = Tuned(quantizer)

    def loss(setting: Setting) -> float:
        tuned.apply(setting)
        return job.measured(quantizer)

    trials = Trials(loss, options.budget, job.log, job.about, lambda setting, loss: job.count(loss))
    found = job.run(trials, SEARCHES[options.method](tuned, trials))
    tuned.apply(found.best.setting)
    file = folder / RANGES
    ranges = {name: list(choice) for name, choice in found.best.setting.items()}
    write_json(file, {"about": dict(subject.about), "ranges": ranges, job.objective: found.best.loss})
    start = job.start if job.start is not None else found.best.loss
    return Searched(quantizer, Recipe(described, found.best.setting), found, start, file, job.objective)


def _bits(
    subject: Subject, described: PostTraining, stats: Stats | None, options: SearchOptions, folder: Path, progress: Progress
) -> Searched:  # fmt: skip
    job = _job(subject, described, stats, options, folder, progress)
    plain = quantized(subject, described, stats)
    weights = {row.layer: row for row in plain.rows() if row.tensor == "weight" and row.mode}
    if not weights:
        raise QuantizationError("no layer has a weight of integers, so there are no bits to search; give bits_parameters")

    def changed(bits: Mapping[str, int]) -> PostTraining:
        layers = plain.settings
        own = {layer: {**override_of(described, layer, layers), "bits_weights": number} for layer, number in bits.items()}
        given = described.arguments.get("overrides") or {}
        count = {
            next((pattern for pattern in given if layer in layers_named(pattern, layers)), None) for layer in layers if layer not in own
        }
        rest = {pattern: override for pattern, override in given.items() if pattern in count}
        return replace(described, arguments={**described.arguments, "overrides": {**own, **rest}})

    trials = Trials(
        lambda bits: job.measured(quantized(subject, changed(bits), stats)), options.budget, job.log, job.about,
        lambda setting, loss: job.count(loss),
    )  # fmt: skip
    start = {layer: row.bits for layer, row in weights.items()}
    widths = {layer: tuple(sorted({*options.widths, bits}, reverse=True)) for layer, bits in start.items()}

    def steps() -> Any:
        first = Step(start, trials(start))
        yield from narrow(
            widths, trials, first, first.loss * (1 + options.tolerance), {name: row.values or 1 for name, row in weights.items()}
        )

    found = job.run(trials, steps())
    best = changed(found.best.setting)
    file = folder / SCHEDULE
    saved = bits_told(start, found.best.setting, {name: row.values or 1 for name, row in weights.items()}, widths)
    what = f"{subject.what}, on {_samples(subject, options):,} {subject.unit} of {subject.calibration}, within {options.tolerance:.2%} of the loss"
    text = yaml.safe_dump(schedule_of(best), sort_keys=False, width=120)
    file.write_text(f"# {saved}: found for the {what}: {job.start:.4f} -> {found.best.loss:.4f}.\n\n{text}", "utf-8")
    return Searched(quantized(subject, best, stats), Recipe(best), found, job.start or found.best.loss, file, saved=saved)


def bits_told(before: Mapping[str, int], after: Mapping[str, int], sizes: Mapping[str, int], widths: Mapping[str, Sequence[int]]) -> str:
    """How many bits weights have, on average over their numbers.

    >>> bits_told({"a": 8, "b": 8}, {"a": 4, "b": 8}, {"a": 30, "b": 10}, {"a": (8, 4), "b": (8, 4)})
    'weights of 8.0 -> 5.0 bits on average, 1 of 2 layers with fewer'
    >>> bits_told({"a": 4}, {"a": 4}, {"a": 30}, {"a": (8, 4)})
    'weights of 4.0 bits, the fewest that are tried'
    """
    total = sum(sizes.values())
    old, new = (sum(sizes[name] * bits[name] for name in sizes) / total for bits in (before, after))
    fewer = sum(after[name] < before[name] for name in before)
    if all(before[name] == min(widths[name]) for name in before):
        return f"weights of {old:.1f} bits, the fewest that are tried"
    return f"weights of {old:.1f} -> {new:.1f} bits on average, {fewer} of {len(before)} layers with fewer"


def schedule_of(described: PostTraining) -> dict[str, Any]:
    """A quantizer as the tree of a schedule file; statistics are left to the calibration.

    >>> schedule_of(PostTraining({"clip_acts": "avg", "model_activation_stats": None, "overrides": None}))
    {'version': 1, 'quantizers': {'searched': {'class': 'PostTrainLinearQuantizer', 'clip_acts': 'avg'}}}
    """
    given = {name: value for name, value in described.arguments.items() if value is not None and name != "model_activation_stats"}
    kept = {name: described.arguments[name] for name in ("bits_activations", "bits_parameters") if name in described.arguments}
    plain = json.loads(json.dumps({**given, **kept}))
    return {"version": 1, "quantizers": {"searched": {"class": "PostTrainLinearQuantizer", **plain}}}
