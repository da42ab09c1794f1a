"""Options that several commands share, declared once, so that they read alike everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxslim.extensions import Group, extension_names

MEASURING = "Measuring"
"""The heading in the help under which the options stand that say on what and how to measure."""

DATA_FORMS = "a .npz (arrays named like the inputs), a folder of .npz, .npy or images, a URL, or module:function"


def complete_passes(incomplete: str) -> list[str]:
    """Complete the name that stands last in ``simplify,qu``."""
    before, comma, last = incomplete.rpartition(",")
    return [before + comma + name for name in extension_names(Group.PASSES) if name.startswith(last)]


def complete_metrics(incomplete: str) -> list[str]:
    """Complete the name of a metric."""
    return [name for name in extension_names(Group.METRICS) if name.startswith(incomplete)]


Model = Annotated[Path, typer.Argument(help="The ONNX model.", show_default=False)]

Data = Annotated[
    str | None,
    typer.Option(help=f"Samples: {DATA_FORMS}. Without it they are random numbers.", show_default=False),
]

Preprocess = Annotated[
    str | None,
    typer.Option(
        help="How images become inputs, as in size=224x224:mean=0.485/0.456/0.406:std=0.229/0.224/0.225, or "
        "module:function.",
        show_default=False,
    ),
]

Metric = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|MODULE:FUNCTION",
        help="What to judge the outputs by: "
        + ", ".join(extension_names(Group.METRICS))
        + ", or a function that scores them against labels. "
        "Without it: the one that fits the outputs.",
        show_default=False,
        autocompletion=complete_metrics,
        rich_help_panel=MEASURING,
    ),
]

Provider = Annotated[
    str,
    typer.Option(
        metavar="|".join(["auto", *extension_names(Group.PROVIDERS, ours=True)]),
        help="Execution provider to run on.",
        autocompletion=lambda: ["auto", *extension_names(Group.PROVIDERS)],
        rich_help_panel=MEASURING,
    ),
]

Threads = Annotated[
    int | None,
    typer.Option(help="Threads to run with. Without it: one a core.", show_default=False, rich_help_panel=MEASURING),
]

Seed = Annotated[int, typer.Option(help="Seed of all random numbers.", rich_help_panel=MEASURING)]

Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, and nothing else there.")]

Reports = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE",
        help="Write a report, too: .json for programs, .html as a page for people. May be given several times.",
        show_default=False,
    ),
]

Diff = Annotated[
    bool,
    typer.Option(
        "--diff",
        help="Print on standard output what changed, as ONNX text by region, and the tables on standard error. With "
        "--json: under the key difference.",
    ),
]

Inline = Annotated[
    bool,
    typer.Option(
        "--inline/--no-inline",
        help="Put the bodies of local functions in the place of their calls; --no-inline leaves them alone, as calls.",
    ),
]
