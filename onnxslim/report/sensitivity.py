"""What each layer of a model costs where it alone is changed, as tables."""

from __future__ import annotations

from rich.console import Console

from onnxslim.commands.sensitivity import LayerLoss, ModelSensitivity
from onnxslim.report.figures import data_words, target_words
from onnxslim.report.terminal import line, print_sensitivity, print_table


def print_layers_alone(model: ModelSensitivity, console: Console, *, top: int = 10) -> None:
    """Print the layers that cost most, at most `top` of them, and what is lost in the terms of the task."""
    line(console, f"{model.path} on {target_words(model.target)}, -p {model.step}")
    line(console, data_words(model.data), style="bold yellow" if model.data.synthetic else "")
    if model.layers_reason:
        line(console, f"No layer: {model.layers_reason}")
        return
    places = ", ".join(dict.fromkeys(row.measured_on for row in model.layers))
    line(console, f"Each layer changed alone; signal to noise, and share of the noise of all, in the {places}:")
    print_sensitivity("layer", model.layers, console, limit=top)
    print_table(console, ("layer", "why it is so"), ((row.layer, row.why) for row in model.layers if row.why))
    unmeasured = next((row.share_reason for row in model.layers if row.share is None), None)
    if unmeasured:
        line(console, f"Noise: {unmeasured}")
    line(console, f"All that would be done: {_loss(LayerLoss('', model.loss, model.loss_reason), model.lost)}")
    print_table(console, ("alone", "lost"), ((row.layer, _loss(row, model.lost)) for row in model.losses))


def _loss(row: LayerLoss, lost: str) -> str:
    if row.loss is None:
        return row.loss_reason or ""
    value, low, high = (f"{100 * share:.2f}" for share in (row.loss.value, row.loss.low, row.loss.high))
    return f"{value} % of {lost} ({low} to {high} %)"
