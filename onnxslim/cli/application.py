"""Puts the commands together."""

from __future__ import annotations

from typing import Annotated

import typer

from onnxslim.cli.catalogue import doctor, passes
from onnxslim.cli.examine import bench, compare, inspect
from onnxslim.cli.optimize import optimize
from onnxslim.cli.train import train

app = typer.Typer(
    name="onnxslim",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: onnxslim inspect model.onnx, then: onnxslim optimize model.onnx -p quant --data calib.npz",
)


def _print_version(asked: bool) -> None:
    if asked:
        from onnxslim.installation import version

        typer.echo(f"onnxslim {version()}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def onnxslim(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Makes ONNX models smaller and faster, and measures that they still do their job."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


for command in (optimize, train, inspect, bench, compare, passes, doctor):
    app.command()(command)
