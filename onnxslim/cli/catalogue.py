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
    from onnxslim.cli.output import print_json, stdout, warn
    from onnxslim.commands.catalogue import all_passes, describe_pass
    from onnxslim.printable import printable, printable_record
    from onnxslim.report.catalogue import print_catalogue, print_pass

    if name is not None:
        entry = describe_pass(name)
        if json:
            print_json(entry)
        else:
            print_pass(printable_record(entry), stdout())
        return
    entries, errors = all_passes()
    if json:
        print_json(entries)
    else:
        print_catalogue(printable_record(entries), stdout())
    for error in errors:
        warn(printable(f"{error.where}: {error.what}"), printable(error.hint or "") or None)


def doctor(json: Json = False) -> None:
    """Say what this machine offers: versions, execution providers, instruction set, energy counters.

    [bold]Example[/bold]

    onnxslim doctor
    """
    from onnxslim.cli.output import print_json, stdout
    from onnxslim.commands.doctor import examine_machine
    from onnxslim.printable import printable_record
    from onnxslim.report.machine import print_machine

    machine = examine_machine()
    if json:
        print_json(machine)
    else:
        print_machine(printable_record(machine), stdout())
