"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

File = Annotated[Path, typer.Argument(metavar="FILE", help="The schedule file.", show_default=False)]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="SPEC",
        help="lm:LSTM, images:resnet50, translate:transformer_base, or package.module:function.",
        show_default=False,
    ),
]
ModelNeeded = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="SPEC",
        help="lm:LSTM, images:resnet50, translate:transformer_base, or package.module:function.",
        show_default=False,
    ),
]
ModelArguments = Annotated[
    list[str] | None, typer.Option("--model-arg", metavar="K=V", help="An argument of the model; may be given again.", show_default=False)
]
AllowPlugins = Annotated[bool, typer.Option("--allow-plugins", help="Accept classes given as package.module:function.")]
InputShape = Annotated[
    list[str] | None,
    typer.Option(
        "--input-shape",
        metavar="N,C,H,W",
        show_default=False,
        help="Shape of the input, the batch in it; with a type as in 1,16:int64; again for the next input. Limbeck's own models know theirs.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def given_options(context: typer.Context) -> set[str]:
    """The options that stand on the command line, by the names of their parameters, without the underscore that sets one apart from a word of Python."""
    given = {name for name in context.params if context.get_parameter_source(name).name == "COMMANDLINE"}  # type: ignore[union-attr]  # every parameter has one
    return {name.removesuffix("_") for name in given}
