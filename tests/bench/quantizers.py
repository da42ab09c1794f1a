"""Our quantizer beside ONNX Runtime's, NNCF, onnxsim and AIMET, on the float models of the zoo.

    python tests/bench/quantizers.py out/zoo/real out/zoo/thin --data out/quant_data --lock FILE
    python tests/bench/quantizers.py out/zoo/real --models 'ppocr*' --tools ours,nncf --again ours

Each tool runs in a process and an environment of its own (quantize_child.py: ENVS/NAME/bin/python, ours in the one that
runs this), on the same samples (quant_data.py). What comes out is looked at from outside (check_quantized.py) on
samples that calibrated nothing. A tool that fails gives a row with what it said.

Rows are appended to a file of JSON lines as they are made; the last one of a model and a tool counts. Those that are
there, of the same version of the tool, are not made again (--again TOOL makes them). Latencies are measured last, all
those of a model in turns, and only where --lock or --idle says that nothing else runs. Prints Markdown.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import pathlib
import sys
import time
from typing import Any

from quantize_child import OURS, TOOLS
from quantizers_table import render
from simplifiers import child
from simplifiers_table import write_between

Row = dict[str, Any]
Rows = dict[tuple[str, str], Row]
DEFAULT = tuple(tool for tool in TOOLS if tool not in OURS[1:])


def read_rows(path: pathlib.Path) -> Rows:
    lines = path.read_text().splitlines() if path.exists() else []
    return {(row["model"], row["tool"]): row for row in map(json.loads, lines)}


def python_of(tool: str, envs: pathlib.Path) -> pathlib.Path | str:
    return envs / TOOLS[tool][1] / "bin" / "python" if TOOLS[tool][1] else sys.executable


def made(path: pathlib.Path, tool: str, out: pathlib.Path, options: argparse.Namespace) -> Row:
    """Return what a tool took and what it gave, or `failed` with the reason."""
    calib, test = (options.data / f"{path.stem}_{part}.npz" for part in ("calib", "test"))
    out.unlink(missing_ok=True)
    python = python_of(tool, options.envs)
    costs = child(python, "quantize_child.py", tool, str(path), str(out), str(calib), timeout=options.timeout)
    for left in out.parent.glob(f"{out.name}.*"):
        left.unlink()
    if "failed" in costs:
        return costs
    fewer = () if options.held_out is None else ("--held-out", str(options.held_out))
    checked = child(sys.executable, "check_quantized.py", str(path), str(out), str(test), *fewer, timeout=1800)
    return costs | checked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=pathlib.Path, help="folders of .onnx files, or such files")
    parser.add_argument("--data", default="out/quant_data", type=pathlib.Path, help="what quant_data.py made")
    parser.add_argument("--tools", default=",".join(DEFAULT), help=f"with commas between, of: {', '.join(TOOLS)}")
    parser.add_argument("--models", default="*", help="only models of this name (* and ? match)")
    parser.add_argument("--envs", default="out/envs", type=pathlib.Path, help="folder of environments")
    parser.add_argument(
        "--made", default="out/quantized", type=pathlib.Path, help="where the quantized models are kept"
    )
    parser.add_argument("--timeout", default=1800.0, type=float, help="seconds after which a tool has failed")
    parser.add_argument("--held-out", type=int, help="the most samples that measure, for a first look")
    parser.add_argument("--seconds", default=4.0, type=float, help="how long each latency is measured")
    parser.add_argument("--lock", type=pathlib.Path, help="a file to lock while latency is measured")
    parser.add_argument("--idle", action="store_true", help="nothing else runs here: measure latency without a lock")
    parser.add_argument("--again", default="", help="tools whose rows are made again, with commas between")
    parser.add_argument("--json", default="out/bench_quant.jsonl", type=pathlib.Path, help="where the rows are kept")
    parser.add_argument("--markdown", type=pathlib.Path, help="where the tables are written, too")
    parser.add_argument("--docs", type=pathlib.Path, help="a page whose section between the markers is replaced")
    options = parser.parse_args()
    again, names = set(options.again.split(",")), options.tools.split(",")
    versions = {}
    for tool in names if options.folders else ():
        told = child(python_of(tool, options.envs), "quantize_child.py", tool, "--version", timeout=120)
        if "failed" in told:
            parser.error(f"{tool} cannot be used: {told['failed']}")
        versions[tool] = told["version"]
    paths = [path for each in options.folders for path in (each.glob("*.onnx") if each.is_dir() else (each,))]
    paths = [path for path in paths if fnmatch.fnmatch(path.stem, options.models)]
    paths = sorted(path for path in paths if (options.data / f"{path.stem}_test.npz").exists())
    paths.sort(key=lambda path: path.stat().st_size)
    for directory in (options.made, options.json.parent):
        directory.mkdir(parents=True, exist_ok=True)

    def keep(row: Row) -> None:
        with options.json.open("a") as file:
            file.write(json.dumps(row) + "\n")

    for path in paths:
        for tool, version in versions.items():
            known = read_rows(options.json).get((path.stem, tool), {})
            if known.get("version") == version and tool not in again:
                continue
            print(f"{time.strftime('%H:%M:%S')} {path.stem}: {tool}", file=sys.stderr, flush=True)
            row = {"model": path.stem, "tool": tool, "version": version, "before_bytes": path.stat().st_size}
            keep(row | made(path, tool, options.made / f"{path.stem}.{tool}.onnx", options))
    for path in paths if options.lock or options.idle else ():
        for tool in versions:
            row, out = read_rows(options.json)[path.stem, tool], options.made / f"{path.stem}.{tool}.onnx"
            if "speed" in row or "failed" in row or not out.exists():
                continue
            lock = ("--lock", str(options.lock)) if options.lock else ()
            test = str(options.data / f"{path.stem}_test.npz")
            keep(
                row
                | child(
                    sys.executable,
                    "check_quantized.py",
                    *(str(path), str(out), test, "--latency", str(options.seconds), *lock),
                    timeout=600,
                )
            )
    text = render(list(read_rows(options.json).values()))
    print(text)
    if options.markdown:
        options.markdown.write_text(text + "\n")
    if options.docs:
        write_between(options.docs, text, "bench-quant")


if __name__ == "__main__":
    main()
