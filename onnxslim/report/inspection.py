"""What a model is, as tables."""

from __future__ import annotations

from rich.console import Console

from onnxslim.commands.inspect import Inspection, QuantizedFigures, TensorFigures
from onnxslim.report.terminal import line, print_facts, print_table
from onnxslim.units import in_bytes, in_thousands


def print_inspection(model: Inspection, console: Console) -> None:
    """Print the whole inspection."""
    line(console, f"{model.path}: {in_bytes(model.size_bytes)}")
    opsets = ", ".join(f"{domain} {version}" for domain, version in model.opsets.items())
    facts = (
        ("Parameters", f"{in_thousands(model.parameters)}, {in_bytes(model.weight_bytes)} in memory"),
        ("MACs", f"{in_thousands(model.macs)} an inference (symbolic dimensions count as 1)"),
        ("Activations", f"{in_bytes(model.peak_activation_bytes)} at once, {in_bytes(model.activation_bytes)} in all"),
        ("Nodes", f"{model.nodes:,}"),
        *(("Quantized", _quantized(layers)) for layers in model.quantization),
        ("Opsets", f"{opsets}; IR version {model.ir_version}"),
        ("Made by", model.producer or "not said"),
        *(("Input", _described(tensor)) for tensor in model.inputs),
        *(("Output", _described(tensor)) for tensor in model.outputs),
        *(("Not counted", f"{op}: MACs not known") for op in model.uncounted),
        *(("Not inferred", problem) for problem in model.not_inferred),
    )
    print_facts(console, facts)
    ops = ", ".join(f"{op} {count}" for op, count in model.ops.items())
    line(console, f"\nOps: {ops}")
    if model.metadata:
        line(console, "\nWhat the file says about itself:")
        for key, text in model.metadata.items():
            line(console, f"  {key}: {text}")
    rows = (
        (
            node.name,
            node.op_type,
            in_thousands(node.macs),
            f"{node.macs / model.macs:.1%}" if model.macs else "",
            in_thousands(node.parameters),
        )
        for node in model.costly
    )
    print_table(console, ("costliest nodes", "op", "MACs", "share", "parameters"), rows)
    line(console, f"What can be done to it: {', '.join(model.passes)} (see: onnxslim passes)")


def _quantized(layers: QuantizedFigures) -> str:
    data = "floats" if layers.activation_bits is None else f"{layers.activation_bits} bits"
    return f"{layers.layers:,} layers {layers.scheme}: weights {layers.weight_bits} bits, data {data}"


def _described(tensor: TensorFigures) -> str:
    sizes = ", ".join("?" if size is None else str(size) for size in tensor.shape)
    return f"{tensor.name}: {tensor.type} [{sizes}]"
