"""Processes of our own: what they import, how they answer, and that none is left behind."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from onnxslim.errors import RunError
from onnxslim.runtime.child import Child, module_command, python_command

ECHO = """
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    exec(request.get("code", ""))
    print(json.dumps(request), flush=True)
"""


def child(code: str = ECHO) -> Child:
    return Child(python_command(code), "the process of this test")


def ask(process: Child, timeout: float = 60.0, **request: object) -> dict[str, object]:
    process.send(request)
    return process.receive(timeout)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = pathlib.Path(f"/proc/{pid}/stat")
        return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_requests_are_answered_in_turn() -> None:
    with child() as process:
        assert ask(process, number=1) == {"number": 1}
        assert ask(process, text="\n\u2028é") == {"text": "\n\u2028é"}
    assert not alive(process._process.pid)


@pytest.mark.parametrize("name", ["numpy", "onnxruntime", "onnx_ir", "json", "runpy"])
def test_nothing_is_imported_from_the_current_folder(
    name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{name}.py").write_text("import pathlib\npathlib.Path('run').write_text('')\n")
    monkeypatch.chdir(tmp_path)
    subprocess.run(python_command(f"import {name}"), check=True)
    subprocess.run(module_command("onnxslim.runtime.memory"), input=b"{}", check=False, capture_output=True)
    assert not (tmp_path / "run").exists()


def test_our_modules_are_found_from_anywhere(tmp_path: pathlib.Path) -> None:
    done = subprocess.run(
        module_command("onnxslim.runtime.memory"),
        input="{}",
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "KeyError: 'feeds'" in done.stderr, "it reads its request"


def test_an_error_that_the_child_tells_is_raised() -> None:
    with child() as process, pytest.raises(RunError, match="this model does not run"):
        ask(process, error="this model does not run")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("sys.exit('out of ideas')", "the process of this test failed: out of ideas"),
        ("sys.exit(3)", "failed: exit code 3"),
        ("import os; os.abort()", "ended by SIGABRT"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended by SIGKILL .is the memory full"),
        ("print('no JSON', flush=True)", "answered what is no JSON: b'no JSON"),
    ],
)
def test_a_child_that_dies_says_why(code: str, message: str) -> None:
    process = child()
    with pytest.raises(RunError, match=message):
        ask(process, code=code)
    assert not alive(process._process.pid)


def test_nothing_can_be_sent_to_the_dead() -> None:
    process = child("")

    def talk() -> None:
        for _ in range(1000):
            process.send({"text": "x" * 1000})
            time.sleep(0.01)

    with pytest.raises(RunError, match="failed: exit code 0"):
        talk()


def test_a_child_that_hangs_is_killed() -> None:
    process = child()
    with pytest.raises(RunError, match=r"took longer than 0\.1 s"):
        ask(process, timeout=0.1, code="import time; time.sleep(600)")
    assert not alive(process._process.pid)


def test_a_command_that_does_not_start_is_an_error() -> None:
    with pytest.raises(RunError, match="the process of this test did not start"):
        Child(["no-such-python"], "the process of this test")


def test_an_exception_of_ours_ends_it() -> None:
    process = child()

    def interrupted() -> None:
        with process:
            process.send({"code": "import time; time.sleep(600)"})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not alive(process._process.pid)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_the_child_ends_where_its_parent_is_killed() -> None:
    code = (
        "import sys\nfrom onnxslim.runtime.child import Child, python_command\n"
        f"process = Child(python_command({ECHO!r}), 'it')\n"
        "print(process._process.pid, flush=True)\nsys.stdin.read()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdin is not None
    assert parent.stdout is not None
    with parent.stdin, parent.stdout:
        pid = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        for _ in range(1000):
            if not alive(pid):
                break
            time.sleep(0.01)
        else:
            pytest.fail("the child outlived its parent")
