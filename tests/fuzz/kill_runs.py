"""Stops runs of the command line at random moments, and tells where something was lost or left behind.

    python tests/fuzz/kill_runs.py --kills 200 --seed 1

Each run has an earlier result at its output, which must be there whole, or the new one whole, whenever the run is
stopped: by SIGTERM, SIGINT or SIGKILL, with weights inside or beside it. Stopped by anything but SIGKILL it leaves
nothing; what SIGKILL left is gone after the next run. Exit code 1: something was lost or left.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pathlib
import signal
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np
import onnx
from fuzz.seeds import seed_models, write_external

from onnxslim.cli.entry import run

INPUT, OUTPUT = "model.onnx", "out.onnx"
ARGUMENTS = ("optimize", INPUT, "-o", OUTPUT, "--no-measure", "--report", "report.json")
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)


def start(folder: pathlib.Path) -> int:
    """Start a run in `folder` and return its process."""
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        os.setsid()
        os.chdir(folder)
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        code = run(ARGUMENTS)
    finally:
        os._exit(code)
    raise AssertionError("a run never returns")


def lay(folder: pathlib.Path, external: bool) -> None:
    """Write the input, and let an earlier run write the output of another model."""
    model = seed_models()["convolutions"]
    earlier = onnx.ModelProto.FromString(model.SerializeToString())
    earlier.graph.initializer[0].raw_data = np.full(8 * 3 * 3 * 3, 2.0, np.float32).tobytes()
    for content in (earlier, model):
        for stale in folder.glob(INPUT + "*"):
            stale.unlink()
        if external:
            write_external(content, folder / INPUT)
        else:
            onnx.save(content, folder / INPUT)
        if content is earlier:
            _, status = os.waitpid(start(folder), 0)
            assert status == 0, "the earlier run works"


def content_of(folder: pathlib.Path, name: str) -> str | None:
    """Return a hash of a model and its weights; None where it is not there whole."""
    try:
        model = onnx.load(folder / name)
        onnx.checker.check_model(model)
    except Exception:
        return None
    for tensor in model.graph.initializer:
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


def kill_once(generator: np.random.Generator, folder: pathlib.Path, seconds: float) -> str | None:
    """Stop one run, and run again; return what is wrong, or None.

    Args:
        generator: Draws the moment, the signal, and where the weights lie.
        folder: An empty folder.
        seconds: How long a run takes when nobody stops it.
    """
    external = bool(generator.integers(2))
    lay(folder, external)
    before, files = content_of(folder, INPUT), set(os.listdir(folder))
    old = content_of(folder, OUTPUT)
    by = SIGNALS[int(generator.integers(len(SIGNALS)))]
    # half of the moments in the last tenth, where files are renamed
    moment = seconds * (generator.uniform(0, 1.2) if generator.random() < 0.5 else generator.uniform(0.8, 1.1))
    process = start(folder)
    time.sleep(moment)
    os.kill(process, by)
    os.waitpid(process, 0)
    where = f"{by.name} after {moment / seconds:.0%}, weights {'beside the model' if external else 'inside'}"
    stopped, left = content_of(folder, OUTPUT), set(os.listdir(folder)) - files
    _, status = os.waitpid(start(folder), 0)
    new = content_of(folder, OUTPUT)
    if status or new is None or new == old:
        return f"{where}: the run after it failed"
    if content_of(folder, INPUT) != before:
        return f"{where}: the input was changed"
    if stopped not in (old, new):
        return f"{where}: neither the old output nor the new one is there"
    hidden = sorted(name for name in left if name.startswith("."))
    if by is not signal.SIGKILL and hidden:
        return f"{where}: left {hidden}"
    after = sorted(name for name in os.listdir(folder) if name.startswith("."))
    return f"{where}: after the next run there is still {after}" if after else None


def kill(seed: int, kills: int) -> list[str]:
    """Stop `kills` runs and return what went wrong."""
    generator = np.random.default_rng(seed)
    faults: list[str] = []
    with tempfile.TemporaryDirectory(prefix="kills-") as base:
        first = pathlib.Path(base) / "first"
        first.mkdir()
        lay(first, False)
        started = time.monotonic()
        os.waitpid(start(first), 0)
        seconds = time.monotonic() - started
        for number in range(kills):
            folder = pathlib.Path(base) / str(number)
            folder.mkdir()
            fault = kill_once(generator, folder, seconds)
            if fault is not None:
                faults.append(f"kill {number}: {fault}")
    return faults


def main() -> int:
    """Serve the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    faults = kill(options.seed, options.kills)
    print("\n".join(faults))
    print(f"{options.kills} runs stopped: {len(faults)} lost or left something")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
