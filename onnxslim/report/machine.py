"""What this machine and this installation offer, one line a fact."""

from __future__ import annotations

from rich.console import Console

from onnxslim.commands.doctor import Machine
from onnxslim.installation import NAMESAKE_HINT
from onnxslim.report.terminal import line, print_facts


def print_machine(machine: Machine, console: Console) -> None:
    """Print one line a fact."""
    target = machine.target
    saturates = "saturates in pairs: quant bounds neighbouring weights" if machine.int8_saturates else "exact"
    rows = [
        ("onnxslim", machine.onnxslim),
        ("Python", f"{machine.python} on {machine.system}"),
        *((name, number or "not installed") for name, number in machine.packages.items()),
        ("Opsets", f"{machine.opsets[0]} to {machine.opsets[1]}"),
        ("Providers", ", ".join(machine.providers)),
        ("Target", f"{target.provider}: {target.device}"),
        ("Instruction set", target.instruction_set),
        ("Threads", str(target.threads)),
        ("int8 sums", saturates),
        ("Energy", machine.energy or machine.energy_reason or ""),
        ("Passes", ", ".join(machine.passes)),
        ("Completion", "onnxslim --install-completion"),
    ]
    print_facts(console, rows)
    if machine.namesake is not None:
        warning = f"onnxslim {machine.namesake}, another project, is installed too and has the same import name"
        line(console, f"warning: {warning}; {NAMESAKE_HINT}", style="yellow")
