"""``limbeck lm quantize``: a language model, quantized in several ways."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli._quantize import Budget, Least, Out, Searching, search_options

Choice = typer.Option
EXAMPLE = "Example: limbeck lm quantize runs/dense --calibration-words 20000 --eval-words 20000"


def _split(name: str) -> str:
    from limbeck.cli._train import one_of

    return one_of(("valid", "test"), "split", name)


def quantize(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder (its best model) or a checkpoint.", show_default=False)],
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE", help="Schedule files with quantizers, a row each. Default: the seven rows of Distiller's table."),
    ] = None,
    data: Annotated[str | None, Choice(help="Corpus; default: the one that the run was trained on.", show_default=False)] = None,
    split: Annotated[str, Choice(metavar="valid|test", callback=_split, help="Which part of the corpus perplexities are of.")] = "test",
    eval_words: Annotated[int, Choice("--eval-words", "--eval-samples", min=0, help="Evaluate on so many words of it; 0: all.")] = 0,
    calibration_words: Annotated[
        int, Choice("--calibration-words", "--calibration-samples", min=0, help="Words of the validation text that ranges come from; 0: all.")
    ] = 0,
    out: Out = Path("quantized"),
    search: Searching = None,
    budget: Budget = None,
    search_words: Annotated[
        int | None,
        Choice(
            "--search-words", "--search-samples", min=1, show_default=False,
            help="Words of the validation text that a search evaluates on. Default: 5000.",
        ),
    ] = None,
    objective: Least = None,
    cuda: Annotated[bool, Choice("--cuda", help="Use CUDA.")] = False,
    device: Annotated[str | None, Choice(help="A torch device; overrides --cuda.", show_default=False)] = None,
    as_json: Annotated[bool, Choice("--json", help="Print JSON.")] = False,
) -> None:  # fmt: skip
    """Quantize a trained model in several ways and print a table of perplexities; with --search, look for the best ranges of INT8 as well.

    Recurrent layers are taken into parts, each of which has its own range. Ranges come from the validation text, never from the test.

    A call that was cut off goes on where it stood when it is given again. The checkpoint is not changed.
    """
    from limbeck.apps.lm.quantize import QuantizeOptions, run_quantize

    options = QuantizeOptions(
        run=run, files=tuple(files or ()), data=data, split=split, words=eval_words, calibration_words=calibration_words, out=out,
        search=search_options(search, budget, ("--search-words", search_words), objective), cuda=cuda, device=device,
    )  # fmt: skip
    run_quantize(options, as_json)
