"""Runs the command line on broken models, each case in a process of its own, and tells which do not end as they should.

    python tests/fuzz/run_cases.py --cases 20000 --seed 1 --jobs 2 --keep out/fuzz

A case ends as it should with exit code 0, 1 or 2, one error of ours or none, within `SECONDS` and `MEMORY`, leaving
nothing behind but the output, which ONNX Runtime opens if it opens the input. Case n of a seed is always the same, so
that ``--only N`` repeats it. Exit code 1: some did not; their files are kept where ``--keep`` says.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import importlib
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np
import onnx
from fuzz.mutations import mutate
from fuzz.seeds import seed_models, write_external

import onnxslim
from onnxslim.cli.entry import run
from onnxslim.ort import onnxruntime
from onnxslim.pipeline.discovery import find_pass, pass_names

SECONDS = 20.0
MEMORY = 2 * 1024**3
"""Bytes of resident memory that a case may take."""
TOLD_EVERY = 1000
"""Cases between two lines that tell how far it is."""
ADDRESS_SPACE = 8 * 1024**3
INPUT, OUTPUT = "model.onnx", "out.onnx"
WORKING = "working"
"""The folder that a case has for temporary files."""
COMMANDS: tuple[tuple[str, ...], ...] = (
    *(("optimize", INPUT, "-o", OUTPUT, "--no-measure"),) * 6,
    ("optimize", INPUT, "-o", OUTPUT, "--no-check"),
    ("optimize", INPUT, "-o", OUTPUT, "--no-measure", "-p", "quant"),
    ("optimize", INPUT, "-o", OUTPUT, "--no-measure", "-p", "prune:exact=true"),
    ("optimize", INPUT, "-o", OUTPUT, "--no-measure", "-p", "prune,lowrank:pays=size,sparsify"),
    ("optimize", INPUT, "-o", OUTPUT, "--no-measure", "--diff"),
    *(("inspect", INPUT),) * 3,
    ("inspect", INPUT, "--groups"),
    ("inspect", INPUT, "--plan"),
    ("inspect", INPUT, "--json"),
    ("compare", INPUT, INPUT),
)
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclasses.dataclass(frozen=True)
class Case:
    """One run."""

    number: int
    seed: str
    arguments: tuple[str, ...]
    data: bytes
    external: bool


@dataclasses.dataclass(frozen=True)
class Ending:
    """How a case ended."""

    case: Case
    fault: str | None
    """What is wrong with that, or None."""
    code: int | None
    errors: str
    seconds: float


def case_of(seed: int, number: int) -> Case:
    """Return case `number` of `seed`."""
    generator = np.random.default_rng([seed, number])
    models = seed_models()
    name = sorted(models)[int(generator.integers(len(models)))]
    arguments = COMMANDS[int(generator.integers(len(COMMANDS)))]
    external = bool(generator.random() < 0.1)
    model = models[name]
    if external:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / INPUT
            write_external(model, path)
            model = onnx.load(path, load_external_data=False)
    return Case(number, name, arguments, mutate(model, generator), external)


def lay(case: Case, folder: pathlib.Path) -> None:
    """Write the files of a case."""
    (folder / WORKING).mkdir()
    if case.external:
        write_external(seed_models()[case.seed], folder / INPUT)
    (folder / INPUT).write_bytes(case.data)


def start(case: Case, folder: pathlib.Path) -> int:
    """Start a case in `folder` and return its process."""
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        os.setsid()
        os.chdir(folder)
        os.environ.update(TMPDIR=str(folder / WORKING), ONNXSLIM_CACHE=str(folder / WORKING), COLUMNS="100")
        tempfile.tempdir = None
        for name, stream in (("stdout", 1), ("stderr", 2)):
            os.dup2(os.open(f"../{folder.name}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        code = run(case.arguments)
        sys.stdout.flush()
        sys.stderr.flush()
        if code == 0 and OUTPUT in case.arguments:
            _open_result()
    except BaseException as error:  # whatever escapes is what is looked for
        print(f"Traceback: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        code = 71
    finally:
        os._exit(code)
    raise AssertionError("a case never returns")


def _open_result() -> None:
    """Complain where ONNX Runtime opens what came in, and not what went out."""
    if pathlib.Path(INPUT).read_bytes() == pathlib.Path(OUTPUT).read_bytes():
        return
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(INPUT, options, providers=["CPUExecutionProvider"])
    except Exception:
        return
    onnxruntime.InferenceSession(OUTPUT, options, providers=["CPUExecutionProvider"])


def judge(case: Case, folder: pathlib.Path, status: int | None, used: int, seconds: float) -> Ending:
    """Say how a case ended."""
    out, errors = (
        pathlib.Path(f"{folder}.{name}").read_text(errors="replace")
        if pathlib.Path(f"{folder}.{name}").exists()
        else ""
        for name in ("stdout", "stderr")
    )
    code = None if status is None or os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    known = {INPUT, OUTPUT, INPUT + ".data", OUTPUT + ".data", WORKING}
    left = sorted({path.name for path in folder.iterdir()} - known)
    left = [name for name in left if not re.fullmatch(rf"{OUTPUT}\.[0-9a-f]+\.data", name)]
    left += sorted(path.name for path in (folder / WORKING).iterdir() if path.name != "layers")
    fault = None
    if status is None:
        fault = f"hung for {SECONDS:g} s"
    elif os.WIFSIGNALED(status):
        fault = f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    elif "Traceback" in errors or "bug in onnxslim" in errors:
        fault = next(line for line in errors.splitlines() if "Traceback" in line or "bug in onnxslim" in line)
    elif code not in (0, 1, 2):
        fault = f"exit code {code}"
    elif code and "error:" not in errors:
        fault = f"exit code {code} without an error"
    elif used > MEMORY:
        fault = f"took {used / 2**30:.1f} GiB"
    elif left:
        fault = f"left behind: {', '.join(left)}"
    elif UNPRINTABLE.search(out + errors):
        fault = "printed control characters"
    elif code == 0 and OUTPUT in case.arguments and not (folder / OUTPUT).exists():
        fault = "wrote no output"
    return Ending(case, fault, code, errors, seconds)


def load_all() -> None:
    """Load every module of onnxslim, so that not each case has to."""
    folder = pathlib.Path(onnxslim.__file__).parent
    for file in sorted(folder.rglob("*.py")):
        name = ".".join(("onnxslim", *file.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__")
        if not name.endswith(("__main__", "_child")):
            importlib.import_module(name)
    for name in pass_names():
        find_pass(name)


def fuzz(seed: int, numbers: Sequence[int], *, jobs: int = 1, keep: pathlib.Path | None = None) -> list[Ending]:
    """Run cases, `jobs` at a time, and return how they ended.

    Args:
        seed: What all draws begin with.
        numbers: Which cases.
        jobs: How many run at once.
        keep: Where to keep the files of those that did not end as they should; None: nowhere.
    """
    load_all()
    endings: list[Ending] = []
    waiting = list(reversed(numbers))
    running: dict[int, tuple[Case, pathlib.Path, float]] = {}
    with tempfile.TemporaryDirectory(prefix="fuzz-") as base:
        while waiting or running:
            while waiting and len(running) < jobs:
                case = case_of(seed, waiting.pop())
                folder = pathlib.Path(base) / str(case.number)
                folder.mkdir()
                lay(case, folder)
                running[start(case, folder)] = (case, folder, time.monotonic())
            for process, (case, folder, started) in list(running.items()):
                done, status, usage = os.wait4(process, os.WNOHANG)
                seconds = time.monotonic() - started
                late = not done and seconds > SECONDS
                if late:
                    os.killpg(process, signal.SIGKILL)
                    done, _, usage = os.wait4(process, 0)
                if done:
                    ending = judge(case, folder, None if late else status, usage.ru_maxrss * 1024, seconds)
                    endings.append(ending)
                    if len(endings) % TOLD_EVERY == 0:
                        faults = sum(bool(each.fault) for each in endings)
                        print(f"{len(endings)} cases, {faults} faults", file=sys.stderr, flush=True)
                    del running[process]
                    if ending.fault and keep is not None:
                        _keep(ending, folder, keep, seed)
                    shutil.rmtree(folder)
            time.sleep(0.002)
    return endings


def _keep(ending: Ending, folder: pathlib.Path, keep: pathlib.Path, seed: int) -> None:
    place = keep / f"{seed}-{ending.case.number}"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder, place, ignore=shutil.ignore_patterns(WORKING))
    (place / "ending.json").write_text(
        json.dumps(
            {"arguments": ending.case.arguments, "fault": ending.fault, "stderr": ending.errors[-4000:]}, indent=2
        )
    )


def main() -> int:
    """Serve the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", type=int, action="append", help="run this case alone; may be given again")
    parser.add_argument("--keep", type=pathlib.Path, help="folder for the files of what went wrong")
    options = parser.parse_args()
    started = time.monotonic()
    numbers = options.only or range(options.cases)
    endings = fuzz(options.seed, numbers, jobs=options.jobs, keep=options.keep)
    faults = [ending for ending in endings if ending.fault]
    for ending in sorted(faults, key=lambda ending: ending.case.number):
        print(f"case {ending.case.number} ({ending.case.seed}: {' '.join(ending.case.arguments)}): {ending.fault!r}")
    codes = collections.Counter(ending.code for ending in endings)
    print(
        f"{len(endings)} cases of seed {options.seed} in {time.monotonic() - started:.0f} s, exit codes {dict(codes)}, "
        f"slowest {max(ending.seconds for ending in endings):.1f} s: {len(faults)} did not end as they should"
    )
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
