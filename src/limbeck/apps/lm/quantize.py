"""``limbeck lm quantize``: one language model, quantized in several ways, as a table of perplexities."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from limbeck.apps.lm.subject import subject_of
from limbeck.apps.log import perplexity
from limbeck.apps.progress import Progress
from limbeck.apps.quantized import Recipe, Subject, evaluate, fingerprint_of, log_of, named_in_errors, plain, statistics
from limbeck.apps.run import chosen_device, telling_warnings
from limbeck.apps.search import SearchOptions, search
from limbeck.config import load_quantizer
from limbeck.quantization import Stats
from limbeck.quantization.quantizers import PostTraining, post_train_linear_quantizer
from limbeck.quantization.trials import Trials
from limbeck.summaries import render
from limbeck.summaries.render import Column, Table, fixed

LOG = "rows"
FP32, FOUND = "fp32", "searched"
"""The rows that need no file."""
FP16 = {"fpq_module": 16}
FINE = {"mode": "asymmetric_signed", "per_channel_wts": True}
ROWS: Mapping[str, Mapping[str, Any]] = {
    "fp32": {"bits_activations": None, "bits_parameters": None},
    "fp16": FP16,
    "int8_symmetric": {"mode": "symmetric"},
    "int8_asymmetric_channel": FINE,
    "int8_asymmetric_channel_avg": {**FINE, "clip_acts": "avg"},
    "mixed_fp16_eltwise": {**FINE, "overrides": {"encoder": FP16, "decoder": FP16, ".*eltwise.*": FP16}},
    "mixed_fp16_avg": {**FINE, "clip_acts": "avg", "overrides": {"encoder": FP16, "decoder": FP16}},
}
"""The seven rows of Distiller's table, which ``schedules/lm/quantize`` holds as files: ``examples/word_language_model`` there, and its notebook."""
SEARCHED = "int8_asymmetric_channel"
"""What a search begins with."""
CLIPPINGS = {"none": "No", "avg": "Averaging"}
MODES = {
    "symmetric": "Symmetric",
    "symmetric_restricted": "Symmetric",
    "asymmetric_signed": "Asymmetric",
    "asymmetric_unsigned": "Asymmetric",
}
NONE = "N/A"


@dataclass(frozen=True)
class QuantizeOptions:
    """What ``limbeck lm quantize`` was asked for."""

    run: Path
    files: tuple[Path, ...] = ()
    """Schedule files in place of the seven rows; FP32 always comes first."""
    data: str | None = None
    split: str = "test"
    words: int = 0
    """Of the split that is evaluated; 0 for all."""
    calibration_words: int = 0
    out: Path = Path("quantized")
    search: SearchOptions | None = None
    cuda: bool = False
    device: str | None = None


@dataclass(frozen=True)
class QuantizedRow:
    """One way to quantize the model; the perplexity is infinite where the model has broken down."""

    name: str
    precision: str
    mode: str
    per_channel: str
    clipping: str
    fp16_modules: str
    perplexity: float
    change: float
    """Of the perplexity, as a fraction of that in FP32."""


def signed_percent(fraction: float) -> str:
    """A change in percent.

    >>> signed_percent(0.2012), signed_percent(-0.0004)
    ('+20.1%', '-0.04%')
    """
    return f"{100 * fraction:+.{1 if abs(fraction) >= 0.01 else 2}f}%"


def columns(split: str) -> tuple[Column, ...]:
    """The columns of the table, as Distiller's, and the change against FP32."""
    return (
        Column("Precision", "precision"),
        Column("INT8: mode", "mode"),
        Column("Per-channel", "per_channel"),
        Column("Clipping", "clipping"),
        Column("FP16 modules", "fp16_modules", fold=True),
        Column({"valid": "Validation"}.get(split, split.title()) + " ppl", "perplexity", fixed(2)),
        Column("vs FP32", "change", signed_percent),
        Column("File", "name"),
    )


def told(described: PostTraining) -> dict[str, str]:
    """What the columns say of a quantizer.

    >>> told(post_train_linear_quantizer(fpq_module=16))["precision"], told(post_train_linear_quantizer())["precision"]
    ('Full FP16', 'Full INT8')
    """
    given = described.arguments
    floats = [pattern for pattern, override in (given["overrides"] or {}).items() if override.get("fpq_module")]
    if given["fpq_module"] or (given["bits_activations"] is None and given["bits_parameters"] is None):
        full = f"Full FP{given['fpq_module']}" if given["fpq_module"] else "FP32"
        entire = "Entire model" if given["fpq_module"] else NONE
        return {"precision": full, "mode": NONE, "per_channel": NONE, "clipping": NONE, "fp16_modules": entire}
    bits = sorted({given["bits_parameters"] or 32, given["bits_activations"] or 32})
    precision = "INT" + "/".join(map(str, bits))
    mode = given["mode"]
    modes = [mode] if isinstance(mode, str) else list(mode.values())
    return {
        "precision": f"Mixed {precision}/FP16" if floats else f"Full {precision}",
        "mode": "/".join(dict.fromkeys(MODES[each] for each in modes)),
        "per_channel": "Yes" if given["per_channel_wts"] else "No",
        "clipping": CLIPPINGS.get(given["clip_acts"], given["clip_acts"]),
        "fp16_modules": ", ".join(floats) or "None",
    }


def run_quantize(options: QuantizeOptions, as_json: bool = False) -> None:
    """Quantize a trained model in each of the ways, and print a table, which goes to the folder too; what was measured once is not measured again."""
    described = {FP32: post_train_linear_quantizer(**ROWS[FP32]), **(_chosen(options.files) or _seven())}
    subject = subject_of(options.run, options.data, chosen_device(options.cuda, options.device))
    for name, one in described.items():
        with named_in_errors(name):
            one.check(subject.model)
    with Progress(1, "calibration", console=Console(stderr=True)) as progress, telling_warnings(progress.say):
        stats = statistics(subject, options.calibration_words, options.out, progress)
        losses = {name: _loss(subject, Recipe(one), own_stats(one, stats), options, progress, name) for name, one in described.items()}
        if options.search is not None:
            start = described.get(SEARCHED) or post_train_linear_quantizer(**ROWS[SEARCHED])
            found = search(subject, start, own_stats(start, stats), options.search, options.out, progress)
            progress.say(found.told())
            losses[FOUND] = _loss(subject, found.recipe, own_stats(start, stats), options, progress, FOUND)
            described[FOUND] = start
    rows = [_row(name, described[name], loss, losses[FP32]) for name, loss in losses.items()]
    table = Table(_title(subject, options), columns(options.split), tuple(rows), notes=_notes(options, described))
    files = [options.out / "table.md", options.out / "table.csv"]
    for file in files:
        render.save(table, file)
    console = Console()
    if as_json:
        tree = {**render.as_tree(table), "files": [str(file) for file in files]}
        console.file.write(json.dumps(tree, indent=2, allow_nan=False) + "\n")
        return
    render.show(table, console=console)
    console.file.write("\n".join(["", *map(str, files)]) + "\n")


def _chosen(files: Sequence[Path]) -> dict[str, PostTraining]:
    """Quantizers by the names of their files; by the paths, where several are called the same, or as one of the rows that no file is needed for."""
    stems, found = [file.stem for file in files], dict[str, PostTraining]()
    floats = post_train_linear_quantizer(**ROWS[FP32])
    for file, stem in zip(files, stems, strict=True):
        one = load_quantizer(file)
        own = stems.count(stem) == 1 and stem != FOUND and (stem != FP32 or {**floats.arguments, **one.arguments} == floats.arguments)
        found[stem if own else str(file)] = one
    return found


def _seven() -> dict[str, PostTraining]:
    return {name: post_train_linear_quantizer(**arguments) for name, arguments in ROWS.items()}


def _loss(subject: Subject, recipe: Recipe, stats: Stats, options: QuantizeOptions, progress: Progress, name: str) -> float:
    """The loss of one row, from the log of the folder where it stands there."""
    total = len(subject.batches(options.split, options.words))

    def measured(_: Mapping[str, Any]) -> float:
        progress.begin(name, total=total, done=0)
        with named_in_errors(name):
            model = recipe.quantized(subject, stats).model
        loss = evaluate(subject, model, options.split, options.words, progress)["loss"]
        progress.show({"loss": loss, "perplexity": perplexity(loss)})
        return loss

    about = {**subject.about, "split": options.split, "words": options.words, "calibration words": options.calibration_words}
    trials = Trials(measured, log=log_of(options.out, LOG, about), about=about)
    ranges = {"ranges": {name: list(choice) for name, choice in recipe.ranges.items()}} if recipe.ranges else {}
    own = {"statistics": fingerprint_of(stats)} if _named(recipe.described) else {}
    return trials({"quantizer": plain(recipe.described), **ranges, **own})


def _row(name: str, described: PostTraining, loss: float, float_loss: float) -> QuantizedRow:
    said = told(described)
    if name == FOUND:
        said = {**said, "precision": f"{said['precision']}, searched", "clipping": "By tensor"}
    change = math.expm1(min(loss - float_loss, 700))
    return QuantizedRow(name, **said, perplexity=perplexity(loss), change=change)


def _title(subject: Subject, options: QuantizeOptions) -> str:
    return f"{subject.what} ({options.run}), quantized after training"


def own_stats(described: PostTraining, stats: Stats) -> Stats:
    """The statistics that a file names, or those of the calibration."""
    named = _named(described)
    return stats if named is None else Stats.load(named)


def _named(described: PostTraining) -> str | None:
    named: str | None = described.arguments.get("model_activation_stats")
    return named


def _notes(options: QuantizeOptions, described: Mapping[str, PostTraining]) -> tuple[str, ...]:
    ranges = f"{options.calibration_words:,} words" if options.calibration_words else "all words"
    notes = [f"Ranges from {ranges} of the validation text."]
    notes += [f"Of {name} from {_named(one)}." for name, one in described.items() if _named(one)]
    if options.words:
        notes.append(f"Evaluated on {options.words:,} words of {options.split} alone.")
    return tuple(notes)
