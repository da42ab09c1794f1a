from __future__ import annotations

import os
import subprocess
import sys

import pytest

from onnxslim.cli.entry import main
from onnxslim.errors import ModelError, UsageError


def test_version_and_help(onnxslim):
    assert onnxslim("--version").out.startswith("onnxslim 0.")
    for arguments in ((), ("--help",), ("-h",)):
        answer = onnxslim(*arguments)
        assert answer.code == 0
        assert "optimize" in answer.out
        assert answer.err == ""
    assert "Examples" in onnxslim("optimize", "--help").out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["optmize"], ["there is no command optmize", "did you mean optimize?"]),
        (["xyzzy"], ["there is no command xyzzy", "the commands are: optimize, train, inspect"]),
        (["optimize", "m.onnx", "--dta", "x"], ["there is no option --dta", "did you mean --data?"]),
        (["optimize"], ["onnxslim optimize", "onnxslim optimize --help"]),
        (["optimize", "m.onnx", "--seed", "often"], ["--seed"]),
        (["bench", "m.onnx", "--seconds", "0"], ["--seconds"]),
        (["inspect", "a", "b"], ["b"]),
    ],
)
def test_wrong_usage_exits_with_2_and_the_same_look(onnxslim, arguments, words):
    answer = onnxslim(*arguments)
    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.startswith("error: ")
    assert "\n\nhint: " in answer.err
    for word in words:
        assert word in answer.err


def raising(monkeypatch, error):
    def command(*arguments, **options):
        raise error

    monkeypatch.setattr("onnxslim.commands.doctor.examine_machine", command)


def test_an_error_of_ours_is_place_what_and_hint(onnxslim, monkeypatch):
    raising(monkeypatch, ModelError("it is broken [bold]", where="a.onnx", hint="mend it"))
    answer = onnxslim("doctor")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err == "error: a.onnx: it is broken [bold]\n\nhint: mend it\n"
    raising(monkeypatch, UsageError("what?"))
    answer = onnxslim("doctor", "--json")
    assert (answer.code, answer.out, answer.err) == (2, "", "error: what?\n")


def test_a_bug_is_said_to_be_one_and_shows_its_traceback_on_demand(onnxslim, monkeypatch):
    raising(monkeypatch, ZeroDivisionError("division by zero\nand more"))
    answer = onnxslim("doctor")
    assert answer.code == 1
    assert answer.err.startswith("error: bug in onnxslim: ZeroDivisionError: division by zero\n\nhint: please report")
    assert "Traceback" not in answer.err
    monkeypatch.setenv("ONNXSLIM_TRACEBACK", "1")
    assert "Traceback" in onnxslim("doctor").err
    monkeypatch.delenv("ONNXSLIM_TRACEBACK")
    raising(monkeypatch, ValueError())
    assert "ValueError: no message" in onnxslim("doctor").err


def test_an_interrupt_and_an_exhausted_memory_are_no_bugs(onnxslim, monkeypatch):
    for error, word in ((KeyboardInterrupt(), "interrupted"), (MemoryError(), "out of memory")):
        raising(monkeypatch, error)
        answer = onnxslim("doctor")
        assert answer.code == 1
        assert answer.err.startswith(f"error: {word}\n\nhint: ")


def test_an_interrupt_outside_a_command_reads_the_same(onnxslim, monkeypatch):
    def interrupted(distribution):
        raise KeyboardInterrupt

    monkeypatch.setattr("onnxslim.cli.entry.installed", interrupted)
    answer = onnxslim("doctor")
    assert (answer.code, answer.err.splitlines()[0]) == (1, "error: interrupted")


def test_the_other_onnxslim_is_warned_of_on_every_run(onnxslim, monkeypatch):
    monkeypatch.setattr("onnxslim.cli.entry.installed", lambda distribution: "0.1.98")
    answer = onnxslim("--version")
    assert answer.code == 0
    assert answer.err.startswith("warning: the distribution onnxslim 0.1.98, another project")
    assert answer.out.startswith("onnxslim 0.")


def test_main_exits_with_the_code():
    with pytest.raises(SystemExit) as raised:
        main(["xyzzy"])
    assert raised.value.code == 2


def test_help_does_not_load_onnx_runtime():
    program = """
import sys
from onnxslim.cli.entry import run
code = run(["--help"])
heavy = {"onnxruntime", "onnx", "numpy", "onnx_ir"} & set(sys.modules)
sys.exit(f"loaded {heavy}" if heavy else code)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_leaves_is_no_error():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "onnxslim", "doctor", "--json"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_passes_complete_in_the_shell():
    environment = {**os.environ, "_ONNXSLIM_COMPLETE": "complete_bash", "COMP_WORDS": "onnxslim opt", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "onnxslim"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["optimize"]
    assert done.stderr == ""
