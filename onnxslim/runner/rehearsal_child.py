"""The process in which `onnxslim.runner.rehearsal` runs a model: reads a request from standard input, and survives."""

from __future__ import annotations

import json
import sys

from onnxslim.errors import OnnxslimError
from onnxslim.runner.rehearsal import run_once


def main() -> int:
    """Serve one request; return the exit code."""
    try:
        run_once(json.load(sys.stdin))
    except OnnxslimError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
