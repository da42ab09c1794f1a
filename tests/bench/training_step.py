"""A step of training, compiled by onnxslim and run by ONNX Runtime, beside the same in PyTorch's eager mode.

    python -m venv out/envs/torch && out/envs/torch/bin/pip install torch onnx numpy
    python tests/bench/training_step.py --torch out/envs/torch/bin/python MODEL:BATCH[:SIZE]...

A step is forward, mean squared error to a target, backward, and SGD with momentum, of the simplified model (no
BatchNormalization is left). Both take turns on the same threads, each in a process of its own, with a rest between
them: the threads of PyTorch and of ONNX Runtime go on spinning when a step is done, and would take the other's
processors. The ratio is the median of those of the turns, with its 95 % interval (of the order statistics). Where other
work disturbs the turns, the seconds of processor time say more than those of the clock. Prints a Markdown table:
seconds, ratios, peak memory of the processes, and how far the losses are apart after the last step.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxslim.passes.simplify import Simplify

from onnxslim.data import synthetic_samples
from onnxslim.model import canonicalize, open_model
from onnxslim.pipeline.interface import Context
from onnxslim.pipeline.opset import upgraded
from onnxslim.runtime.session import Session
from onnxslim.runtime.target import detect_target

RATE, MOMENTUM = 1e-6, 0.9
REST = 0.6
"""Seconds between steps."""
OPSET = 18
"""The oldest operator set that gradients are declared for."""
HERE = pathlib.Path(__file__).parent


@dataclasses.dataclass
class Child:
    """A process that takes steps."""

    process: subprocess.Popen[str]

    @classmethod
    def start(cls, python: str, script: str, folder: pathlib.Path, threads: int) -> Child:
        command = [python, str(HERE / script), str(folder), str(threads)]
        child = cls(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        child.answer()
        return child

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return dict(json.loads(self.process.stdout.readline()))

    def step(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        time.sleep(REST)
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        return self.answer()

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def prepared(path: pathlib.Path, batch: int, size: int | None, folder: pathlib.Path) -> None:
    """Write the simplified model, and what both are fed with."""
    target = detect_target("cpu")
    original = open_model(path)
    canonicalize(original)
    samples = synthetic_samples(original, 2, 0, target=target)
    context = Context(
        original.clone(), samples, target, np.random.default_rng(0), open_session=lambda m: Session.of(m, target)
    )
    Simplify().run(original, context)
    model = upgraded(original, OPSET) if original.opset_imports[""] < OPSET else original
    assert isinstance(model, ir.Model), model
    ir.save(model, folder / "model.onnx")
    random = np.random.default_rng(0)
    feeds = {
        str(value.name): drawn(samples.first()[str(value.name)], batch, size, random) for value in model.graph.inputs
    }
    made = next(iter(Session.of(model, target).run(feeds).values()))
    trained = [
        n for n, v in model.graph.initializers.items() if v.dtype is ir.DataType.FLOAT and len(v.shape or ()) > 0
    ]
    wanted = made + np.asarray(0.1 * random.standard_normal(made.shape), np.float32)
    rate, momentum = np.array(RATE, np.float32), np.array(MOMENTUM)
    told = {f"feed {name}": array for name, array in feeds.items()}
    np.savez(folder / "feeds.npz", target=wanted, trained=np.array(trained), rate=rate, momentum=momentum, **told)


def drawn(sample: Any, batch: int, size: int | None, random: np.random.Generator) -> Any:
    """Return a batch for an input of which a sample is given: random numbers, or the same integers again."""
    if sample.dtype.kind != "f":
        return np.repeat(sample, batch, axis=0)
    space = [size if size else each for each in sample.shape[2:]]
    return np.asarray(random.standard_normal((batch, *sample.shape[1:2], *space)), np.float32)


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """Return the median, and the order statistics between which it lies with 95 %."""
    rows = sorted(ratios)
    reach = int(np.ceil(0.98 * np.sqrt(len(rows))))
    middle = len(rows) // 2
    return float(np.median(rows)), rows[max(middle - reach, 0)], rows[min(middle + reach, len(rows) - 1)]


def row(spec: str, options: argparse.Namespace) -> str:
    """Return the row of a model."""
    name, batch, *size = spec.split(":")
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        prepared(pathlib.Path(name), int(batch), int(size[0]) if size else None, folder)
        ours = Child.start(sys.executable, "training_child.py", folder, options.threads)
        theirs = Child.start(options.torch, "training_torch.py", folder, options.threads)
        turns = []
        for turn in range(options.turns + 2):
            first, second = (ours, theirs) if turn % 2 else (theirs, ours)
            pair = (first.step(), second.step())
            turns.append(pair if turn % 2 else pair[::-1])
        ours.end()
        theirs.end()
    kept = turns[2:]
    own, other = kept[-1]
    texts = [pathlib.Path(name).name, batch]
    for clock in ("seconds", "cpu"):
        left, right = (min(pair[at][clock] for pair in kept) for at in (0, 1))
        middle, low, high = interval([pair[0][clock] / pair[1][clock] for pair in kept])
        texts += [f"{left:.3f}", f"{right:.3f}", f"{middle:.2f} ({low:.2f} to {high:.2f})"]
    texts += [f"{own['peak'] / 1e3:.0f}", f"{other['peak'] / 1e3:.0f}", f"{own['grown'] / max(other['grown'], 1):.2f}"]
    return "| " + " | ".join([*texts, f"{abs(own['loss'] / other['loss'] - 1):.0e}"]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL:BATCH[:SIZE]")
    parser.add_argument("--torch", required=True, help="the Python of an environment with torch, onnx and numpy")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=20)
    options = parser.parse_args()
    print(
        "| model | batch | s, ours | s, torch | ratio | cpu s, ours | cpu s, torch | ratio | peak MB, ours | torch |"
        " ratio of growth | loss off |"
    )
    print("| --- " * 12 + "|")
    for spec in options.models:
        print(row(spec, options), flush=True)


if __name__ == "__main__":
    main()
