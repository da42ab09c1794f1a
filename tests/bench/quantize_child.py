"""One int8 quantizer on one model, run by the Python of the environment that holds the tool: prints a line of JSON.

    python quantize_child.py TOOL IN.onnx OUT.onnx CALIB.npz
    python quantize_child.py TOOL --version

Each tool is used as its documentation advises for a CPU: uint8 activations, int8 weights per channel, Q/DQ pairs; what
its documentation asks for before that (simplification, shape inference, opset 13, folded BatchNormalizations) is done
and counted in its seconds. Imports are not counted. Knows nothing but the standard library, NumPy, onnx and the tool.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import pathlib
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

Work = Callable[[str, str, str], object]
"""From the paths of the model, the result and the samples."""
LEAST_OPSET = 13
"""DequantizeLinear has an axis from here on; weights per channel need it."""
PIECE = 16
"""How many samples ONNX Runtime keeps the activations of at a time."""
BATCH = 32
"""How many samples AIMET is given at a time, where the model takes several; AdaRound is slow with one."""
ADAROUND_STEPS = int(os.environ.get("ADAROUND_STEPS", "10000"))
"""Steps for each layer; AIMET recommends 10,000."""


def feeds(model: Any, path: str) -> list[dict[str, Any]]:
    """Return the samples one by one. An array has one axis more than its input, or the samples along the first."""
    import numpy as np

    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    ranks = {each.name: len(each.type.tensor_type.shape.dim) for each in model.graph.input if each.name in arrays}
    count = max(len(arrays[name]) for name in ranks if arrays[name].ndim)

    def one(name: str, at: int) -> Any:
        array = arrays[name]
        if array.ndim == ranks[name] + 1:
            return array[at]
        return array if ranks[name] == 0 else array[at : at + 1]

    return [{name: one(name, at) for name in ranks} for at in range(count)]


def loaded(source: str) -> Any:
    """Return a model of opset 13 at least, its inputs as they ought to be: no constants, no negative sizes."""
    import onnx
    from onnx import version_converter

    model = onnx.load(source)
    constants = {each.name for each in model.graph.initializer}
    inputs = [each for each in model.graph.input if each.name not in constants]
    opset = next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    if opset < LEAST_OPSET:
        model = version_converter.convert_version(model, LEAST_OPSET)
    if len(inputs) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(inputs)
    for value in (*model.graph.input, *model.graph.output):
        for at, size in enumerate(value.type.tensor_type.shape.dim):
            if size.HasField("dim_value") and size.dim_value < 0:
                size.dim_param = f"{value.name}_{at}"
    return model


def preprocessed(model: Any, out: str) -> str:
    """Return the path of the model as ONNX Runtime preprocesses it: shapes known, BatchNormalizations folded."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    raised, path = f"{out}.raised.onnx", f"{out}.pre.onnx"
    onnx.save(model, raised)
    try:
        quant_pre_process(raised, path)
    except Exception:  # as its documentation advises where symbolic shapes are too much for it
        quant_pre_process(raised, path, skip_symbolic_shape=True)
    return path


def batched(model: Any, samples: list[dict[str, Any]], size: int) -> list[dict[str, Any]]:
    """Return the samples joined `size` at a time, where the first dimension of each input is free."""
    import numpy as np

    inputs = {each.name: each.type.tensor_type.shape.dim for each in model.graph.input if each.name in samples[0]}
    if not all(dims and not dims[0].dim_value for dims in inputs.values()):
        return samples
    pieces = [samples[at : at + size] for at in range(0, len(samples), size)]
    return [{name: np.concatenate([each[name] for each in piece]) for name in inputs} for piece in pieces]


def ours(options: str) -> Callable[[], Work]:
    def ready() -> Work:
        import onnxslim.passes.quant

        import onnxslim
        import onnxslim.api

        def work(source: str, out: str, calib: str) -> None:
            onnxslim.optimize(source, f"quant{options}", data=calib, output=out, measure=False)

        return work

    return ready


def onnxruntime(method: str, *, reduced: bool = False) -> Callable[[], Work]:
    """With weights of 8 bits, or of 7: its documentation advises these on processors without VNNI, if much is lost."""

    def ready() -> Work:
        import onnxruntime.quantization as tool

        class Reader(tool.CalibrationDataReader):  # type: ignore[misc]
            def __init__(self, samples: list[dict[str, Any]]) -> None:
                self.samples = samples
                self.set_range(0, len(samples))

            def __len__(self) -> int:
                return len(self.samples)

            def set_range(self, start_index: int, end_index: int) -> None:
                self.rest: Iterator[dict[str, Any]] = iter(self.samples[start_index:end_index])

            def get_next(self) -> dict[str, Any] | None:
                return next(self.rest, None)

        def work(source: str, out: str, calib: str) -> None:
            model = loaded(source)
            samples = feeds(model, calib)
            tool.quantize_static(
                preprocessed(model, out),
                out,
                Reader(samples),
                quant_format=tool.QuantFormat.QDQ,
                per_channel=True,
                reduce_range=reduced,
                activation_type=tool.QuantType.QUInt8,
                weight_type=tool.QuantType.QInt8,
                calibrate_method=tool.CalibrationMethod[method],
                extra_options={"CalibStridedMinMax": PIECE} if len(samples) % PIECE == 0 else {},
            )

        return work

    return ready


def nncf(*, accurate: bool) -> Callable[[], Work]:
    """By default, or as accurate as it offers: asymmetric activations, whole ranges, the slow bias correction."""

    def ready() -> Work:
        import nncf as tool
        import onnx
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet

        whole = tool.AdvancedQuantizationParameters(
            activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
        )
        options = {"preset": tool.QuantizationPreset.MIXED, "advanced_parameters": whole}
        tries = [options | {"fast_bias_correction": False}, options] if accurate else [{}]

        def work(source: str, out: str, calib: str) -> None:
            model = loaded(source)
            samples = feeds(model, calib)
            transformer = {"LayerNormalization", "Softmax"} <= {node.op_type for node in model.graph.node}
            path = preprocessed(model, out)  # with BatchNormalizations folded, as PyTorch exports them
            for last, each in enumerate(tries, 1):
                try:
                    made = tool.quantize(
                        onnx.load(path),
                        tool.Dataset(samples),
                        subset_size=len(samples),
                        model_type=tool.ModelType.TRANSFORMER if transformer else None,
                        **each,
                    )
                    break
                except Exception:  # the slow bias correction makes invalid models of some
                    if last == len(tries):
                        raise
            onnx.save(made, out)

        return work

    return ready


def onnxsim(method: str, *, full: bool) -> Callable[[], Work]:
    def ready() -> Work:
        import onnx
        import onnxsim as tool

        def work(source: str, out: str, calib: str) -> None:
            model = loaded(source)
            simple = tool.simplify(model)[0]
            onnx.save(tool.quantize_static(simple, feeds(model, calib), method=method, full_graph=full), out)

        return work

    return ready


def aimet(*, equalize: bool, adaround: bool) -> Callable[[], Work]:
    def ready() -> Work:
        import aimet_onnx as tool
        import onnx
        import onnxsim as simplifier
        from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight
        from aimet_onnx.common import quantsim_config
        from aimet_onnx.cross_layer_equalization import equalize_model

        config = pathlib.Path(quantsim_config.__path__[0]) / "default_config_per_channel.json"

        def work(source: str, out: str, calib: str) -> None:
            model = loaded(source)
            samples = batched(model, feeds(model, calib), BATCH)
            model = simplifier.simplify(model)[0]
            if equalize:
                equalize_model(model)  # folds BatchNormalizations first
            else:
                fold_all_batch_norms_to_weight(model)
            sim = tool.QuantizationSimModel(
                model,
                param_type="int8",
                activation_type="int8",  # asymmetric, stored as uint8 below
                config_file=str(config),
                dummy_input=samples[0],
                session_options_kwargs={"intra_op_num_threads": 2},
            )
            if adaround:
                tool.apply_adaround(sim, samples, num_iterations=ADAROUND_STEPS)
            sim.compute_encodings(samples)
            onnx.save(sim.to_onnx_qdq(export_int32_bias=True, prequantize_constants=True), out)

        return work

    return ready


OURS = ("ours", "ours-minmax", "ours-mse")
TOOLS: dict[str, tuple[Callable[[], Work], str, str]] = {
    "ours": (ours(":times=measured"), "", "onnxslim-compiler"),
    "ours-minmax": (ours(":times=measured:calibration=minmax"), "", "onnxslim-compiler"),
    "ours-mse": (ours(":times=measured:calibration=mse"), "", "onnxslim-compiler"),
    "onnxruntime-minmax": (onnxruntime("MinMax"), "onnxruntime", "onnxruntime"),
    "onnxruntime-reduced": (onnxruntime("MinMax", reduced=True), "onnxruntime", "onnxruntime"),
    "onnxruntime-entropy": (onnxruntime("Entropy"), "onnxruntime", "onnxruntime"),
    "onnxruntime-percentile": (onnxruntime("Percentile"), "onnxruntime", "onnxruntime"),
    "nncf": (nncf(accurate=False), "nncf", "nncf"),
    "nncf-accurate": (nncf(accurate=True), "nncf", "nncf"),
    "onnxsim-minmax": (onnxsim("minmax", full=False), "onnxsim", "onnxsim"),
    "onnxsim-auto": (onnxsim("auto", full=False), "onnxsim", "onnxsim"),
    "onnxsim-full-minmax": (onnxsim("minmax", full=True), "onnxsim", "onnxsim"),
    "onnxsim-full-auto": (onnxsim("auto", full=True), "onnxsim", "onnxsim"),
    "aimet-minmax": (aimet(equalize=False, adaround=False), "aimet-onnx", "aimet-onnx"),
    "aimet-cle": (aimet(equalize=True, adaround=False), "aimet-onnx", "aimet-onnx"),
    "aimet-adaround": (aimet(equalize=False, adaround=True), "aimet-onnx", "aimet-onnx"),
}
"""What makes each tool ready to work, its environment (empty: the one that runs the benchmark), its distribution."""


def version(tool: str) -> str:
    """Return the version; ours with a hash of the sources, since it changes more often than its number."""
    number = importlib.metadata.version(TOOLS[tool][2])
    if tool not in OURS:
        return f"{number}, {ADAROUND_STEPS} steps" if tool == "aimet-adaround" else number
    import onnxslim.passes

    import onnxslim

    digest = hashlib.sha256()
    folders = {pathlib.Path(path) for package in (onnxslim, onnxslim.passes) for path in package.__path__}
    for path in sorted(path for folder in folders for path in folder.rglob("*") if path.suffix in (".py", ".rules")):
        digest.update(path.read_bytes())
    return f"{number}+{digest.hexdigest()[:8]}"


def main(tool: str, *paths: str) -> dict[str, object]:
    work = TOOLS[tool][0]()
    source, out, calib = (os.path.abspath(path) for path in paths)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # some tools leave files where they are
        wall, cpu = time.perf_counter(), time.process_time()
        work(source, out, calib)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"seconds": round(wall, 2), "cpu_seconds": round(cpu, 2), "peak_bytes": peak}


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    with contextlib.redirect_stdout(sys.stderr):
        answer = {"version": version(sys.argv[1])} if sys.argv[2] == "--version" else main(*sys.argv[1:])
    print(json.dumps(answer))
