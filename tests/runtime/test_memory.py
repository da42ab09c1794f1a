"""Peak memory: a real child process, and every way in which it can fail."""

import io
import json
import pathlib
import subprocess
import sys

import numpy as np
import onnx_ir as ir
import pytest
from sample_models import from_text

from onnxslim.runtime import memory
from onnxslim.runtime.memory import peak_memory, run_once
from onnxslim.runtime.target import Target

CPU = Target("cpu", "test", "avx2", 1)
MEGABYTES = 48


@pytest.fixture
def growing(tmp_path: pathlib.Path) -> pathlib.Path:
    """A model that writes 48 MB out of a handful of bytes."""
    text = """
    <ir_version: 10, opset_import: ["": 17]>
    growing (int64[1] n, string[1] note) => (float[M] y, string[1] said) {
        t = ConstantOfShape <value = float[1] {1.5}> (n)
        y = Neg (t)
        said = Identity (note)
    }
    """
    ir.save(from_text(text), tmp_path / "growing.onnx")
    return tmp_path / "growing.onnx"


@pytest.mark.skipif(
    sys.platform == "win32", reason="Windows does not tell a process's peak through the standard library"
)
def test_what_a_run_allocates_is_counted(growing: pathlib.Path) -> None:
    feeds = {"n": np.array([MEGABYTES * 2**20 // 4]), "note": np.array(["a"], object)}
    measured = peak_memory(growing, feeds, CPU)
    # two tensors of 48 MB; what else a session takes is a few MB, and it may reuse one for the other
    assert measured.reason is None
    assert MEGABYTES * 2**20 < measured.value < 3 * MEGABYTES * 2**20


def test_a_model_that_does_not_run_is_a_reason(tmp_path: pathlib.Path) -> None:
    measured = peak_memory(tmp_path / "missing.onnx", {}, CPU)
    assert measured.value is None
    assert "failed: ONNX Runtime says" in measured.reason


def test_a_child_that_takes_too_long_is_a_reason(growing: pathlib.Path) -> None:
    assert "longer than 0.01 s" in peak_memory(growing, {}, CPU, timeout=0.01).reason


def test_a_child_that_does_not_start_is_a_reason(growing: pathlib.Path) -> None:
    assert "did not start" in peak_memory(growing, {}, CPU, command="no-such-python").reason


def test_a_child_that_dies_is_a_reason(growing: pathlib.Path, tmp_path: pathlib.Path) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nexit 3\n")
    script.chmod(0o755)
    assert "exit code 3" in peak_memory(growing, {}, CPU, command=str(script)).reason


def test_a_platform_that_does_not_tell_is_a_reason(growing: pathlib.Path, tmp_path: pathlib.Path) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\ncat > /dev/null\necho '{\"peak\": null}'\n")
    script.chmod(0o755)
    assert "does not tell" in peak_memory(growing, {}, CPU, command=str(script)).reason


def test_the_peak_is_read_from_where_linux_shows_it(tmp_path: pathlib.Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmHWM:\t    1234 kB\nVmRSS:\t 1000 kB\n")
    assert memory.peak_resident_bytes(status) == 1234 * 1024


def test_without_a_counter_there_is_no_peak(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "status").write_text("Name:\tpython\n")
    monkeypatch.setattr(sys, "platform", "win32")
    assert memory.peak_resident_bytes(tmp_path / "status") is None
    assert memory.peak_resident_bytes(tmp_path / "missing") is None


def test_macos_counts_in_bytes(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(resource, "getrusage", lambda who: type("Usage", (), {"ru_maxrss": 4096})())
    assert memory.peak_resident_bytes(tmp_path / "missing") == 4096


def test_the_child_serves_a_request(growing, tmp_path, monkeypatch, capsys) -> None:
    np.savez(tmp_path / "feeds.npz", np.array([8]), np.array(["a"]))
    request = {
        "model": str(growing),
        "feeds": str(tmp_path / "feeds.npz"),
        "names": ["n", "note"],
        "target": ["cpu", "", "avx2", 1],
    }
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(request)))
    assert memory.main() == 0
    assert json.loads(capsys.readouterr().out)["peak"] > 0
    run_once({**request, "model": None})
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps({**request, "names": ["n"]})))
    assert memory.main() == 1
    assert "nothing was given for the input 'note'" in capsys.readouterr().err


RISE = """
import numpy as np
from onnxslim.runtime.memory import MemoryRise
before = np.ones(64 * 2**20, np.uint8)
del before
rise = MemoryRise()
first = rise.measured().value
held = np.ones(32 * 2**20, np.uint8)
del held
print(first, rise.measured().value)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux begins the peak of a process anew")
def test_memory_rises_by_what_is_held_meanwhile_and_not_by_what_was_before() -> None:
    # in a process of its own: what others leave behind may be freed in the middle
    told = subprocess.run([sys.executable, "-c", RISE], stdout=subprocess.PIPE, text=True, check=True).stdout
    first, whole = map(float, told.split())
    assert first < 16 * 2**20
    assert 24 * 2**20 < whole < 56 * 2**20


def test_where_a_peak_does_not_begin_anew_a_rise_is_not_known(tmp_path: pathlib.Path) -> None:
    measured = memory.MemoryRise(tmp_path / "missing").measured()
    assert measured.value is None
    assert "does not tell" in measured.reason
    (tmp_path / "clear_refs").touch()
    (tmp_path / "status").write_text("VmHWM:\t    1000 kB\n")
    rise = memory.MemoryRise(tmp_path)
    (tmp_path / "status").write_text("VmHWM:\t    1500 kB\n")
    assert rise.measured().value == 500 * 1024
