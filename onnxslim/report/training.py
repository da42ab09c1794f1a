"""A training, as tables."""

from __future__ import annotations

from rich.console import Console

from onnxslim.commands.train import Training
from onnxslim.report.figures import FigureRow, task_rows
from onnxslim.report.terminal import line, print_table, print_target
from onnxslim.units import in_bytes


def print_training(training: Training, console: Console) -> None:
    """Print loss and figures of the task before and after, and the loss after each epoch."""
    line(console, f"Trained on {training.training.samples - training.held_out:,} samples: {training.training.source}")
    line(console, f"Measured on {training.val.samples:,} samples: {training.val.source}")
    print_target(training.target, console)
    before = training.loss_before_reason if training.loss_before is None else f"{training.loss_before:.4g}"
    change = f"on {training.held_out:,} samples that were set aside"
    rows = [
        FigureRow(f"Loss ({training.loss})", before or "", f"{training.loss_after:.4g}", change),
        *task_rows(training.quality, labelled=True),
    ]
    cells = ((row.label, row.before, row.after, row.change) for row in rows)
    print_table(console, ("", "before", "after", "change"), cells)
    epochs = ((f"{each.epoch:.3g}", f"{each.loss:.4g}") for each in training.losses)
    print_table(console, ("epoch", "loss"), epochs, right=(0, 1))
    line(console, f"{training.parameters:,} parameters, {training.weights} at first")
    memory = "" if training.memory is None else f", memory rose by {in_bytes(training.memory)} at most"
    steps = f"{training.steps:,} steps of {training.batch} samples in {training.seconds:.0f} s{memory}"
    line(console, f"{steps}; best after {training.best_epoch:.3g} epochs; ended: {training.ended}")
    line(console, f"Written to {training.output.path}")
