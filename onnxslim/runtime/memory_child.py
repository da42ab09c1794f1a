"""The process in which `onnxslim.runtime.memory` runs a model: reads a request from standard input, prints its peak."""

from __future__ import annotations

import json
import pathlib
import sys

from onnxslim.errors import OnnxslimError
from onnxslim.runtime.memory import run_once


def peak_resident_bytes(status: pathlib.Path = pathlib.Path("/proc/self/status")) -> int | None:
    """Return the most memory that this process ever held, None where the platform does not tell.

    On Linux from VmHWM: `ru_maxrss` is inherited from the parent there, when that forks. macOS counts afresh, in bytes.
    """
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "darwin":
        import resource  # not on Windows

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None


def main() -> int:
    """Serve one request; return the exit code."""
    try:
        run_once(json.load(sys.stdin))
    except OnnxslimError as error:
        print(error.what, file=sys.stderr)
        return 1
    print(json.dumps({"peak": peak_resident_bytes()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
