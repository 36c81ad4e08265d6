"""``limbeck summary``: what a model holds and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli._options import InputShape, Json, ModelArguments, ModelNeeded
from limbeck.errors import did_you_mean

EXAMPLE = "Example: limbeck summary compute --model images:resnet50"
KINDS = "sparsity, model, modules, percentile; of one forward pass compute; drawn png, png_w_params."
NUMBERS = ("sparsity", "percentile")
"""What is measured on weights: of a fresh model of Limbeck's own the other summaries tell shapes alone."""

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

    MACs are of one forward pass with inputs of this shape. Zeros are those of the model that a function of yours returns, so let it load weights.
    """
    import torch

    from limbeck.cli._models import example_inputs, resolve_model
    from limbeck.summaries import NAMES, SUMMARIES, summarise
    from limbeck.summaries.render import show

    if name not in NAMES:
        raise typer.BadParameter(
            f"no summary named '{name}'{did_you_mean(name, NAMES)}; choose one of {', '.join(NAMES)}", param_hint="NAME"
        )
    device = "cpu" if name in NUMBERS else "meta"  # a model of Limbeck's own costs no memory then, and has no numbers
    torch.manual_seed(0)
    built = resolve_model(model, model_arg or [], device)
    inputs = None
    if name not in SUMMARIES:
        with torch.device("meta" if any(parameter.is_meta for parameter in built.parameters()) else "cpu"):
            inputs = example_inputs(model, built, input_shape or ())
    show(summarise(name, built, inputs, out), as_json)
