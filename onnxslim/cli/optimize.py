"""The command that does the work: one model in, a smaller one out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxslim.cli.options import (
    DATA_FORMS,
    MEASURING,
    Diff,
    Inline,
    Json,
    Metric,
    Preprocess,
    Provider,
    Reports,
    Threads,
    complete_passes,
)

CHOOSING = "What to do"


def optimize(
    model: Annotated[Path, typer.Argument(help="The ONNX model. It is never changed.", show_default=False)],
    passes: Annotated[
        list[str] | None,
        typer.Option(
            "--passes",
            "-p",
            metavar="PASSES",
            help="What to do: names of passes with commas between, each with its options behind colons, as in "
            "prune:ratio=0.5:align=16,quant. See: onnxslim passes. Without it: simplify.",
            show_default=False,
            autocompletion=complete_passes,
            rich_help_panel=CHOOSING,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help=f"Samples to calibrate and fit with: {DATA_FORMS}. Without it they are random numbers, which do for "
            "exact passes only.",
            show_default=False,
        ),
    ] = None,
    val: Annotated[
        str | None,
        typer.Option(
            help="Samples to measure with, as --data; labels in it give accuracy. Without it: a part of --data.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Where to write. Without it: MODEL.slim.onnx beside MODEL.", show_default=False
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="The budget: how much accuracy may be lost, as a fraction; 0.01 is one point. Lossy passes are kept "
            "in the strongest form that holds.",
            show_default=False,
            rich_help_panel=CHOOSING,
        ),
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(
            help="How sure it must be that no more is lost than --max-drop: 0.95 wants the bound within it, and not "
            "the estimate alone.",
            show_default=False,
            rich_help_panel=CHOOSING,
        ),
    ] = None,
    goal: Annotated[
        str,
        typer.Option(
            metavar="latency|size",
            help="What counts: with latency, what is smaller but not faster is rolled back.",
            autocompletion=lambda: ["latency", "size"],
            rich_help_panel=CHOOSING,
        ),
    ] = "latency",
    recipe: Annotated[
        Path | None,
        typer.Option(help="Passes, budget and seed from a TOML file.", show_default=False, rich_help_panel=CHOOSING),
    ] = None,
    as_written: Annotated[
        bool,
        typer.Option("--as-written", help="Run the passes in the order as typed.", rich_help_panel=CHOOSING),
    ] = False,
    preprocess: Preprocess = None,
    provider: Provider = "auto",
    threads: Threads = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of all random numbers. Without it: the recipe's, or 0.", show_default=False),
    ] = None,
    metric: Metric = None,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Prove every single rewrite on random inputs. Slow.", rich_help_panel=MEASURING),
    ] = False,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure/--no-measure",
            help="Time the models, and keep what pays; --no-measure checks the outputs alone, and is quick.",
            rich_help_panel=MEASURING,
        ),
    ] = True,
    check: Annotated[
        bool,
        typer.Option(
            "--check/--no-check",
            help="Compare the outputs of models before and after exact passes; --no-check runs no model at all.",
            rich_help_panel=MEASURING,
        ),
    ] = True,
    inline: Inline = True,
    report: Reports = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print every change.")] = False,
    diff: Diff = False,
    json: Json = False,
) -> None:
    """Make a model smaller and faster, and print what that cost and gained.

    After every pass the model is measured against the original: what does not hold, or does not pay, is rolled back.

    [bold]Examples[/bold]

    onnxslim optimize model.onnx

    onnxslim optimize model.onnx -p quant --data calib.npz --val test.npz --max-drop 0.01

    onnxslim optimize model.onnx -p prune:ratio=0.5,quant --data photos/ --preprocess size=224x224 -o small.onnx
    """
    from onnxslim import api
    from onnxslim.cli.output import console, print_json
    from onnxslim.cli.progress import progress_bar
    from onnxslim.commands.difference import compare_graphs
    from onnxslim.model import open_model
    from onnxslim.printable import printable_record
    from onnxslim.report.difference import print_difference
    from onnxslim.report.terminal import print_report

    target = output or _default_output(model)
    with progress_bar() as progress:
        result = api.optimize(
            model,
            passes=",".join(passes) if passes else None,
            data=data,
            val=val,
            output=target,
            report=report or (),
            max_drop=max_drop,
            confidence=confidence,
            recipe=recipe,
            provider=provider,
            seed=seed,
            threads=threads,
            verify=verify,
            metric=metric,
            preprocess=preprocess,
            goal=goal,
            as_written=as_written,
            measure=measure,
            check=check,
            inline=inline,
            breakdown=json,
            progress=progress,
        )
    changed = (
        compare_graphs(open_model(model, inline=inline), result.model, (str(model), str(target))) if diff else None
    )
    if json:
        print_json(result.report, **({"difference": changed} if changed else {}))
        return
    tables = console(stderr=bool(changed))
    print_report(printable_record(result.report), tables, verbose=verbose, reports=report or ())
    if changed:
        print_difference(printable_record(changed), console())


def _default_output(model: Path) -> Path:
    """Return ``model.slim.onnx`` beside ``model.onnx``, and ``model.slim.onnx.zst`` beside ``model.onnx.zst``."""
    packed = model.suffix if model.suffix.lower() == ".zst" else ""
    return model.with_name(f"{model.with_suffix('').stem if packed else model.stem}.slim.onnx{packed}")
