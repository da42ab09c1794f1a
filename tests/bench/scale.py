"""How simplify grows with the graph, and what it takes on a model of several gigabytes.

    python tests/bench/scale.py                                  all of it; prints Markdown
    python tests/bench/scale.py --nodes 1000,10000 --kinds chain,wide --gigabytes 0
    python tests/bench/scale.py --nodes '' --gigabytes 3

Each graph is simplified in a process of its own. *Pass* is the pass alone, *all* is ``onnxslim.optimize(path,
passes="simplify", output=out, measure=False)`` with opening, checking and saving, of which ONNX Runtime takes its part
(it opens the model twice). The exponent is that of time over nodes between a row and the one above: 1 is linear.

The large model is streamed to disk as it is made, never held. Its memory is told twice: `ru_maxrss` counts the pages of
mapped files, too, which the system takes back when it needs them; anonymous memory (RssAnon in /proc/self/status, seen
every 10 ms) is what the process itself holds, and where a copy of the weights would show.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import pathlib
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH = 4096
"""Rows and columns of a weight of the large model: 64 MiB of float32."""


class Graph:
    """Nodes and initializers while they are added."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def add(self, op: str, *inputs: str, **attributes: object) -> str:
        output = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], output, **attributes))
        return output

    def constant(self, *numbers: float, kind: type = np.int64, scalar: bool = False) -> str:
        """Return an initializer; exporters write one for each use, so equal ones are not shared here, either."""
        name = f"c_{len(self.initializers)}"
        array = np.array(numbers[0] if scalar else numbers, kind)
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def model(self, result: str, shape: tuple[int | str, ...]) -> onnx.ModelProto:
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
        outputs = [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)]
        graph = helper.make_graph(self.nodes, "scale", inputs, outputs, self.initializers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def chain(count: int) -> onnx.ModelProto:
    """One after the other: elementwise ops, identities, and a reshape whose shape can be folded."""
    graph, value = Graph(), "x"
    while len(graph.nodes) < count:
        value = graph.add("Identity", graph.add("Relu", value))
        value = graph.add("Tanh", graph.add("Add", value, graph.constant(0.5, kind=np.float32)))
        size = graph.add("Gather", graph.add("Shape", value), graph.constant(1, scalar=True), axis=0)
        shape = graph.add("Concat", graph.constant(-1), graph.add("Unsqueeze", size, graph.constant(0)), axis=0)
        value = graph.add("Sigmoid", graph.add("Reshape", value, shape))
    return graph.model(value, ("N", 16))


def wide(count: int) -> onnx.ModelProto:
    """Side by side: short branches from one input, added up as a tree."""
    graph, level = Graph(), []
    while len(graph.nodes) < count * 0.8:
        scaled = graph.add("Mul", graph.add("Identity", "x"), graph.constant(len(level) + 1.0, kind=np.float32))
        level.append(graph.add("Tanh", graph.add("Dropout", scaled)))
    while len(level) > 1:
        pairs = [graph.add("Add", *level[at : at + 2]) for at in range(0, len(level) - 1, 2)]
        level = pairs + level[len(pairs) * 2 :]
    return graph.model(level[0], ("N", 16))


def swin(count: int) -> onnx.ModelProto:
    """Window partition and its reverse as exporters write it: thousands of nodes that compute shapes."""
    graph, value, side, channels = Graph(), "x", 8, 4

    def sizes(of: str) -> list[str]:
        shape = graph.add("Shape", of)
        return [graph.add("Gather", shape, graph.constant(at, scalar=True), axis=0) for at in range(4)]

    def reshape(of: str, *parts: str | int) -> str:
        listed = [
            graph.constant(part) if isinstance(part, int) else graph.add("Unsqueeze", part, graph.constant(0))
            for part in parts
        ]
        return graph.add("Reshape", of, graph.add("Concat", *listed, axis=0))

    def halved(size: str) -> str:
        quotient = graph.add(
            "Div", graph.add("Cast", size, to=TensorProto.FLOAT), graph.constant(2.0, kind=np.float32, scalar=True)
        )
        return graph.add("Cast", graph.add("Floor", quotient), to=TensorProto.INT64)

    while len(graph.nodes) < count:
        batch, height, breadth, depth = sizes(value)
        windows = reshape(value, batch, halved(height), 2, halved(breadth), 2, depth)
        windows = graph.add("Transpose", windows, perm=[0, 1, 3, 2, 4, 5])
        windows = graph.add("Tanh", reshape(windows, -1, 2, 2, depth))
        back = reshape(windows, batch, halved(height), halved(breadth), 2, 2, -1)
        back = graph.add("Transpose", back, perm=[0, 1, 3, 2, 4, 5])
        value = graph.add("Add", value, reshape(back, batch, height, breadth, -1))
    return graph.model(value, ("N", side, side, channels))


KINDS: dict[str, Callable[[int], onnx.ModelProto]] = {"chain": chain, "wide": wide, "swin": swin}


def write_large(folder: pathlib.Path, gigabytes: float) -> tuple[pathlib.Path, int]:
    """Write a model whose weights take so many GB, 16 MiB at a time, and return its path and their bytes."""
    graph, value, offset = Graph(), "x", 0
    generator = np.random.default_rng(0)
    with open(folder / "large.data", "wb") as file:
        while offset < gigabytes * 1e9:
            name = f"w_{offset}"
            tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[WIDTH, WIDTH])
            tensor.data_location = TensorProto.EXTERNAL
            size = WIDTH * WIDTH * 4
            for key, text in (("location", "large.data"), ("offset", str(offset)), ("length", str(size))):
                tensor.external_data.add(key=key, value=text)
            graph.initializers.append(tensor)
            for _ in range(4):
                file.write(generator.standard_normal(size // 16, np.float32).tobytes())
            offset += size
            product = graph.add("MatMul", value, name)
            moved = graph.add("Add", product, graph.constant(*[0.01] * WIDTH, kind=np.float32))
            value = graph.add("Identity", graph.add("Tanh", moved))
    path = folder / "large.onnx"
    path.write_bytes(graph.model(value, (1, WIDTH)).SerializeToString())
    return path, offset


def peak_anonymous(stop: threading.Event, peak: list[int]) -> None:
    while not stop.wait(0.01):
        peak[0] = max(peak[0], anonymous())


def anonymous() -> int:
    with contextlib.suppress(OSError, StopIteration):
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])
    return 0


def child(path: str, out: str) -> dict[str, object]:
    """Simplify one model here; return seconds and memory."""
    import onnxslim
    from onnxslim.commands.plan import plan_model  # brings everything in that is imported late
    from onnxslim.model import open_model
    from onnxslim.pipeline.discovery import find_pass

    del plan_model
    start, peak, stop = anonymous(), [0], threading.Event()
    watch = threading.Thread(target=peak_anonymous, args=(stop, peak), daemon=True)
    watch.start()
    began = time.perf_counter()
    result = onnxslim.optimize(path, passes="simplify", output=out, measure=False)
    everything = time.perf_counter() - began
    stop.set()
    watch.join()
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    record = result.report.passes[-1]
    answer: dict[str, object] = {
        "all": everything,
        "kept": record.kept,
        "nodes": list(record.nodes),
        "resident": resident,
        "anonymous": peak[0] - start,
    }
    if pathlib.Path(path).stat().st_size < 1e8 and not list(pathlib.Path(path).parent.glob("*.data")):
        from onnxslim.data import synthetic_samples
        from onnxslim.pipeline.interface import Context
        from onnxslim.runtime.target import detect_target

        del result
        model = open_model(path)
        samples = synthetic_samples(model, 1)
        context = Context(model, samples, detect_target("auto", None), np.random.default_rng(0))
        began = time.perf_counter()
        find_pass("simplify")().run(model.clone(), context)
        answer["pass"] = time.perf_counter() - began
    return answer


def run(path: pathlib.Path, timeout: float) -> dict[str, object]:
    command = [sys.executable, __file__, "--child", str(path), str(path.with_suffix(".out.onnx"))]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"over {timeout:.0f} s"}
    if answer.returncode:
        return {"failed": (answer.stderr.strip().splitlines() or [f"exit {answer.returncode}"])[-1][:200]}
    row: dict[str, object] = json.loads(answer.stdout.strip().splitlines()[-1])
    return row


def graphs(kinds: list[str], counts: list[int], timeout: float, folder: pathlib.Path) -> Iterator[str]:
    yield "| graph | nodes before | after | pass, s | exponent | all, s | exponent |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for kind in kinds:
        last: tuple[int, float, float] | None = None
        for count in counts:
            path = folder / f"{kind}.onnx"
            model = KINDS[kind](count)
            onnx.save(model, path)
            row = run(path, timeout)
            if "failed" in row:
                yield f"| {kind} | {len(model.graph.node):,} | failed: {row['failed']} | | | | |"
                break
            before, after = row["nodes"]
            spent, everything = float(row["pass"]), float(row["all"])
            exponents = ["", ""]
            if last is not None:
                more = math.log(before / last[0])
                exponents = [
                    f"{math.log(now / then) / more:.2f}" for now, then in ((spent, last[1]), (everything, last[2]))
                ]
            yield (
                f"| {kind} | {before:,} | {after:,}{'' if row['kept'] else ' (not kept)'} "
                f"| {spent:.2f} | {exponents[0]} | {everything:.2f} | {exponents[1]} |"
            )
            last = before, spent, everything


def large(gigabytes: float, timeout: float, folder: pathlib.Path) -> Iterator[str]:
    path, size = write_large(folder, gigabytes)
    row = run(path, timeout)
    yield f"\n{size / 1e9:.2f} GB of weights in a file beside the model:\n"
    if "failed" in row:
        yield f"failed: {row['failed']}"
        return
    before, after = row["nodes"]
    yield "| nodes | s | peak resident (ru_maxrss) | of the weights | peak anonymous | of the weights |"
    yield "| --- | --- | --- | --- | --- | --- |"
    resident, own = float(row["resident"]), float(row["anonymous"])
    yield (
        f"| {before} -> {after} | {float(row['all']):.1f} | {resident / 1e9:.2f} GB | {resident / size:.2f} "
        f"| {own / 1e9:.2f} GB | {own / size:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", default="1000,10000,100000", help="about how many, with commas between")
    parser.add_argument("--kinds", default=",".join(KINDS), help="with commas between")
    parser.add_argument("--gigabytes", default=3.0, type=float, help="weights of the large model; 0: none is made")
    parser.add_argument("--timeout", default=900.0, type=float, help="seconds after which a run has failed")
    parser.add_argument(
        "--folder", default="out", type=pathlib.Path, help="where graphs are written, and deleted again"
    )
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    counts = [int(each) for each in options.nodes.split(",") if each]
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="scale-") as folder:
        if counts:
            for line in graphs(options.kinds.split(","), counts, options.timeout, pathlib.Path(folder)):
                print(line, flush=True)
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="scale-") as folder:
        if options.gigabytes:
            for line in large(options.gigabytes, options.timeout, pathlib.Path(folder)):
                print(line, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(*sys.argv[2:4])))
    else:
        main()
