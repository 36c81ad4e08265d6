"""``limbeck summary``: what a model holds and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli._options import InputShape, Json, ModelArguments, ModelNeeded
from limbeck.errors import did_you_mean

EXAMPLE = "Example: limbeck summary compute --model images:resnet50"
KINDS = "sparsity, model, modules, percentile; of one forward pass compute; drawn png, png_w_params."

Name = Annotated[str, typer.Argument(metavar="NAME", help=KINDS, show_default=False)]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="FILE", show_default=False,
        help="Write it: .csv, .json, .md, .txt; a drawing .png, .svg, .pdf (with Graphviz installed) or .dot. Default of a drawing: model.png.",
    ),
]  # fmt: skip


def summary(
    name: Name, model: ModelNeeded, model_arg: ModelArguments = None, input_shape: InputShape = None, out: Out = None, as_json: Json = False
) -> None:
    """Print a summary of a model, freshly made: its sparsity, modules and quantiles; its MACs, layer by layer; or a drawing of its graph.

    Zeros are those of the model that the function of SPEC returns: let it load weights to see theirs. MACs are of one forward pass with the inputs' shape.
    """
    from limbeck.cli._models import example_inputs, resolve_model
    from limbeck.summaries import NAMES, SUMMARIES, summarise
    from limbeck.summaries.render import show

    if name not in NAMES:
        raise typer.BadParameter(
            f"no summary named '{name}'{did_you_mean(name, NAMES)}; choose one of {', '.join(NAMES)}", param_hint="NAME"
        )
    built = resolve_model(model, model_arg or [], device="cpu")
    inputs = None if name in SUMMARIES else example_inputs(model, built, input_shape or ())
    show(summarise(name, built, inputs, out), as_json)
