"""Commands that look and measure, and change nothing."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer

from onnxslim.cli.options import (
    Data,
    Diff,
    Inline,
    Json,
    Metric,
    Model,
    Preprocess,
    Provider,
    Reports,
    Seed,
    Threads,
    complete_passes,
)


def inspect(
    model: Model,
    top: Annotated[int, typer.Option(help="How many of the costliest nodes or layers to list.", min=0)] = 10,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Show instead what passes would do, and why they would leave the rest alone."),
    ] = False,
    passes: Annotated[
        str | None,
        typer.Option(
            "--passes",
            "-p",
            metavar="PASSES",
            help="Whose plan, or whose layers, written as for optimize. Without it: of --plan the exact passes of "
            "onnxslim itself, of --sensitivity the pass that says what layers cost.",
            show_default=False,
            autocompletion=complete_passes,
        ),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="With --plan: print every reason.")] = False,
    groups: Annotated[
        bool,
        typer.Option(
            "--groups", help="Show instead which channels go together, what is at stake, what cannot be cut and why."
        ),
    ] = False,
    placement: Annotated[
        bool,
        typer.Option(
            "--placement",
            help="Run it, and show instead which nodes run in int8 here, which in float, and which conversions between "
            "the two bring nothing.",
        ),
    ] = False,
    sensitivity: Annotated[
        bool,
        typer.Option(
            "--sensitivity",
            help="Run it, and show instead what each layer costs the outputs where it alone is quantized, what that "
            "saves, and what would become of it.",
        ),
    ] = False,
    worst: Annotated[
        int | None,
        typer.Option(
            help="With --sensitivity: change each of so many layers alone, those that cost most, and measure what is "
            "lost in the terms of the task.",
            min=0,
            show_default=False,
        ),
    ] = None,
    data: Data = None,
    preprocess: Preprocess = None,
    metric: Metric = None,
    provider: Provider = "auto",
    threads: Threads = None,
    seed: Seed = 0,
    inline: Inline = True,
    json: Json = False,
) -> None:
    """Show what a model is: size, parameters, MACs, inputs and outputs, ops, the costliest nodes.

    The model is not run, unless placement or sensitivity are asked for, or the plan of a pass that must look at its
    values.

    [bold]Examples[/bold]

    onnxslim inspect model.onnx

    onnxslim inspect model.onnx --plan

    onnxslim inspect model.onnx --groups

    onnxslim inspect model.int8.onnx --placement --provider cpu --threads 1

    onnxslim inspect model.onnx --sensitivity --data calib.npz --worst 5
    """
    from onnxslim.cli.output import show
    from onnxslim.cli.progress import progress_bar
    from onnxslim.commands import inspect as command
    from onnxslim.commands.channel_groups import group_model
    from onnxslim.commands.placement import place_model
    from onnxslim.commands.plan import plan_model
    from onnxslim.commands.sensitivity import measure_sensitivity
    from onnxslim.errors import UsageError
    from onnxslim.report.channel_groups import print_groups
    from onnxslim.report.inspection import print_inspection
    from onnxslim.report.placement import print_placement
    from onnxslim.report.plan import print_plan
    from onnxslim.report.sensitivity import print_layers_alone

    wanted = {"--plan": plan, "--groups": groups, "--placement": placement, "--sensitivity": sensitivity}
    views = [name for name, asked in wanted.items() if asked]
    if passes is not None and not (plan or sensitivity):
        hint = "add --plan or --sensitivity, or use optimize"
        raise UsageError("passes are named, but nothing of theirs is asked for", where="-p", hint=hint)
    if len(views) > 1:
        raise UsageError(f"{' and '.join(views)} are {len(views)} views", where=views[-1], hint="ask for one at a time")
    if data is not None and not (placement or sensitivity):
        hint = "add --placement or --sensitivity"
        raise UsageError("samples are given, but nothing is run", where="--data", hint=hint)
    for name, value in (("--worst", worst), ("--metric", metric)):
        if value is not None and not sensitivity:
            raise UsageError("nothing is judged", where=name, hint="add --sensitivity")
    if plan:
        show(plan_model(model, passes, inline=inline), json, functools.partial(print_plan, verbose=verbose))
    elif groups:
        show(group_model(model, inline=inline), json, print_groups)
    elif sensitivity:
        with progress_bar() as progress:
            costs = measure_sensitivity(
                model,
                passes,
                worst=worst or 0,
                data=data,
                preprocess=preprocess,
                metric=metric,
                provider=provider,
                threads=threads,
                seed=seed,
                inline=inline,
                progress=progress,
            )
        show(costs, json, functools.partial(print_layers_alone, top=top))
    elif placement:
        found = place_model(model, data=data, preprocess=preprocess, provider=provider, threads=threads, inline=inline)
        show(found, json, functools.partial(print_placement, top=top))
    else:
        show(command.inspect(model, top, inline=inline), json, print_inspection)


def bench(
    models: Annotated[
        list[Path],
        typer.Argument(help="ONNX models with the same inputs; each is compared with the first.", show_default=False),
    ],
    data: Data = None,
    preprocess: Preprocess = None,
    seconds: Annotated[float, typer.Option(help="How long to time each pair.", min=0.1)] = 2.0,
    provider: Provider = "auto",
    threads: Threads = None,
    seed: Seed = 0,
    report: Reports = None,
    json: Json = False,
) -> None:
    """Time models against each other: latency, cold start, peak memory, energy.

    Each model runs in a process of its own; the latencies are those of a process that holds nothing else.

    [bold]Examples[/bold]

    onnxslim bench model.onnx model.slim.onnx

    onnxslim bench model.onnx model.slim.onnx --provider cpu --threads 1
    """
    from onnxslim.cli.output import console, show
    from onnxslim.commands import bench as command
    from onnxslim.report.benchmark import print_benchmark
    from onnxslim.report.destination import check_reports, save_report
    from onnxslim.report.terminal import print_places

    check_reports(report or (), models, data=data, preprocess=preprocess)
    result = command.bench(
        models, data=data, preprocess=preprocess, provider=provider, threads=threads, seed=seed, seconds=seconds
    )
    save_report(result, *(report or ()))
    show(result, json, print_benchmark)
    if not json:
        print_places(report or (), console())


def compare(
    reference: Annotated[Path, typer.Argument(help="The ONNX model that is right by definition.", show_default=False)],
    candidate: Annotated[Path, typer.Argument(help="The ONNX model to compare with it.", show_default=False)],
    data: Data = None,
    preprocess: Preprocess = None,
    metric: Metric = None,
    provider: Provider = "auto",
    threads: Threads = None,
    seed: Seed = 0,
    measure: Annotated[
        bool,
        typer.Option("--measure/--no-measure", help="Time both models; --no-measure compares the outputs alone."),
    ] = True,
    report: Reports = None,
    diff: Diff = False,
    json: Json = False,
) -> None:
    """Compare what two models answer on the same samples, their accuracy where these carry labels, and their speed.

    [bold]Example[/bold]

    onnxslim compare model.onnx model.slim.onnx --data test.npz
    """
    from onnxslim.cli.output import console, print_json
    from onnxslim.commands import compare as command
    from onnxslim.printable import printable_record
    from onnxslim.report.comparison import print_comparison
    from onnxslim.report.destination import check_reports, save_report
    from onnxslim.report.difference import print_difference
    from onnxslim.report.terminal import print_places

    check_reports(report or (), [reference, candidate], data=data, preprocess=preprocess, metric=metric)
    result = command.compare(
        reference,
        candidate,
        data=data,
        preprocess=preprocess,
        metric=metric,
        provider=provider,
        threads=threads,
        seed=seed,
        measure=measure,
        breakdown=bool(report),
        difference=diff or bool(report),
    )
    save_report(result, *(report or ()))
    if json:
        print_json(result)
        return
    print_comparison(printable_record(result), console(stderr=diff))
    print_places(report or (), console(stderr=diff))
    if diff and result.difference is not None:
        print_difference(printable_record(result.difference), console())
