"""The command that trains a model from labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxslim.cli.options import DATA_FORMS, Json, Metric, Preprocess, Provider, Seed, Threads

TRAINING = "Training"


def train(
    model: Annotated[
        Path,
        typer.Argument(
            help="The ONNX model, or ONNX text (.onnxtxt), whose weights need a type and a shape only. It is never "
            "changed.",
            show_default=False,
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help=f"Samples with labels to train on: {DATA_FORMS}. Integers are classes (cross-entropy), real numbers "
            "are what is predicted (squared differences).",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Where to write. Without it: MODEL.trained.onnx beside MODEL.", show_default=False
        ),
    ] = None,
    val: Annotated[
        str | None,
        typer.Option(
            help="Samples with labels to measure on, before and after. Without it: those that are set aside.",
            show_default=False,
        ),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(
            metavar="random|keep",
            help="What it begins with: weights drawn anew (He et al. 2015), or those of the file.",
            autocompletion=lambda: ["random", "keep"],
            rich_help_panel=TRAINING,
        ),
    ] = "random",
    epochs: Annotated[int, typer.Option(help="How often each sample is seen.", rich_help_panel=TRAINING)] = 10,
    batch: Annotated[int, typer.Option(help="Samples of a step.", rich_help_panel=TRAINING)] = 64,
    optimizer: Annotated[
        str,
        typer.Option(
            metavar="adamw|adam|sgd",
            help="The rule that makes updates of gradients.",
            autocompletion=lambda: ["adamw", "adam", "sgd"],
            rich_help_panel=TRAINING,
        ),
    ] = "adamw",
    rate: Annotated[
        float | None,
        typer.Option(
            help="Highest learning rate. Without it: 0.003, with sgd 0.05; of kept weights a tenth.",
            show_default=False,
            rich_help_panel=TRAINING,
        ),
    ] = None,
    warmup: Annotated[
        float,
        typer.Option(
            help="Share of the steps in which the rate rises; it falls along half a cosine afterwards.",
            rich_help_panel=TRAINING,
        ),
    ] = 0.05,
    weight_decay: Annotated[
        float,
        typer.Option(
            help="Share of the weights that each step takes off, times the rate.",
            rich_help_panel=TRAINING,
        ),
    ] = 0.0,
    augment: Annotated[
        str | None,
        typer.Option(
            help="Changes of images, joined by +: flip, shift, cutout, noise.",
            show_default=False,
            rich_help_panel=TRAINING,
        ),
    ] = None,
    held_out: Annotated[
        float,
        typer.Option(
            help="Share of the samples, 1,000 at most, that is set aside to choose the best weights.",
            rich_help_panel=TRAINING,
        ),
    ] = 0.1,
    patience: Annotated[
        int | None,
        typer.Option(
            help="Epochs without a better loss after which it ends.", show_default=False, rich_help_panel=TRAINING
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="Time after which it ends.", show_default=False, rich_help_panel=TRAINING),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="File that is written in each epoch, and that a run which was stopped goes on from.",
            show_default=False,
            rich_help_panel=TRAINING,
        ),
    ] = None,
    fold: Annotated[
        bool,
        typer.Option(
            "--fold", help="Simplify the result: what normalises is folded into layers.", rich_help_panel=TRAINING
        ),
    ] = False,
    preprocess: Preprocess = None,
    metric: Metric = None,
    provider: Provider = "auto",
    threads: Threads = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Train a model from labels, and print its loss and the figures of its task before and after.

    Some samples are set aside, and the weights that are best on them are kept. Statistics of BatchNormalizations follow
    those of the batches. Nodes and names stay as they are.

    [bold]Examples[/bold]

    onnxslim train model.onnx --data train.npz --val test.npz -o trained.onnx --epochs 20 --augment flip+shift

    onnxslim train model.onnx --weights keep --data train.npz -o tuned.onnx
    """
    from onnxslim.cli.output import show
    from onnxslim.cli.progress import progress_bar
    from onnxslim.commands.train import train_model
    from onnxslim.commands.training_request import FirstWeights, TrainingRequest
    from onnxslim.pipeline.options import read_choice
    from onnxslim.report.training import print_training
    from onnxslim.train.optimizer import OptimizerKind

    request = TrainingRequest(
        epochs,
        batch,
        rate,
        read_choice(OptimizerKind, optimizer, "--optimizer"),
        weight_decay,
        warmup,
        tuple(augment.split("+")) if augment else (),
        read_choice(FirstWeights, weights, "--weights"),
        held_out,
        patience,
        minutes,
        checkpoint,
        fold,
    )
    with progress_bar() as progress:
        result = train_model(
            model,
            output or model.with_name(f"{model.stem}.trained.onnx"),
            request,
            data=data,
            val=val,
            preprocess=preprocess,
            metric=metric,
            provider=provider,
            threads=threads,
            seed=seed,
            progress=progress,
        )
    show(result, json, print_training)
