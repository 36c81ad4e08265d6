"""``limbeck import``: the schedule file that does what the options of another program did."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limbeck.cli._help import LongOptions
from limbeck.errors import LimbeckError, did_you_mean

if TYPE_CHECKING:
    from limbeck.pruning.tfmot import TFMOT
    from limbeck.pruning.translated import NeurST, Span

Choice = typer.Option
NEURST_EXAMPLE = "Example: limbeck import neurst --target_sparsity 0.5 --end_pruning_step 500"
TFMOT_EXAMPLE = "Example: limbeck import tfmot pruning_schedule.json --weights 'encoder.*.weight'"
OTHER = (
    "checkpoints_max_to_keep", "config_paths", "entry", "freeze_variables", "hparams_set", "initial_global_step", "model_dir",
    "pretrain_model", "pretrain_variable_pattern", "save_checkpoint_steps", "save_checkpoints_steps", "summary_steps", "train_steps",
    "update_cycle",
)  # fmt: skip
"""Options of NeurST's trainer that are no pruning; those that begin with ``eval_`` are none either."""
NESTED = ("entry", "pruning_schedule")
"""Modules of a NeurST file whose ``.params`` may hold options of the pruning."""
SHARED_NOTES = ("Steps are updates of the optimizer, from 0 on; ending_step is excluded.",)

app = typer.Typer(
    help="Print the schedule file for the pruning options of NeurST or of TensorFlow's model optimization. "
    "Distiller's schedule files need no import: they load as they are.",
    epilog=NEURST_EXAMPLE,
    no_args_is_help=True,
)


@app.command(cls=LongOptions, epilog=NEURST_EXAMPLE, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def neurst(
    context: typer.Context,
    config_paths: Annotated[str | None, Choice("--config_paths", metavar="A.yml,B.yml", help="NeurST's files; later ones win.")] = None,
    pruning_schedule: Annotated[str | None, Choice("--pruning_schedule", help="polynomial_decay or constant_sparsity.")] = None,
    initial_sparsity: Annotated[float | None, Choice("--initial_sparsity", help="Sparsity at the begin; 0.")] = None,
    target_sparsity: Annotated[float | None, Choice("--target_sparsity", help="Sparsity at the end; 0 is off.")] = None,
    begin_pruning_step: Annotated[int | None, Choice("--begin_pruning_step", help="First step; 0.")] = None,
    end_pruning_step: Annotated[int | None, Choice("--end_pruning_step", help="Last step, included; -1 is for ever.")] = None,
    pruning_frequency: Annotated[int | None, Choice("--pruning_frequency", help="Steps between renewals; 100.")] = None,
    polynomial_power: Annotated[float | None, Choice("--polynomial_power", help="Power of the decay; 3.")] = None,
    pruning_variable_pattern: Annotated[str | None, Choice("--pruning_variable_pattern", help="Prune what this finds in a name.")] = None,
    nopruning_variable_pattern: Annotated[str | None, Choice("--nopruning_variable_pattern", help="Prune all but what this finds.")] = None,
    keep_prune_property: Annotated[
        bool | None, Choice("--keep_prune_property/--no_keep_prune_property", help="Zeros stay zero until the first renewal; yes.")
    ] = None,
    prune_vectors: Annotated[bool | None, Choice("--prune_vectors", help="Prune biases and gains too, as NeurST does.")] = None,
) -> None:
    """Print the schedule file that prunes as NeurST does with these options; other options of its trainer are left out.

    Patterns are searched in the names of the PyTorch model: see what they find with limbeck plan FILE --model SPEC.
    """
    from dataclasses import fields

    from limbeck.config.write import schedule_text
    from limbeck.pruning.translated import NeurST

    known = [field.name for field in fields(NeurST)]
    given = {**_from_files(config_paths, known), **_from_command_line(context.args, known)}
    given |= {name: value for name, value in context.params.items() if name in known and value is not None}
    options = NeurST(**{name: value for name, value in given.items() if name in known})
    if not options.target_sparsity:
        raise LimbeckError("target_sparsity is 0, with which NeurST prunes nothing; give --target_sparsity, a fraction of zeros")
    last_step = _whole("train_steps", given["train_steps"]) if "train_steps" in given else None
    typer.echo(schedule_text(options.steps(), last_step, [*_notes_on_neurst(options, given), *_left_out(given, known)]))


@app.command(cls=LongOptions, epilog=TFMOT_EXAMPLE)
def tfmot(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="What get_config() of the schedule gives, as JSON or YAML.", show_default=False)
    ],
    weights: Annotated[list[str] | None, Choice("--weights", help="A name, glob or re:REGEX; may be given again.")] = None,
    sparsity_m_by_n: Annotated[str | None, Choice("--sparsity_m_by_n", metavar="M,N", help="M ZEROS of every N.")] = None,
    block_size: Annotated[str, Choice("--block_size", metavar="IN,OUT", help="Block of a kernel [in, out].")] = "1,1",
    block_pooling_type: Annotated[str, Choice("--block_pooling_type", help="AVG or MAX.")] = "AVG",
    train_steps: Annotated[int | None, Choice("--train_steps", min=1, help="Updates of the run, for a schedule without end.")] = None,
) -> None:
    """Print the schedule file that prunes as prune_low_magnitude of TensorFlow's model optimization does.

    FILE holds {class_name: PolynomialDecay, config: {...}}, or the same of ConstantSparsity.
    """
    from limbeck.config.write import schedule_text
    from limbeck.pruning.tfmot import TFMOT

    pair = None if sparsity_m_by_n is None else _pair("sparsity_m_by_n", sparsity_m_by_n)
    block = _pair("block_size", block_size)
    tree = _read(file)
    if "class_name" not in tree and any("pruning_" in name for name in (*tree, *(name for name, _ in _flat(tree)))):
        raise LimbeckError(
            f"{file} looks like options of NeurST, not like get_config() of TFMOT: limbeck import neurst --config_paths {file}"
        )
    options = TFMOT(
        tree,
        **({"weights": weights} if weights else {}),
        block_size=block,
        block_pooling_type=block_pooling_type,
        sparsity_m_by_n=pair,
    )
    typer.echo(schedule_text(options.steps(), train_steps, list(_notes_on_tfmot(options, patterns_given=bool(weights)))))


def _from_files(paths: str | None, known: Sequence[str]) -> dict[str, Any]:
    """The options of NeurST's files; keys that are near to one of pruning are errors, all others belong to other parts of NeurST."""
    found: dict[str, Any] = {}
    for path in paths.split(",") if paths else []:
        tree = _read(Path(path.strip()))
        if "class_name" in tree:
            raise LimbeckError(
                f"{path} looks like what get_config() of TFMOT gives, not like options of NeurST: limbeck import tfmot {path}"
            )
        for name, value in _flat(tree):
            remedy = "" if name in (*known, *OTHER) else did_you_mean(name, known)
            if remedy:
                raise LimbeckError(f"{path}: NeurST has no option '{name}'{remedy}")
            found |= {} if value is None else {name: value}
    return found


def _flat(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What a file says of the trainer and the pruning; other modules' params are their own affair."""
    from limbeck.config.nested import entries

    return ((entry.key, entry.value) for entry in entries(tree) if set(entry.modules) <= set(NESTED))


def _from_command_line(arguments: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """The options of NeurST's trainer that are no pruning; unknown ones are wrong usage, status 2."""
    found: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        option = name.removeprefix("--")
        if not name.startswith("--") or not (option in OTHER or option.startswith("eval_")):
            choices = [f"--{each}" for each in (*known, *OTHER)]
            raise typer.BadParameter(f"NeurST has no option '{name}'{did_you_mean(name, choices) or '; its own help names them all'}")
        if not equals:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        found[option] = value
    return found


def _notes_on_neurst(options: NeurST, given: Mapping[str, Any]) -> Iterator[str]:
    """What a reader of the schedule should know of the translation."""
    yield "From NeurST's options, by limbeck import neurst; what differs: docs/optimizer.md."
    yield from SHARED_NOTES
    yield from _notes_on_span(options.span, ramp=options.polynomial)
    if "freeze_variables" in given:
        yield "NeurST prunes frozen variables too, and so does this."
    if not options.prune_vectors:
        yield "Biases and gains, which NeurST prunes, are left alone; --prune_vectors prunes them."
    for name in ("pruning_variable_pattern", "nopruning_variable_pattern"):
        pattern = getattr(options, name)
        if pattern is not None:
            unused = name.startswith("no") and options.pruning_variable_pattern is not None
            yield f"{name} {pattern} is not used: pruning_variable_pattern is given." if unused else f"{name} searches PyTorch's names."


def _notes_on_tfmot(options: TFMOT, patterns_given: bool) -> Iterator[str]:
    yield f"From TFMOT's {options.pruning_schedule['class_name']}, by limbeck import tfmot; what differs: docs/optimizer.md."
    yield from SHARED_NOTES
    if options.sparsity_m_by_n is None:
        yield "TFMOT's step t is before its forward pass: here after t - 1 updates, one less."
        yield from _notes_on_span(options.span, ramp="final_sparsity" in options.config)
    else:
        zeros, size = options.sparsity_m_by_n
        kept = size - zeros
        yield f"sparsity_m_by_n {zeros},{size} counts zeros: {zeros} of every {size} fall, {kept}:{size} stay."
        yield "These masks are made once, before the first step; the schedule's sparsity is not used."
    rows, columns = options.block_size
    if rows * columns > 1:
        yield f"Blocks of {rows} x {columns} in kernels [in, out] are {columns} x {rows} in PyTorch's [out, in]."
    if not patterns_given:
        yield "All weights of two dimensions or more are pruned; --weights says which."


def _notes_on_span(span: Span, ramp: bool) -> Iterator[str]:
    if not span.begin and span.end:
        yield f"Step 0 is never seen: the first renewal is that of step {span.first}."
    if span.end < 0:
        yield "It had no end; here it lasts as long as train_steps says."
    elif ramp and (left := (span.end - span.begin) % span.every):
        yield f"The frequency does not divide the ramp: the last renewal, {left} steps before its end, stays below the target."


def _left_out(given: Mapping[str, Any], known: Sequence[str]) -> Iterator[str]:
    names = sorted(set(given) - set(known))
    if names:
        yield f"Left out, no pruning: {', '.join(names)}."


def _read(path: Path) -> Mapping[str, Any]:
    from limbeck.config.nested import read_document

    tree = read_document(path).tree
    assert isinstance(tree, Mapping)
    return tree


def _pair(name: str, text: str) -> tuple[int, int]:
    """Two whole numbers, as TFMOT writes them: 2,4 or (2, 4)."""
    numbers = [int(number) for number in re.findall(r"\d+", text)] if re.fullmatch(r"[\d\s,()x\[\]]+", text) else []
    if len(numbers) != 2:
        raise typer.BadParameter(f"{name} '{text}' must be two whole numbers, as in 2,4")
    return numbers[0], numbers[1]


def _whole(name: str, value: object) -> int:
    if not re.fullmatch(r"\d+", str(value)):
        raise LimbeckError(f"{name} '{value}' must be a whole number of steps")
    return int(str(value))
