"""Few bits, weights alone, and activations as they come, beside ONNX Runtime's quantizer of weights (RTN, HQQ).

Weights alone are in blocks of 32.

    python tests/bench/weight_only.py MODEL... --data out/quant_data [--hqq out/envs/hqq/bin/python] [--idle]

DATA holds <model>_calib.npz and <model>_test.npz (quant_data.py makes them): the first calibrates, the second measures.
ONNX Runtime's quantizer knows MatMul and Gather: it gets our simplified model, whose Gemms are written as MatMul and
Add, and whose turned tables are stored turned. HQQ needs an environment with torch, onnx and onnxruntime. Prints a
Markdown table: bytes of the float file divided by those of the file, as it is and under zlib, SQNR of the worst output
in decibels, top-1 and agreement where there are labels, and with --idle the speed relative to float in turns.
"""

from __future__ import annotations

import argparse
import math
import pathlib
import subprocess
import sys
import tempfile
import zlib

import numpy as np
import onnx_ir as ir

import onnxslim
from onnxslim.data import Samples, open_samples
from onnxslim.model import open_model, save_model
from onnxslim.model.constants import constant
from onnxslim.model.edit import Editor, drop_unused, take_over
from onnxslim.runtime.session import Session
from onnxslim.runtime.target import detect_target
from onnxslim.runtime.timing import compare_latency

ALONE = "quant:activations=float:weights="
SCHEMES = {
    "int8": "int8",
    "int4, blocks of 32": "int4:block=32",
    "int4, symmetric": "int4:block=32:symmetric=true",
    "int4, DequantizeLinear": "int4:block=32:format=qdq",
    "int2, blocks of 32": "int2:block=32",
    "codebook": "codebook",
    "powers of two": "powers",
}
STATIC = {
    "W4A8": "quant:weights=int4",
    "W4A8, min-max, nearest": "quant:weights=int4:calibration=minmax:rounding=nearest",
    "W2A8": "quant:weights=int2",
    "W8A16": "quant:activations=uint16",
}
THEIRS = {"RTN": ("rtn", 0, 0), "RTN, symmetric": ("rtn", 1, 0), "RTN, tables too": ("rtn", 0, 1), "HQQ": ("hqq", 0, 0)}
"""For each the method, whether it is symmetric, and whether tables are quantized."""
CHILD = """
import logging, sys, onnx
logging.disable(logging.WARNING)
from onnxruntime.quantization import matmul_nbits_quantizer as theirs
source, method, symmetric, tables, out = sys.argv[1:]
ops = ("MatMul", "Gather") if int(tables) else ("MatMul",)
axes = (("MatMul", 0), ("Gather", 1))[: len(ops)]
given = dict(block_size=32, bits=4, op_types_to_quantize=ops, quant_axes=axes)
if method == "rtn":
    how = theirs.DefaultWeightOnlyQuantConfig(is_symmetric=bool(int(symmetric)), **given)
else:
    how = theirs.HQQWeightOnlyQuantConfig(**given)
given.pop("bits")
quantizer = theirs.MatMulNBitsQuantizer(onnx.load(source), is_symmetric=bool(int(symmetric)), algo_config=how, **given)
quantizer.process()
quantizer.model.save_model_to_file(out, False)
"""


def as_matmuls(model: ir.Model) -> None:
    """Write what ONNX Runtime's quantizer does not know as MatMul, in place."""
    editor, graph = Editor(model), model.graph
    for node in list(graph):
        array = None if not node.inputs else constant(node.inputs[0 if node.op_type == "Transpose" else -1])
        if node.op_type == "Transpose" and array is not None:
            stored = editor.initializer(f"{node.inputs[0].name}_turned", np.ascontiguousarray(array.T))
            node.outputs[0].replace_all_uses_with(stored)
            graph.remove(node, safe=True)
        elif node.op_type == "Gemm" and (weight := constant(node.inputs[1])) is not None:
            assert not node.attributes.get_int("transA", 0)
            turned = np.ascontiguousarray(weight.T if node.attributes.get_int("transB", 0) else weight)
            stored = editor.initializer(f"{node.inputs[1].name}_plain", turned)
            nodes = [ir.node("MatMul", [node.inputs[0], stored], name=f"{node.name}_product")]
            nodes[0].outputs[0].name = editor.name(f"{node.outputs[0].name}_product")
            if len(node.inputs) > 2:
                nodes.append(ir.node("Add", [nodes[0].outputs[0], node.inputs[2]], name=f"{node.name}_bias"))
            graph.insert_before(node, nodes)
            take_over(nodes[-1].outputs[0], node.outputs[0])
            graph.remove(node, safe=True)
    drop_unused(graph)


def measured(reference: Session, candidate: Session, samples: Samples) -> str:
    """Return the SQNR of the worst output, top-1 and agreement as cells of a table."""
    signal: dict[str, float] = {}
    noise: dict[str, float] = {}
    right, same, count = 0, 0, 0
    for batch in samples.batches(32 if samples.labelled else 16):
        expected, found = reference.run(batch.feeds), candidate.run(batch.feeds)
        for name, array in expected.items():
            if array.dtype.kind == "f":
                signal[name] = signal.get(name, 0.0) + float(np.square(array, dtype=np.float64).sum())
                noise[name] = noise.get(name, 0.0) + float(np.square(array - found[name], dtype=np.float64).sum())
        if samples.labelled and batch.labels is not None:
            one, other = (next(iter(outputs.values())).argmax(axis=1) for outputs in (expected, found))
            labels = np.asarray(batch.labels).reshape(-1)
            right, same, count = (
                right + int((other == labels).sum()),
                same + int((one == other).sum()),
                count + len(one),
            )
    db = min((10 * math.log10(signal[name] / noise[name]) for name in signal if noise[name]), default=math.inf)
    return f"{db:.1f} | {right / count:.2%} | {same / count:.2%}" if count else f"{db:.1f} | | "


def sizes(path: pathlib.Path) -> tuple[int, int]:
    content = path.read_bytes()
    return len(content), len(zlib.compress(content, 6))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=pathlib.Path)
    parser.add_argument("--data", default="out/quant_data", type=pathlib.Path)
    parser.add_argument("--hqq", type=pathlib.Path, help="a Python with torch, onnx and onnxruntime")
    parser.add_argument(
        "--schemes", default="", help="only rows whose name has one of these words, with commas between"
    )
    parser.add_argument("--idle", action="store_true", help="nothing else runs here: measure latency")
    parser.add_argument("--threads", default=1, type=int)
    options = parser.parse_args()
    wanted = [word for word in options.schemes.split(",") if word]
    target = detect_target("cpu", options.threads)
    print(f"On {target.instruction_set}, {options.threads} threads.\n")
    print("| model | tool: scheme | times smaller | zlib | SQNR, dB | top-1 | agreement | times faster |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for path in options.models:
            reference = Session.of(path, target)
            calib, test = (options.data / f"{path.stem}_{part}.npz" for part in ("calib", "test"))
            samples = open_samples(str(test), reference.inputs)
            schemes = {f"ours: {name}": ALONE + text for name, text in SCHEMES.items()}
            schemes |= {f"ours: {name}": text for name, text in STATIC.items()}
            schemes |= {"ours: dynamic": "quant:activations=dynamic"}
            schemes |= {f"ONNX Runtime: {name}": name for name in THEIRS if name != "HQQ" or options.hqq}
            for scheme, text in schemes.items():
                if wanted and not any(word in scheme for word in wanted):
                    continue
                out = folder / "out.onnx"
                out.unlink(missing_ok=True)
                if text in THEIRS:
                    source = folder / "source.onnx"
                    onnxslim.optimize(path, "simplify", output=source, measure=False, check=False)
                    model = open_model(source)
                    as_matmuls(model)
                    save_model(model, source)
                    python = str(options.hqq) if text == "HQQ" else sys.executable
                    arguments = [str(source), *map(str, THEIRS[text]), str(out)]
                    done = subprocess.run(
                        [python, "-c", CHILD, *arguments], capture_output=True, text=True, check=False
                    )
                    if done.returncode:
                        print(f"| {path.stem} | {scheme} | {done.stderr.strip().splitlines()[-1]} | | | | | |")
                        continue
                else:
                    onnxslim.optimize(path, text, data=str(calib), output=out, measure=False)
                before, after = sizes(path), sizes(out)
                smaller = " | ".join(f"{one / other:.2f}" for one, other in zip(before, after, strict=True))
                speed = ""
                if options.idle:
                    generator = np.random.default_rng(0)
                    ratio = compare_latency(path, out, samples.first(), target, generator=generator, seconds=5.0).ratio
                    speed = f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
                cells = measured(reference, Session.of(out, target), samples)
                print(f"| {path.stem} | {scheme} | {smaller} | {cells} | {speed} |", flush=True)


if __name__ == "__main__":
    main()
