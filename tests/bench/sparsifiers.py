"""Second order against magnitude at the same sparsity, on samples that fitted nothing: accuracy, agreement, size.

    python tests/bench/sparsifiers.py MODEL CALIBRATION VALIDATION [RATIO ...]

Data is given as classifier_samples.py reads it (``cifar:FILE`` reads CIFAR-10). 256 samples calibrate, their labels
are not used. Sizes are those of the model's file under gzip, as written and with sparse initializers. Prints a
Markdown table.
"""

from __future__ import annotations

import gzip
import logging
import pathlib
import sys
import tempfile

from classifier_samples import CALIBRATION, judge, read
from onnxslim.passes.sparsify import Method, Sparsify, Store

import onnxslim
from onnxslim.model.sparse import SPARSE
from onnxslim.runtime.session import Session

RATIOS = ("0.5", "0.7", "0.9", "2:4")


def main(model: str, calibration: str, validation: str, *ratios: str) -> None:
    logging.disable(logging.WARNING)
    original = Session.of(pathlib.Path(model))
    samples, held_out = read(calibration, original).draw(CALIBRATION), read(validation, original)
    accuracy = judge(original, original, held_out).figures[0].before.value
    plain = len(gzip.compress(pathlib.Path(model).read_bytes(), 6))
    print(f"{pathlib.Path(model).stem}: accuracy {accuracy:.4f}, gzipped {plain / 1e6:.2f} MB\n")
    print("| sparsity | method | accuracy | agreement | file, gzipped | sparse initializers, MB (gzipped) |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for ratio in ratios or RATIOS:
            for method in Method:
                kind = {"pattern": ratio} if ":" in ratio else {"ratio": float(ratio)}
                step = Sparsify(**kind, method=method, store=Store.SPARSE)
                # what is measured on the few samples here is thrown away: the table has its own figures
                result = onnxslim.optimize(model, [step], data=samples, val=held_out.draw(8), measure=False)
                sparse, dense = pathlib.Path(folder) / "sparse.onnx", pathlib.Path(folder) / "dense.onnx"
                result.save(sparse)
                for value in result.model.graph.initializers.values():
                    value.meta.pop(SPARSE, None)
                result.save(dense)
                session = Session.of(dense)
                quality = judge(original, session, held_out)
                scored, fidelity = quality.figures[0].after.value, quality.agreement
                packed = [len(gzip.compress(out.read_bytes(), 6)) / 1e6 for out in (dense, sparse)]
                print(
                    f"| {ratio} | {method.value} | {scored:.4f} | {fidelity.value:.4f} "
                    f"| {packed[0]:.2f} MB | {sparse.stat().st_size / 1e6:.2f} ({packed[1]:.2f}) |",
                    flush=True,
                )


if __name__ == "__main__":
    main(*sys.argv[1:])
