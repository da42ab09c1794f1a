"""The process in which `onnxslim.data.trial_run` runs a model: reads a request from standard input, and survives."""

from __future__ import annotations

import json
import sys

from onnxslim.data.trial_run import run_once
from onnxslim.errors import OnnxslimError


def main() -> int:
    """Serve one request; return the exit code."""
    try:
        run_once(json.load(sys.stdin))
    except OnnxslimError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
