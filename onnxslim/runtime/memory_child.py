"""The child process of `onnxslim.runtime.memory`: runs the model of a request, and prints its peak memory."""

from __future__ import annotations

import json
import pathlib
import sys

from onnxslim.errors import OnnxslimError
from onnxslim.runtime.memory import run_once


def peak_resident_bytes(status: pathlib.Path = pathlib.Path("/proc/self/status")) -> int | None:
    """Return the peak resident memory of this process in bytes; None if the platform does not report it.

    Linux reports it in VmHWM, since a forked child inherits `ru_maxrss` from its parent. On macOS `ru_maxrss` is in
    bytes and starts anew.
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
    """Run one request, print its peak memory as JSON, and return the exit code."""
    try:
        run_once(json.load(sys.stdin))
    except OnnxslimError as error:
        print(error.what, file=sys.stderr)
        return 1
    print(json.dumps({"peak": peak_resident_bytes()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
