"""Nothing by itself: the child of `training_step.py` that trains with onnxslim and ONNX Runtime.

    python training_child.py FOLDER THREADS

Takes one step of SGD with momentum of FOLDER/model.onnx with FOLDER/feeds.npz for each line that it reads, and answers
with a line of JSON.
"""

from __future__ import annotations

import json
import pathlib
import resource
import sys
import time

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common
import onnxruntime

from onnxslim.analysis.specialize import specialize_shapes
from onnxslim.autodiff.lowering import lower_step
from onnxslim.autodiff.reverse import build_gradients, graph_builder
from onnxslim.runtime.blocked import block_width

LOSS = "loss"


def compiled(
    model: ir.Model, trained: list[str], shapes: dict[str, tuple[int, ...]], momentum: float
) -> tuple[ir.Model, dict[str, str]]:
    """Return the step, and the output that follows each weight and each momentum (`m.` and the weight's name)."""
    graph = model.graph
    for name in trained:
        value = graph.initializers.pop(name)
        value.const_value = None
        graph.inputs.append(value)
    model = specialize_shapes(model, {**shapes})
    build, graph = graph_builder(model), model.graph

    def added(name: str, like: ir.Value | None) -> ir.Value:
        own = ir.Shape(()) if like is None else like.shape
        graph.inputs.append(ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=own))
        return graph.inputs[-1]

    inputs = {str(value.name): value for value in graph.inputs}
    (output,) = graph.outputs
    difference = build.op("Sub", output, added("target", output))
    loss = build.op("ReduceMean", build.op("Mul", difference, difference), keepdims=0)
    rate = added("rate", None)
    gradients = build_gradients(build, {loss: build.number(1.0, loss)}, [inputs[name] for name in trained])
    loss.name = LOSS
    graph.outputs.clear()
    graph.outputs.append(loss)
    successors: dict[str, str] = {}
    for name in trained:
        weight = inputs[name]
        moved = build.op("Add", build.op("Mul", added(f"m.{name}", weight), momentum), gradients[weight])
        after = build.op("Sub", weight, build.op("Mul", moved, rate))
        graph.outputs.extend([after, moved])
        successors |= {name: str(after.name), f"m.{name}": str(moved.name)}
    onnx_ir.passes.common.RemoveUnusedNodesPass()(model)
    lower_step(model, block_width())
    return model, successors


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    stored = np.load(folder / "feeds.npz")
    model = ir.load(folder / "model.onnx")
    trained = stored["trained"].tolist()
    first = {name: model.graph.initializers[name].const_value.numpy() for name in trained}
    fed = {name.removeprefix("feed "): stored[name] for name in stored.files if name.startswith("feed ")}
    shapes = {name: array.shape for name, array in fed.items()}
    step, successors = compiled(model, trained, shapes, float(stored["momentum"]))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(sys.argv[2])
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(ir.to_proto(step).SerializeToString(), options, ["CPUExecutionProvider"])
    now = {**first, **{f"m.{name}": np.zeros_like(array) for name, array in first.items()}}
    states = [
        {name: onnxruntime.OrtValue.ortvalue_from_numpy(np.array(array)) for name, array in now.items()} for _ in "ab"
    ]
    feeds = {**fed, "target": stored["target"], "rate": stored["rate"]}
    bindings = []
    for before, after in (states, states[::-1]):
        binding = session.io_binding()
        for name, array in feeds.items():
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
        for name, value in before.items():
            binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(successors[name], after[name])
        binding.bind_output(LOSS)
        bindings.append(binding)
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"ready": True}), flush=True)
    for count, _ in enumerate(sys.stdin):
        binding = bindings[count % 2]
        started, cpu = time.perf_counter(), time.process_time()
        session.run_with_iobinding(binding)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        loss = float(binding.get_outputs()[-1].numpy())  # bound last
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(
            json.dumps({"seconds": seconds, "cpu": cpu, "loss": loss, "peak": peak, "grown": peak - start}), flush=True
        )


if __name__ == "__main__":
    main()
