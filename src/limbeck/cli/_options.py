"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

File = Annotated[Path, typer.Argument(help="The schedule file.", show_default=False)]
Model = Annotated[
    str | None, typer.Option("--model", metavar="SPEC", help="lm:LSTM, images:resnet50, or package.module:function.", show_default=False)
]
ModelNeeded = Annotated[
    str, typer.Option("--model", metavar="SPEC", help="lm:LSTM, images:resnet50, or package.module:function.", show_default=False)
]
ModelArguments = Annotated[
    list[str] | None, typer.Option("--model-arg", metavar="K=V", help="An argument of the model; may be given again.", show_default=False)
]
AllowPlugins = Annotated[bool, typer.Option("--allow-plugins", help="Accept classes given as package.module:function.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
