"""Starts Python processes of our own, and sees to it that none imports from the current folder or is left behind."""

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
"""What ``python -P`` does, which Python 3.10 lacks: ``-c`` puts the current folder first, where anybody's files lie."""
RUN_MODULE = "import runpy\nsys.path.append(sys.argv.pop(1))\nrunpy.run_module(sys.argv[1], run_name='__main__')\n"
"""Run a module of ours, wherever our package lies; ``-m`` would look into the current folder first."""
GRACE = 2.0
"""Seconds that a child which closed its standard output has to end by itself, and so to say why."""


def python_command(code: str, *arguments: str, python: str = sys.executable) -> list[str]:
    """Return the command that runs `code` in a Python process which imports nothing from the current folder."""
    return [python, "-c", SAFE_PATH + code, *arguments]


def module_command(module: str, *, python: str = sys.executable) -> list[str]:
    """Return the command that runs a module of onnxslim in such a process, as ``python -m`` does."""
    return python_command(RUN_MODULE, str(pathlib.Path(__file__).resolve().parents[2]), module, python=python)


def signal_name(number: int) -> str:
    """Return the name of a signal, and what mostly sends it."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
    return f"{name} (is the memory full?)" if name == "SIGKILL" else name


class Child:
    """A process that answers requests: a JSON object per line on its standard input, one per line on its output.

    A context manager: at its end, an exception or Ctrl-C included, the process is gone. Should this process be killed,
    the child finds its standard input closed, and ends as well.

    Args:
        command: What to run (see `module_command`).
        role: What the process is, for messages: "the process that times the model".

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

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def send(self, request: Mapping[str, Any]) -> None:
        """Hand the child a request.

        Raises:
            RunError: It does not live any more.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._death() from error

    def receive(self, timeout: float) -> dict[str, Any]:
        """Return the answer to the request sent before.

        Args:
            timeout: Seconds to wait.

        Raises:
            RunError: The child died, did not answer in time (it is killed then), or answered with an error of its own.
        """
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            self.close()
            raise RunError(f"{self.role} took longer than {timeout:g} s", hint="--no-measure times nothing") from None
        if not line:
            raise self._death()
        try:
            answer = json.loads(line)
        except ValueError as error:
            self.close()
            raise RunError(
                f"{self.role} answered what is no JSON: {line[:80]!r}",
                hint="does something in this environment print when Python starts?",
            ) from error
        if "error" in answer:
            raise RunError(str(answer["error"]), hint=answer.get("hint"))
        return dict(answer)

    def close(self) -> None:
        """End the process; it has nothing that it must save."""
        if self._errors.closed:
            return
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._reader.join()
        with contextlib.suppress(OSError):  # what was not read yet
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
        """Return how the process ended: its last words, or the signal."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE)
        code = self._process.poll()
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip().splitlines()
        self.close()
        if code is not None and code < 0:
            return RunError(f"{self.role} was ended by {signal_name(-code)}")
        return RunError(f"{self.role} failed: {words[-1] if words else f'exit code {code}'}")
