"""What there is to use: the passes, and the machine."""

from __future__ import annotations

from typing import Annotated

import typer

from onnxslim.cli.options import Json, complete_passes


def passes(
    name: Annotated[
        str | None,
        typer.Argument(help="A pass, to see its options.", show_default=False, autocompletion=complete_passes),
    ] = None,
    json: Json = False,
) -> None:
    """List what onnxslim can do to a model, or the options of one pass.

    [bold]Examples[/bold]

    onnxslim passes

    onnxslim passes prune
    """
    from onnxslim.cli.output import print_json, stdout
    from onnxslim.commands.catalogue import all_passes, describe_pass
    from onnxslim.report.catalogue import print_catalogue, print_pass

    if json:
        print_json(all_passes() if name is None else describe_pass(name))
    elif name is None:
        print_catalogue(all_passes(), stdout())
    else:
        print_pass(describe_pass(name), stdout())


def doctor(json: Json = False) -> None:
    """Say what this machine offers: versions, execution providers, instruction set, energy counters.

    [bold]Example[/bold]

    onnxslim doctor
    """
    from onnxslim.cli.output import print_json, stdout
    from onnxslim.commands.doctor import examine_machine
    from onnxslim.report.machine import print_machine

    machine = examine_machine()
    if json:
        print_json(machine)
    else:
        print_machine(machine, stdout())
