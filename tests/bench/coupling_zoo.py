"""The two exactness tests of the coupling on real models: coupling_zoo.py FOLDER_OR_MODEL ...

    python tests/bench/coupling_zoo.py shared/zoo/onnx models

Each model runs in a process of its own. It is simplified, as before every pruning; then its groups are permuted
wherever they occur, and channels whose weights are zero are removed. Both must leave the outputs alone (but rounding);
permuting one weight of a group by itself must not (the control). Prints a Markdown table with the seconds and the
memory that the analysis took, relative to the weights of the model.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import time
import tracemalloc

TOLERANCE = 1e-4
"""Sums of float32 in another order, through tens of layers."""


def measure(path: str) -> dict[str, object]:
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
    import numpy as np
    import onnx
    import onnx_ir as ir
    import onnxruntime
    from exactness import permute_groups, remove_zeroed

    import onnxslim
    from onnxslim.analysis.cost import measure_cost
    from onnxslim.analysis.coupling import couple, groups
    from onnxslim.analysis.shapes import infer_shapes
    from onnxslim.analysis.shared_vectors import untie_vectors
    from onnxslim.data import synthetic_samples

    onnxruntime.set_default_logger_severity(4)
    model = onnxslim.optimize(path, "simplify", measure=False).model
    feeds = next(synthetic_samples(onnxslim.open_model(path), 1, 1).batches()).feeds
    for value in model.graph.initializers.values():
        # A head that was never trained is zero, and would hide whatever went wrong before it.
        array = value.const_value.numpy()
        if array.dtype == np.float32 and array.ndim > 1 and not array.any():
            drawn = np.random.default_rng(0).normal(scale=0.05, size=array.shape).astype(np.float32)
            value.const_value = ir.tensor(drawn, name=value.name)
    untie_vectors(model)
    infer_shapes(model)
    started = time.perf_counter()
    found = groups(couple(model))
    seconds = time.perf_counter() - started
    tracemalloc.start()
    groups(couple(model))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    permuted = permute_groups(model, feeds)
    removed, rest = remove_zeroed(model, feeds, 0.25)
    if removed.touched and checks(model):
        onnx.checker.check_model(ir.to_proto(rest), full_check=True)
    return {
        "nodes": len(model.graph),
        "groups": len(found),
        "permuted": [permuted.touched, permuted.difference, permuted.control],
        "removed": [removed.touched, removed.difference],
        "seconds": seconds,
        "memory": peak / max(measure_cost(model).weight_bytes, 1),
    }


def checks(model: object) -> bool:
    """Whether the model itself stands the full check: some real ones do not, and run nevertheless."""
    import onnx
    import onnx_ir as ir

    try:
        onnx.checker.check_model(ir.to_proto(model), full_check=True)  # type: ignore[arg-type]
    except Exception:  # onnx raises errors of several kinds
        return False
    return True


def main(*places: str) -> int:
    print(
        "| model | nodes | groups | weights permuted | difference | control | weights cut | difference | s | memory |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    failed = 0
    paths = [path for place in map(pathlib.Path, places) for path in sorted(place.glob("*.onnx")) or [place]]
    for path in paths:
        answer = subprocess.run(
            [sys.executable, __file__, "--one", str(path)], capture_output=True, text=True, check=False
        )
        if answer.returncode:
            failed += 1
            print(f"| {path.stem} | failed: {answer.stderr.strip().splitlines()[-1][:200]} |", flush=True)
            continue
        row = json.loads(answer.stdout.strip().splitlines()[-1])
        permuted, removed = row["permuted"], row["removed"]
        wrong = not max(permuted[1], removed[1]) < TOLERANCE
        failed += wrong
        print(
            f"| {path.stem} | {row['nodes']} | {row['groups']} | {permuted[0]} | {permuted[1]:.1e} | {permuted[2]:.1e} "
            f"| {removed[0]} | {removed[1]:.1e} | {row['seconds']:.1f} | {row['memory']:.1f}x |{' WRONG' * wrong}",
            flush=True,
        )
    return failed


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        print(json.dumps(measure(sys.argv[2])))
    else:
        sys.exit(main(*sys.argv[1:]) > 0)
