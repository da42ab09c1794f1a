"""Child processes of onnxslim, which import nothing from the current folder and never outlive their parent."""

from __future__ import annotations

import contextlib
import json
import pathlib
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from onnxslim.errors import RunError

SAFE_PATH = "import sys\nif sys.path and not sys.path[0]: del sys.path[0]\n"
"""Removes the current folder, which ``-c`` puts first, from the path, as ``python -P`` does since Python 3.11."""
RUN_MODULE = "import runpy\nsys.path.append(sys.argv.pop(1))\nrunpy.run_module(sys.argv[1], run_name='__main__')\n"
"""Runs a module of onnxslim; ``-m`` would search the current folder first."""
GRACE = 2.0
"""Seconds that a child which closed its standard output has to end by itself, with an exit code."""


def python_command(code: str, *arguments: str, python: str = sys.executable) -> list[str]:
    """Return the command of a Python process that runs `code` and imports nothing from the current folder."""
    return [python, "-c", SAFE_PATH + code, *arguments]


def module_command(module: str, *, python: str = sys.executable) -> list[str]:
    """Return the command of such a process that runs a module of onnxslim, as ``python -m`` does."""
    return python_command(RUN_MODULE, str(pathlib.Path(__file__).resolve().parents[2]), module, python=python)


def run_module(
    module: str, request: Mapping[str, Any], timeout: float, *, python: str = sys.executable
) -> subprocess.CompletedProcess[str]:
    """Run a module of onnxslim with a request on its standard input, as JSON, for at most `timeout` seconds.

    Raises:
        OSError: The process does not start.
        subprocess.TimeoutExpired: It took longer, and was killed.
    """
    command = module_command(module, python=python)
    return subprocess.run(
        command, input=json.dumps(request), capture_output=True, text=True, timeout=timeout, check=False
    )


def signal_name(number: int) -> str:
    """Return the name of a signal, with its usual cause."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
    return f"{name} (is the memory full?)" if name == "SIGKILL" else name


class Child:
    """A process that handles requests: one JSON object per line on its standard input, one per line on its output.

    It is a context manager: the process is killed at the end, also on an exception or Ctrl-C. If the parent is killed,
    the standard input of the child is closed, and the child ends as well.

    Args:
        command: Command of the process (see `module_command`).
        role: Name of the process in messages: "the process that times the model".

    Raises:
        RunError: The process does not start.
    """

    def __init__(self, command: list[str], role: str) -> None:
        self.role = role
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed in `close`
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
            )
        except OSError as error:
            self._errors.close()
            raise RunError(
                f"{role} did not start: {error}", hint="is there memory and room for another process?"
            ) from error
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._reader = threading.Thread(target=self._read, name="onnxslim-child", daemon=True)
        self._reader.start()

    def send(self, request: Mapping[str, Any]) -> None:
        """Send a request to the child.

        Raises:
            RunError: The child has ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._death() from error

    def receive(self, timeout: float) -> dict[str, Any]:
        """Return the response to the last request.

        Args:
            timeout: Seconds to wait.

        Raises:
            RunError: The child ended, did not respond in time (it is killed then), or responded with an error.
        """
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            self.close()
            raise RunError(f"{self.role} took longer than {timeout:g} s", hint="--no-measure times nothing") from None
        if not line:
            raise self._death()
        try:
            response = json.loads(line)
        except ValueError as error:
            self.close()
            raise RunError(
                f"{self.role} answered what is no JSON: {line[:80]!r}",
                hint="does something in this environment print when Python starts?",
            ) from error
        if "error" in response:
            raise RunError(str(response["error"]), hint=response.get("hint"))
        return dict(response)

    def close(self) -> None:
        """Kill the process, which has no state to save."""
        if self._errors.closed:
            return
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._reader.join()
        with contextlib.suppress(OSError):  # unread input
            self._process.stdin.close()
        self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            for line in self._process.stdout:
                self._lines.put(line)
        self._lines.put(b"")

    def _death(self) -> RunError:
        """Return an error with the last line that the process printed, or its signal or exit code."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE)
        code = self._process.poll()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        self.close()
        if code is not None and code < 0:
            return RunError(f"{self.role} was ended by {signal_name(-code)}")
        return RunError(f"{self.role} failed: {lines[-1] if lines else f'exit code {code}'}")
