"""The child process of `onnxslim.data.trial_run`: reads a request from standard input and runs the model."""

from __future__ import annotations

import json
import sys

from onnxslim.data.trial_run import run_once
from onnxslim.errors import OnnxslimError


def main() -> int:
    """Run one request and return the exit code, 1 if the model raises an error."""
    try:
        run_once(json.load(sys.stdin))
    except OnnxslimError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
