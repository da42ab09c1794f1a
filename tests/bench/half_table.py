"""`half` beside the float16 converters of onnxconverter-common and ONNX Runtime, on folders of models.

    pip install onnxconverter-common
    python tests/bench/half_table.py FOLDER_OR_MODEL...

Each model is simplified first, and ranges are seen on 8 synthetic samples with one seed; the outputs are compared on 8
others. Prints a Markdown table: how many times smaller the weights are, and the SQNR of the worst output in decibels,
on ONNX Runtime's CPU provider, which computes in float32, and when every value is rounded, and overflows, as on a
device with kernels of the type (`passes/half/simulation.py`). "broken" is below 0 dB or not finite; "-" does not load.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import sys
import warnings
from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
from onnxconverter_common import float16 as common
from onnxruntime.transformers import float16 as transformers
from onnxslim.passes.half import Half, Inner
from onnxslim.passes.half.formats import HalfType
from onnxslim.passes.half.simulation import rounded
from onnxslim.passes.simplify import Simplify

from onnxslim.data import Samples, synthetic_samples
from onnxslim.errors import RunError
from onnxslim.model import canonicalize, open_model, weight_bytes
from onnxslim.pipeline.interface import Context
from onnxslim.runtime.session import Session
from onnxslim.runtime.target import Target, detect_target

SAMPLES = 8
OURS = {
    "half (weights)": Half(activations=Inner.FLOAT),
    "half": Half(activations=Inner.HALF),
    "half, bfloat16": Half(activations=Inner.HALF, type=HalfType.BFLOAT16, target="qdq"),
}
THEIRS = {"onnxconverter-common": common, "ONNX Runtime": transformers}


def worst(reference: Session, candidate: Session, samples: Samples) -> float:
    """Return the SQNR of the worst output, -inf where it is not finite."""
    signal: dict[str, float] = {}
    noise: dict[str, float] = {}
    for batch in samples.batches():
        expected, found = reference.run(batch.feeds), candidate.run(batch.feeds)
        for name, array in expected.items():
            if getattr(array, "dtype", np.dtype(object)).kind != "f" or not np.isfinite(array).all():
                continue
            given = np.asarray(found[name], np.float64)
            if not np.isfinite(given).all():
                return -math.inf
            signal[name] = signal.get(name, 0.0) + float(np.square(array, dtype=np.float64).sum())
            noise[name] = noise.get(name, 0.0) + float(np.square(array - given).sum())
    ratios = [10 * math.log10(signal[name] / noise[name]) for name in signal if signal[name] and noise[name]]
    return min(ratios, default=math.inf)


def words(db: float) -> str:
    return "broken" if db < 0 else "exact" if math.isinf(db) else f"{db:.0f}"


def row(path: pathlib.Path, target: Target) -> str:
    original = open_model(path)

    def open_session(model: ir.Model) -> Session:
        return Session.of(model, target)

    seen, new = (synthetic_samples(original, SAMPLES, seed, target=target) for seed in (0, 1))
    context = Context(original.clone(), seen, target, np.random.default_rng(0), open_session=open_session)
    simple = original.clone()
    Simplify().run(simple, context)
    reference = open_session(original)

    def ours(step: Half) -> ir.Model:
        model = simple.clone()
        change = step.run(model, dataclasses.replace(context, generator=np.random.default_rng(0)))
        if not change.modified:
            raise ValueError(next(note.reason for note in change.notes if note.subject == "model"))
        return model

    def theirs(converter: object) -> ir.Model:
        proto = onnx.ModelProto()
        proto.CopyFrom(ir.to_proto(simple))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = ir.from_proto(converter.convert_float_to_float16(proto, keep_io_types=True))
        canonicalize(model)
        return model

    makers: list[Callable[[], ir.Model]] = [lambda step=step: ours(step) for step in OURS.values()]
    makers += [lambda converter=converter: theirs(converter) for converter in THEIRS.values()]

    def shown(model: ir.Model) -> str:
        try:
            return words(worst(reference, open_session(model), new))
        except RunError:
            return "-"

    def cell(make: Callable[[], ir.Model]) -> str:
        try:
            model = make()
        except Exception as error:  # whatever a converter raises is a result
            return " ".join(str(error).split())[:60].replace("|", "/")
        return f"{weight_bytes(original) / weight_bytes(model):.2f}x, {shown(model)} / {shown(rounded(model))}"

    cells = map(cell, makers)
    return f"| {path.stem} | {' | '.join(cells)} |"


def main(arguments: list[str]) -> None:
    target = detect_target("cpu", 2)
    paths = [pathlib.Path(argument) for argument in arguments]
    files = [file for path in paths for file in (sorted(path.glob("*.onnx")) if path.is_dir() else [path])]
    titles = [*OURS, *THEIRS]
    print(f"| model | {' | '.join(titles)} |", "---".join("|" * (len(titles) + 2)), sep="\n")
    for file in files:
        print(row(file, target), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
