from __future__ import annotations

import pathlib
import platform
import shlex

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxslim.commands.reproduction import reproduction

OPTIONS = {"--passes": "quant", "--data": None, "--max-drop": 0.01, "--verify": True, "--no-check": False}


def test_the_command_says_what_was_given():
    made = reproduction("optimize", [pathlib.Path("a b.onnx")], OPTIONS, recipe="seed = 0\n")
    assert made.command == "onnxslim optimize 'a b.onnx' --passes quant --max-drop 0.01 --verify"
    assert made.recipe == "seed = 0\n"
    assert made.versions["python"] == platform.python_version()
    assert {"onnxslim", "numpy", "onnx", "onnxruntime"} <= made.versions.keys()


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_a_shell_reads_names_as_they_are(name: str):
    command = reproduction("bench", [name], {"--data": name}).command
    assert command is not None
    assert shlex.split(command) == ["onnxslim", "bench", name, "--data", name]


def test_what_was_in_memory_has_no_command():
    made = reproduction("optimize", ["a.onnx"], {"--data": {"x": np.zeros(3)}})
    assert (made.command, made.command_reason) == (None, "--data was in memory")
    assert reproduction("optimize", [object()], {}).command_reason == "the model was in memory"
