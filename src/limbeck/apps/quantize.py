"""``limbeck quantize``: a trained model of any application, quantized as a schedule file says, searched, measured and reported."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

from limbeck.apps import figures
from limbeck.apps.checkpoint import load_checkpoint
from limbeck.apps.images.session import APPLICATION as IMAGES
from limbeck.apps.images.subject import subject_of as subject_of_images
from limbeck.apps.lm.session import APPLICATION as WORDS
from limbeck.apps.lm.subject import subject_of as subject_of_words
from limbeck.apps.log import describe
from limbeck.apps.loop import finite
from limbeck.apps.progress import Progress
from limbeck.apps.quantize_report import layer_table, report_figure, tensor_table
from limbeck.apps.quantized import Recipe, Subject, costs, evaluate, named_in_errors, statistics, with_signal
from limbeck.apps.run import chosen_device, find_checkpoint, say, telling_warnings
from limbeck.apps.search import SearchOptions, load_ranges, search
from limbeck.apps.translation.prepare import APPLICATION as PAIRS
from limbeck.apps.translation.subject import subject_of as subject_of_pairs
from limbeck.config import load_quantizer
from limbeck.errors import CheckpointError, QuantizationError
from limbeck.names import Named, named_parameters
from limbeck.quantization import PostTrainLinearQuantizer, Stats
from limbeck.quantization.quantizers import PostTraining
from limbeck.summaries import render

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUBJECTS: Mapping[str, Callable[[Path, str | None, torch.device], Subject]] = {
    WORDS: subject_of_words, IMAGES: subject_of_images, PAIRS: subject_of_pairs,
}  # fmt: skip
"""By application, how its runs are read."""
TAKEN = "Without statistics: scales and zero points of activations are taken of every batch anew, and stand nowhere here."
PARAMETERS, PICTURE = "layer_quant_params.yaml", "report"


@dataclass(frozen=True)
class QuantizeOptions:
    """What ``limbeck quantize`` was asked for.

    Samples are words of a language model, images of a classifier, pairs of sentences of a translation model; None is as many as the application takes,
    and 0 all.
    """

    file: Path
    run: Path
    data: str | None = None
    stats: Path | None = None
    """Statistics that were collected before, in place of a calibration."""
    dynamic: bool = False
    """No statistics: ranges of activations are taken of every batch."""
    calibration: int | None = None
    """Samples of the calibration."""
    split: str = "test"
    samples: int = 0
    """Of the split that is evaluated."""
    costs: int | None = None
    """Samples on which each layer is quantized alone, and signals are compared; 0: on none is one quantized alone."""
    search: SearchOptions | None = None
    ranges: Path | None = None
    """What an earlier search has found."""
    out: Path = Path("quantized")
    cuda: bool = False
    device: str | None = None


@dataclass(frozen=True)
class Result:
    """The report on a quantized model, and what it measures before and after."""

    table: render.Table
    unit: str
    before: Mapping[str, float]
    after: Mapping[str, float]
    files: Sequence[Path]


def run_quantize(options: QuantizeOptions, as_json: bool = False) -> None:
    """Quantize the model of a run as a file says, and print what became of it; tables, the picture and all numbers go to the folder."""
    described = load_quantizer(options.file)
    if options.dynamic:
        described = replace(described, arguments={**described.arguments, "model_activation_stats": None})
    subject = subject_of(options.run, options.data, chosen_device(options.cuda, options.device))
    with named_in_errors(options.file):
        described.check(subject.model)
    subject.batches(options.split, options.samples)  # a split that is not there is missed now, and not after the calibration
    console = Console()
    options.out.mkdir(parents=True, exist_ok=True)
    with Progress(1, "calibration", console=Console(stderr=True)) as progress, telling_warnings(progress.say):
        stats = _stats(options, described, subject, progress)
        quantizer, recipe = _quantizer(options, described, subject, stats, progress)
        rows, found = list(quantizer.rows()), dict[str, float]()
        layers = list(dict.fromkeys(row.layer for row in rows))
        samples = subject.few.costs if options.costs is None else options.costs
        if layers:
            rows = with_signal(rows, subject, quantizer, samples or subject.few.costs, progress)
        if samples and layers:
            found = costs(subject, recipe.described, quantizer, stats, samples, options.out, progress)
        before, after = (_measured(options, subject, name, model, progress) for name, model in (("FP32", None), ("quantized", quantizer)))
    title = f"{subject.what} ({options.run}), quantized by {options.file}"
    notes = [] if stats or not rows or not needs_statistics(described) else [TAKEN]
    notes += tied_notes([named for named in named_parameters(subject.model).values() if named.name.endswith(".weight")])
    table = layer_table(rows, found, title, notes)
    files = _write(options.out, quantizer, [table, tensor_table(rows, title, notes)], report_figure(rows, found, title))
    result = Result(table, subject.unit, before, after, files)
    _print(result, options, console, as_json)


def tied_notes(named: Sequence[Named]) -> tuple[str, ...]:
    """That tied weights are quantized each on its own.

    >>> tied_notes([Named("encoder.weight", torch.nn.Parameter(torch.zeros(1)), ("decoder.weight",))])
    ('encoder.weight and decoder.weight are one tensor in FP32; each has integers of its own here, and is counted.',)
    """
    together = [" and ".join((one.name, *one.aliases)) for one in named if one.aliases]
    return tuple(f"{names} are one tensor in FP32; each has integers of its own here, and is counted." for names in together)


def subject_of(run: Path, data: str | None, device: torch.device) -> Subject:
    """The model of a run folder or checkpoint of any application whose models can be quantized; raises ``CheckpointError`` for another's."""
    state = load_checkpoint(find_checkpoint(run, "best")).state
    kind = str(state.get("application")) if isinstance(state, dict) else "another program"
    if kind not in SUBJECTS:
        raise CheckpointError(f"{run} is a checkpoint of '{kind}'; those of {' and '.join(SUBJECTS)} can be quantized by this command")
    return SUBJECTS[kind](run, data, device)


def _stats(options: QuantizeOptions, described: PostTraining, subject: Subject, progress: Progress) -> Stats | None:
    """Those of the command line, else those that the file names, else those of a calibration; None where ranges are taken of every batch."""
    if options.dynamic or not needs_statistics(described):
        return None
    named = options.stats or described.arguments.get("model_activation_stats")
    if named is not None:
        return Stats.load(named)
    return statistics(subject, subject.few.calibration if options.calibration is None else options.calibration, options.out, progress)


def needs_statistics(described: PostTraining) -> bool:
    """Whether any layer may compute with integers; short floats have no ranges.

    >>> needs_statistics(PostTraining({"fpq_module": 16})), needs_statistics(PostTraining({"bits_activations": 8}))
    (False, True)
    """
    given = described.arguments
    floats = given.get("fpq_module") is not None or given.get("bits_activations") is None
    return not floats or any(
        "fpq_module" in override or "bits_activations" in override for override in (given.get("overrides") or {}).values()
    )


def _quantizer(
    options: QuantizeOptions, described: PostTraining, subject: Subject, stats: Stats | None, progress: Progress
) -> tuple[PostTrainLinearQuantizer, Recipe]:  # fmt: skip
    if options.search is not None:
        searched = search(subject, described, stats, options.search, options.out, progress)
        progress.say(searched.told())
        return searched.quantizer, searched.recipe
    setting = {} if options.ranges is None else load_ranges(options.ranges, subject.about)
    recipe = Recipe(described, setting)
    with named_in_errors(options.file):
        quantizer = recipe.quantized(subject, stats)
    strange = [name for name in setting if name not in quantizer.ranges]
    if strange:
        raise QuantizationError(
            f"{options.ranges} has a range for '{strange[0]}', which the model quantized by {options.file} has none for"
        )
    return quantizer, recipe


def _measured(
    options: QuantizeOptions, subject: Subject, name: str, quantizer: PostTrainLinearQuantizer | None, progress: Progress
) -> dict[str, float]:  # fmt: skip
    progress.begin(f"{name}, {options.split}", total=len(subject.batches(options.split, options.samples)), done=0)
    model = subject.model if quantizer is None else quantizer.model
    found = evaluate(subject, model, options.split, options.samples, progress)
    return found if subject.scores is None else found | subject.scores(model, options.split, options.samples, progress)


def _write(out: Path, quantizer: PostTrainLinearQuantizer, tables: Sequence[render.Table], figure: Figure) -> tuple[Path, ...]:
    files = []
    for stem, table in zip(("layers", "tensors"), tables, strict=True):
        for suffix in ("csv", "md"):
            files.append(out / f"{stem}.{suffix}")
            render.save(table, files[-1])
    quantizer.save(out / PARAMETERS)
    return (*files, out / PARAMETERS, *figures.save(figure, out / PICTURE))


def _print(result: Result, options: QuantizeOptions, console: Console, as_json: bool) -> None:
    if as_json:
        tree: dict[str, Any] = {
            **render.as_tree(result.table), "split": options.split, "samples": options.samples, "fp32": finite(dict(result.before)),
            "quantized": finite(dict(result.after)), "files": [str(file) for file in result.files],
        }  # fmt: skip
        console.file.write(json.dumps(tree, indent=2, allow_nan=False) + "\n")
        return
    render.show(result.table, console=console)
    part = f", {options.samples:,} of its {result.unit}" if options.samples else ""
    say(console, "")
    say(console, f"FP32, {options.split}{part}: {describe(result.before)}")
    say(console, f"quantized, {options.split}{part}: {describe(result.after)}")
    console.file.write("\n".join(["", *map(str, result.files)]) + "\n")
