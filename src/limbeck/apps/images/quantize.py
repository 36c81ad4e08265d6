"""``limbeck images quantize``: one classifier, quantized with several numbers of bits and every clipping, as one table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from limbeck.apps.figures import save
from limbeck.apps.images.clipping_figure import clipping_figure
from limbeck.apps.images.subject import subject_of
from limbeck.apps.progress import Progress
from limbeck.apps.quantized import Subject, evaluate, log_of, quantized, statistics
from limbeck.apps.run import chosen_device, telling_warnings
from limbeck.errors import DataError, QuantizationError, did_you_mean
from limbeck.quantization import CLIPPINGS, Mode, Stats
from limbeck.quantization.quantizers import post_train_linear_quantizer
from limbeck.quantization.trials import Trials
from limbeck.summaries import render
from limbeck.summaries.render import Column, Table, fixed

LOG, PICTURE = "top1", "top1"
ALL = ("none", "avg", "n_std", "gauss", "laplace", "kl", "mse", "l1", "l3")
"""Every clipping once; ``l2`` is ``mse``."""
N_STDS = 3.0


@dataclass(frozen=True)
class QuantizeOptions:
    """What ``limbeck images quantize`` was asked for."""

    run: Path
    bits: tuple[int, ...] = (8, 6, 4)
    clippings: tuple[str, ...] = ALL
    mode: str = "asymmetric_unsigned"
    per_channel: bool = True
    clip_weights: bool = False
    data: str | None = None
    split: str = "test"
    samples: int = 0
    """Images that are evaluated; 0 for all of the split."""
    calibration: int = 1000
    out: Path = Path("quantized")
    cuda: bool = False
    device: str | None = None


@dataclass(frozen=True)
class ClippingRow:
    """One clipping: the top-1 with each number of bits, in percent; None where the clipping is not for so many."""

    clipping: str
    top1: Mapping[str, float | None] = field(default_factory=dict)


def parse_bits(text: str) -> tuple[int, ...]:
    """Numbers of bits with commas.

    >>> parse_bits("8,6,4")
    (8, 6, 4)

    Raises ``DataError`` for anything else.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 1 <= int(part) <= 16 for part in parts):
        raise DataError(f"'{text}' is no list of bits; give numbers from 1 to 16 with commas, as in 8,6,4")
    return tuple(dict.fromkeys(map(int, parts)))


def parse_clippings(text: str) -> tuple[str, ...]:
    """Names of clippings with commas, or ``all``.

    >>> parse_clippings("none,AVG"), len(parse_clippings("all"))
    (('none', 'avg'), 9)

    Raises ``DataError`` for a name that is none.
    """
    names = tuple(dict.fromkeys(part.strip().lower() for part in text.split(",")))
    if names == ("all",):
        return ALL
    for name in names:
        if name not in CLIPPINGS:
            raise DataError(f"no clipping is named '{name}'{did_you_mean(name, CLIPPINGS) or '; there are ' + ', '.join(CLIPPINGS)}")
    return names


def run_quantize(options: QuantizeOptions, as_json: bool = False) -> None:
    """Measure a trained classifier in FP32 and with all bits and clippings, and print one table, which goes to the folder with its picture."""
    subject = subject_of(options.run, options.data, chosen_device(options.cuda, options.device))
    subject.batches(options.split, options.samples)  # a split that is not there is missed now, and not after the calibration
    with Progress(1, "calibration", console=Console(stderr=True)) as progress, telling_warnings(progress.say):
        stats = statistics(subject, options.calibration, options.out, progress)
        measured = _Measured(options, subject, stats, progress)
        float_top1 = measured.top1(None, None)
        rows = [
            ClippingRow(clipping, {str(bits): measured.top1(bits, clipping) for bits in options.bits}) for clipping in options.clippings
        ]
    table = table_of(rows, float_top1 or 0.0, subject, options)
    files = [options.out / "table.md", options.out / "table.csv"]
    for file in files:
        render.save(table, file)
    files += save(clipping_figure(rows, float_top1 or 0.0, table.title), options.out / PICTURE)
    console = Console()
    if as_json:
        tree = {**render.as_tree(table), "fp32": float_top1, "files": [str(file) for file in files]}
        console.file.write(json.dumps(tree, indent=2, allow_nan=False) + "\n")
        return
    render.show(table, console=console)
    console.file.write("\n".join(["", *map(str, files)]) + "\n")


def table_of(rows: Sequence[ClippingRow], float_top1: float, subject: Subject, options: QuantizeOptions) -> Table:
    """A line a clipping, a column for each number of bits."""
    bits = [Column(f"{number} bits", "top1", fixed(2), key=str(number)) for number in options.bits]
    weights = "by channels" if options.per_channel else "by tensors"
    calibration = f"{options.calibration:,} images" if options.calibration else "all images"
    split = {"valid": "the validation", "train": "the training"}[subject.calibration]
    notes = [
        f"FP32: {float_top1:.2f}. Weights and activations have the same bits; {options.mode.replace('_', ' ')}, weights {weights}.",
        f"Ranges from {calibration} of {split}; {'weights are clipped too' if options.clip_weights else 'activations alone are clipped'}.",
    ]
    if any(value is None for row in rows for value in row.top1.values()):
        notes.append("-: ACIQ's clippings, gauss and laplace, are known for up to 8 bits.")
    if options.samples:
        notes.append(f"Evaluated on {options.samples:,} images of {options.split}.")
    return Table(f"Top-1 (%) of {subject.what} ({options.run})", (Column("Clipping", "clipping"), *bits), tuple(rows), notes=tuple(notes))


@dataclass(frozen=True)
class _Measured:
    """Top-1 of the quantized models, each measured once, ever."""

    options: QuantizeOptions
    subject: Subject
    stats: Stats
    progress: Progress

    def top1(self, bits: int | None, clipping: str | None) -> float | None:
        """In percent; None where the clipping is not for so many bits."""
        options = self.options
        about = {
            **self.subject.about, "split": options.split, "samples": options.samples, "calibration": options.calibration,
            "mode": options.mode, "per channel": options.per_channel, "clipped weights": options.clip_weights,
        }  # fmt: skip
        trials = Trials(lambda asked: self._measure(asked["bits"], asked["clipping"]), log=log_of(options.out, LOG, about), about=about)
        try:
            return -trials({"bits": bits, "clipping": clipping})
        except QuantizationError:
            if clipping in ("gauss", "laplace") and bits is not None and bits > 8:
                return None
            raise

    def _measure(self, bits: int | None, clipping: str | None) -> float:
        """Less than 0, as what is searched for is always the least."""
        options, model, name = self.options, self.subject.model, "FP32"
        if bits is not None:
            name = f"{bits} bits, {clipping}"
            given: dict[str, Any] = {"clip_n_stds": N_STDS} if clipping == "n_std" else {}
            described = post_train_linear_quantizer(
                bits, bits, mode=Mode(options.mode), per_channel_wts=options.per_channel, clip_acts=str(clipping),
                also_clip_weights=options.clip_weights, **given,
            )  # fmt: skip
            model = quantized(self.subject, described, self.stats).model
        self.progress.begin(name, total=len(self.subject.batches(options.split, options.samples)), done=0)
        found = evaluate(self.subject, model, options.split, options.samples, self.progress)
        self.progress.show(found)
        return -found["top1"]
