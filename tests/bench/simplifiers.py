"""Our simplifier beside onnxsim, OnnxSlim, onnxscript and ONNX Runtime's basic level, on folders of models.

    python tests/bench/simplifiers.py FOLDER ... --json out/bench_simplify.json --markdown out/bench_simplify.md
    python tests/bench/simplifiers.py FOLDER ... --tools ours,onnxsim --models 'resnet*' --again ours

Each tool runs in a process and an environment of its own: ENVS/TOOL/bin/python, ours in the one that runs this. The
tools take turns on a model, so that whatever else the machine does hits all of them; seconds are medians. What comes
out is looked at from outside (check_result.py). Ours is timed as ``onnxslim.optimize(path, passes="simplify",
output=out, measure=False)``, its own check against the original included.

Rows that are in the JSON file already, of the same version of the tool, are not made again (--again TOOL makes them);
`run` in a row says which rows were timed together. Prints Markdown.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from simplifiers_table import render, write_between

HERE = pathlib.Path(__file__).resolve().parent
OURS = ("ours", "unchecked")
TOOLS = ("ours", "unchecked", "onnxsim", "onnxslim", "onnxscript", "onnxruntime")
LONG = 10.0
"""Seconds after which one run is enough."""

Row = dict[str, Any]


def child(python: pathlib.Path | str, script: str, *arguments: str, timeout: float) -> Row:
    """Run a script of this folder and return its line of JSON, or `failed` with the reason."""
    command = [str(python), str(HERE / script), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"over {timeout:.0f} s"}
    if answer.returncode:
        lines = [text for text in (answer.stderr or answer.stdout).strip().splitlines() if text.strip()]
        return {"failed": f"exit {answer.returncode}: {lines[-1].strip()[:200] if lines else 'no word'}"}
    row: Row = json.loads(answer.stdout.strip().splitlines()[-1])
    return row


def measure(path: pathlib.Path, tools: dict[str, tuple[Any, str]], options: argparse.Namespace) -> list[Row]:
    """Return a row for each tool on one model. `tools`: their Python and their version."""
    with tempfile.TemporaryDirectory() as folder:
        outs = {tool: str(pathlib.Path(folder) / f"{tool}.onnx") for tool in tools}
        runs: dict[str, list[Row]] = {tool: [] for tool in tools}
        for _ in range(options.runs):
            for tool, (python, _) in tools.items():
                if runs[tool] and ("failed" in runs[tool][-1] or runs[tool][-1]["seconds"] > LONG):
                    continue
                for written in pathlib.Path(folder).glob(f"{tool}.onnx*"):
                    written.unlink()
                runs[tool].append(
                    child(python, "simplify_child.py", tool, str(path), outs[tool], timeout=options.timeout)
                )
        rows = []
        for tool, (_, version) in tools.items():
            row: Row = {"model": path.stem, "tool": tool, "version": version, "run": options.run}
            failed = next((each["failed"] for each in runs[tool] if "failed" in each), None)
            if failed is not None:
                rows.append(row | {"failed": failed})
                continue
            row |= {key: statistics.median(each[key] for each in runs[tool]) for key in runs[tool][0]}
            lock = (str(options.lock),) if options.lock else ()
            checked = child(
                sys.executable, "check_result.py", str(path), outs[tool], str(options.seconds), *lock, timeout=1800
            )
            if "failed" in checked:
                checked = {"wrong": f"cannot be looked at: {checked['failed']}"}
            rows.append(row | checked)
        return rows


def count_original(path: pathlib.Path) -> Row:
    from check_result import count_nodes

    return {"model": path.stem, "tool": "original", **count_nodes(str(path)), "bytes": path.stat().st_size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=pathlib.Path, help="folders of .onnx files, or such files")
    parser.add_argument("--tools", default=",".join(TOOLS), help="with commas between")
    parser.add_argument("--models", default="*", help="only models of this name (* and ? match)")
    parser.add_argument("--envs", default="out/envs", type=pathlib.Path, help="folder of environments, by tool")
    parser.add_argument("--runs", default=3, type=int, help="how often each tool is timed on each model")
    parser.add_argument("--seconds", default=2.0, type=float, help="how long each latency is measured; 0: not at all")
    parser.add_argument("--timeout", default=600.0, type=float, help="seconds after which a tool has failed")
    parser.add_argument("--lock", type=pathlib.Path, help="a file to lock while latency is measured")
    parser.add_argument("--again", default="", help="tools whose rows are made again, with commas between")
    parser.add_argument("--json", default="out/bench_simplify.json", type=pathlib.Path, help="where the rows are kept")
    parser.add_argument("--markdown", type=pathlib.Path, help="where the tables are written, too")
    parser.add_argument("--docs", type=pathlib.Path, help="a page whose section between the markers is replaced")
    options = parser.parse_args()
    options.run = time.strftime("%Y-%m-%d %H:%M:%S")
    rows: list[Row] = json.loads(options.json.read_text()) if options.json.exists() else []
    again = set(options.again.split(","))
    tools: dict[str, tuple[Any, str]] = {}
    for tool in options.tools.split(",") if options.folders else ():
        python = sys.executable if tool in OURS else options.envs / tool / "bin" / "python"
        told = child(python, "simplify_child.py", tool, "--version", timeout=120)
        if "failed" in told:
            parser.error(f"{tool} cannot be used: {told['failed']}")
        tools[tool] = (python, told["version"])
    rows = [row for row in rows if row["tool"] not in again]
    paths = [path for each in options.folders for path in (each.glob("*.onnx") if each.is_dir() else (each,))]
    paths = sorted(
        (path for path in paths if fnmatch.fnmatch(path.stem, options.models)), key=lambda p: p.stat().st_size
    )
    for path in paths:
        have = {(row["tool"], row["version"]) for row in rows if row["model"] == path.stem and "version" in row}
        missing = {tool: what for tool, what in tools.items() if (tool, what[1]) not in have}
        if not missing:
            continue
        print(f"{time.strftime('%H:%M:%S')} {path.stem}: {', '.join(missing)}", file=sys.stderr, flush=True)
        made = [count_original(path), *measure(path, missing, options)]
        replaced = {(row["model"], row["tool"]) for row in made}
        rows = [row for row in rows if (row["model"], row["tool"]) not in replaced] + made
        options.json.parent.mkdir(parents=True, exist_ok=True)
        fresh = options.json.with_suffix(".tmp")
        fresh.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
        fresh.replace(options.json)
    text = render(rows)
    print(text)
    if options.markdown:
        options.markdown.write_text(text + "\n")
    if options.docs:
        write_between(options.docs, text, "bench-simplify")


if __name__ == "__main__":
    main()
