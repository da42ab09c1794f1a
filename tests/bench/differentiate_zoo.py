"""Which real models can be differentiated by all their weights: differentiate_zoo.py [--check] FOLDER_OR_MODEL ...

    python tests/bench/differentiate_zoo.py --check shared/zoo/onnx models

Each model runs in a process of its own. It is simplified, brought to operator set 18 at least, fixed to a batch of 2
where it lets that be chosen, and the gradients of all its weights are built, of the sum of its results weighted at
random. Prints a Markdown table: nodes before and after, nodes that were replaced by others first, weights with a
gradient, weights that no result hangs on, seconds to differentiate, and with `--check` the relative error of the slope
along the gradient, in float32. Of models that do not differentiate it says why.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import time

BATCH = 2


def measure(path: str, check: bool) -> dict[str, object]:
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
    from whole_gradients import differentiate, directional_error

    import onnxslim
    from onnxslim.data import synthetic_samples
    from onnxslim.errors import NotDifferentiable

    model = onnxslim.optimize(path, "simplify", measure=False, check=False).model
    feeds = next(synthetic_samples(model, BATCH).batches(BATCH)).feeds
    started = time.perf_counter()
    try:
        whole = differentiate(model, feeds)
    except NotDifferentiable as error:
        return {"nodes": len(model.graph), "why": error.what}
    seconds = time.perf_counter() - started
    if not whole.weights:
        return {"nodes": len(model.graph), "why": "no weight of real numbers has a part in its results"}
    return {
        "nodes": len(whole.forward.graph),
        "after": len(whole.backward.graph),
        "replaced": whole.replaced,
        "weights": len(whole.weights),
        "left": len(whole.left),
        "seconds": seconds,
        "error": directional_error(whole, feeds) if check else None,
    }


def main(*arguments: str) -> int:
    check = "--check" in arguments
    print("| model | nodes | with gradients | replaced | weights | without | s | error of the slope |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    places = [pathlib.Path(argument) for argument in arguments if argument != "--check"]
    failed = 0
    for path in [path for place in places for path in sorted(place.glob("*.onnx")) or [place]]:
        command = [sys.executable, __file__, "--one", str(path), *["--check"] * check]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode:
            failed += 1
            told = (answer.stderr.strip() or f"exit code {answer.returncode}").splitlines()[-1][:200]
            print(f"| {path.stem} | failed: {told} |", flush=True)
            continue
        row = json.loads(answer.stdout.strip().splitlines()[-1])
        if "why" in row:
            failed += 1
            print(f"| {path.stem} | {row['nodes']} | {row['why']} |", flush=True)
            continue
        error = "" if row["error"] is None else f"{row['error']:.1e}"
        print(
            f"| {path.stem} | {row['nodes']} | {row['after']} | {row['replaced']} | {row['weights']} | {row['left']} "
            f"| {row['seconds']:.1f} | {error} |",
            flush=True,
        )
    return failed


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        print(json.dumps(measure(sys.argv[2], "--check" in sys.argv)))
    else:
        sys.exit(main(*sys.argv[1:]) > 0)
