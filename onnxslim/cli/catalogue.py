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
    from onnxslim.cli.output import show, warn
    from onnxslim.commands.catalogue import all_passes, describe_pass
    from onnxslim.printable import printable
    from onnxslim.report.catalogue import print_catalogue, print_pass

    if name is not None:
        show(describe_pass(name), json, print_pass)
        return
    entries, errors = all_passes()
    show(entries, json, print_catalogue)
    for error in errors:
        warn(printable(f"{error.where}: {error.what}"), printable(error.hint or "") or None)


def doctor(json: Json = False) -> None:
    """Say what this machine offers: versions, execution providers, instruction set, energy counters.

    [bold]Example[/bold]

    onnxslim doctor
    """
    from onnxslim.cli.output import show
    from onnxslim.commands.doctor import examine_machine
    from onnxslim.report.machine import print_machine

    show(examine_machine(), json, print_machine)
