"""Simplifies models again, and in another process with other hashes, and compares the files: same_bytes.py MODEL ...

A second run on what the first wrote must change no byte, and neither must another PYTHONHASHSEED. Prints a line for
each model; the exit code is how many differ.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

CODE = "import sys, onnxslim; onnxslim.optimize(sys.argv[1], 'simplify', output=sys.argv[2], check=False)"


def written(source: pathlib.Path, target: pathlib.Path, seed: str) -> bytes:
    """Simplify `source` in a process of its own; return the bytes that lie at `target` then, those of weights too."""
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    subprocess.run([sys.executable, "-c", CODE, str(source), str(target)], env=environment, check=True)
    data = target.with_name(f"{target.name}.data")
    return target.read_bytes() + (data.read_bytes() if data.exists() else b"")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=pathlib.Path)
    differing = 0
    for path in parser.parse_args().models:
        with tempfile.TemporaryDirectory() as folder:
            one, two, three = (pathlib.Path(folder) / name / path.name for name in ("one", "two", "three"))
            for each in (one, two, three):
                each.parent.mkdir()
            first = written(path, one, "1")
            again = "the same" if written(one, two, "1") == first else "DIFFERENT"
            hashed = "the same" if written(path, three, "2") == first else "DIFFERENT"
        differing += "DIFFERENT" in (again, hashed)
        print(f"{path.name}: a second run {again}, with other hashes {hashed}", flush=True)
    return differing


if __name__ == "__main__":
    sys.exit(main())
