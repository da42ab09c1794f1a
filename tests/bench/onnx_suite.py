"""ONNX's own tests, simplified: onnx_suite.py FOLDER ... runs every model below FOLDER before and after.

    python tests/bench/onnx_suite.py onnx/backend/test/data --results out/onnx_suite.jsonl

A case is a folder with `model.onnx` and `test_data_set_*/{input,output}_*.pb`, or a model with no data beside it, whose
inputs are made up. Each is simplified twice: by `onnxslim.optimize`, as a user does, and by the pass alone, whose
rewrites nobody checks or rolls back. Both results are run in ONNX Runtime on the inputs given and compared with what
it makes of the original: whole numbers and strings
exactly, floats to a tolerance. Where it cannot run the original, the reference implementation of onnx runs both; where
that cannot either, the result must pass the checker.

Two processes share the cases; one that dies takes one case with it, which counts as a crash. Results are appended to
`--results`; cases that are there already are not run again. Prints a table of counts, each failure, and what
`optimize` refuses because ONNX Runtime cannot run it, which is no failure.
"""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
import subprocess
import sys
import threading

GOOD = ("same", "same by the reference", "random, same types", "checked only")
SECONDS = 300
CASE = pathlib.Path(__file__).with_name("onnx_case.py")
"""What a worker runs."""


def cases(folders: list[pathlib.Path]) -> list[pathlib.Path]:
    """Return the folders of cases, and the models that lie side by side, which are cases without data."""
    found = {path for folder in folders for path in folder.rglob("*.onnx")}
    return sorted(path.parent if path.name == "model.onnx" else path for path in found)


class Worker:
    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def ask(self, case: pathlib.Path) -> dict[str, object]:
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen(
                [sys.executable, str(CASE)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        killer = threading.Timer(SECONDS, process.kill)
        killer.start()
        try:
            process.stdin.write(f"{case}\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            killer.cancel()
        if line:
            return dict(json.loads(line))
        why = f"the process ended with {process.wait()}"
        return {"optimize": "crash", "optimize_why": why, "alone": "crash", "alone_why": why}


def run_all(todo: list[pathlib.Path], results: pathlib.Path, processes: int) -> None:
    results.parent.mkdir(parents=True, exist_ok=True)
    waiting, lock = collections.deque(todo), threading.Lock()

    def serve() -> None:
        worker = Worker()
        while True:
            with lock:
                if not waiting:
                    break
                case = waiting.popleft()
            row = worker.ask(case)
            with lock, results.open("a") as file:
                file.write(json.dumps({"case": str(case), **row}) + "\n")
                if len(waiting) % 100 == 0:
                    print(f"{len(waiting)} left", file=sys.stderr, flush=True)
        if worker.process is not None and worker.process.stdin is not None:
            worker.process.stdin.close()
            worker.process.wait()

    threads = [threading.Thread(target=serve) for _ in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def table(rows: list[dict[str, object]]) -> int:
    columns = sorted({str(pathlib.Path(str(row["case"])).parent.name) for row in rows})
    print("| what | " + " | ".join(columns) + " | all |\n| --- |" + " ---: |" * (len(columns) + 1))
    for key in ("optimize", "alone"):
        counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        for row in rows:
            counts[str(row.get(key))][pathlib.Path(str(row["case"])).parent.name] += 1
        for outcome, each in sorted(counts.items()):
            cells = [str(each[column]) for column in columns]
            print(f"| {key}: {outcome} | {' | '.join(cells)} | {sum(each.values())} |")
    failures = 0
    for row in rows:
        name = pathlib.Path(str(row["case"])).name
        for key in ("optimize", "alone"):
            if row.get(key) not in GOOD:
                failures += row.get(key) != "refused"
                print(f"\n{key} {name}: {row.get(key)}: {row.get(f'{key}_why')}", end="")
        if "outputs changed" in str(row.get("reason")) or "does not run" in str(row.get("reason")):
            print(f"\nrolled back {name}: {row['reason']}", end="")
        for note in row.get("notes") or ():  # type: ignore[attr-defined]
            print(f"\nnote {name}: {note}", end="")
    print()
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=pathlib.Path)
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path("out/onnx_suite.jsonl"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="run cases anew whose results are there and are not good")
    arguments = parser.parse_args()
    every = cases(arguments.folders)

    def held() -> dict[str, dict[str, object]]:
        lines = arguments.results.read_text().splitlines() if arguments.results.exists() else []
        return {str(row["case"]): row for row in map(json.loads, lines)}

    done = held()
    if arguments.again:
        done = {k: row for k, row in done.items() if row.get("optimize") in GOOD and row.get("alone") in GOOD}
    run_all([case for case in every if str(case) not in done], arguments.results, arguments.processes)
    done = held()
    return 1 if table([done[str(case)] for case in every if str(case) in done]) else 0


if __name__ == "__main__":
    sys.exit(main())
