"""The program ``limbeck``: one file a subcommand. Commands import what they need when they run, so that ``--help`` is quick."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from limbeck._version import installed_version
from limbeck.cli import average, check, images, import_, lm, plan, quantize, schema, summary, thin, translate
from limbeck.cli._help import LongOptions
from limbeck.errors import LimbeckError

app = typer.Typer(
    name="limbeck",
    help="Compress PyTorch models on a schedule.",
    epilog="Example: limbeck check schedules/lm/large_80.yaml",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(cls=LongOptions, epilog=check.EXAMPLE)(check.check)
app.command(cls=LongOptions, epilog=plan.EXAMPLE)(plan.plan)
app.command(cls=LongOptions, epilog=schema.EXAMPLE)(schema.schema)
app.command(cls=LongOptions, epilog=summary.EXAMPLE)(summary.summary)
app.command(cls=LongOptions, epilog=thin.EXAMPLE)(thin.thin)
app.command(cls=LongOptions, epilog=quantize.EXAMPLE)(quantize.quantize)
app.command(cls=LongOptions, epilog=average.EXAMPLE)(average.average)
app.add_typer(lm.app, name="lm")
app.add_typer(images.app, name="images")
app.add_typer(translate.app, name="translate")
app.add_typer(import_.app, name="import")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"limbeck {installed_version()}")
        raise typer.Exit


@app.callback()
def limbeck(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Compress PyTorch models on a schedule."""


def _refused(error: OSError) -> str:
    if isinstance(error, FileExistsError) and Path(error.filename).is_file():
        return f"{error.filename} is a file, and a folder is to be there; name another"
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)


def main() -> None:
    """Run the program: status 0 done, 1 faults found or run failed, 2 wrong usage."""
    try:
        app()
    except LimbeckError as error:
        typer.echo(str(error), err=True)
        sys.exit(1)
    except OSError as error:
        typer.echo(_refused(error), err=True)
        sys.exit(1)
