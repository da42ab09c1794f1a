"""What ends the process that runs it is run in a process of its own first, and only that."""

from __future__ import annotations

import io
import json
import pathlib
import subprocess

import numpy as np
import onnx_ir as ir
import pytest
from sample_models import from_text
from zoo import MODELS

from onnxslim.data import trial_run
from onnxslim.data.trial_run import may_end_a_process, run_in_child, run_once
from onnxslim.errors import RunError
from onnxslim.model import canonicalize, open_model
from onnxslim.runtime.target import Target

CPU = Target("cpu", "test", "avx2", 1)


def dividing(op: str = "Div", kind: str = "int64", **initializers: np.ndarray) -> ir.Model:
    declared = ", ".join(f"{kind}[1] {name}" for name in "ab" if name not in initializers)
    model = from_text(
        f'<ir_version: 9, opset_import: ["": 17]> g ({declared or "float x"}) => ({kind}[1] c) {{ c = {op} (a, b) }}',
        **initializers,
    )
    canonicalize(model)
    return model


def test_only_divisions_of_integers_are_suspects() -> None:
    smallest = np.array([np.iinfo(np.int64).min])
    assert may_end_a_process(dividing())
    assert may_end_a_process(dividing("Mod"))
    assert may_end_a_process(dividing(b=np.array([-1])))
    assert may_end_a_process(dividing(b=np.array([0])))
    assert may_end_a_process(dividing(a=smallest, b=np.array([-1])))
    assert not may_end_a_process(dividing(a=smallest + 1, b=np.array([-1])))
    assert not may_end_a_process(dividing(b=np.array([2])))
    assert not may_end_a_process(dividing(kind="float"))
    assert not may_end_a_process(open_model(MODELS / "fashion_resnet8.onnx"))


@pytest.mark.parametrize("inputs", ["", "a", "a, b, a"])
def test_a_division_of_too_few_or_too_many_is_left_to_onnx_runtime(inputs: str) -> None:
    model = from_text(
        f'<ir_version: 9, opset_import: ["": 17]> g (int64[1] a, int64[1] b) => (int64[1] c) {{ c = Div ({inputs}) }}'
    )
    assert isinstance(may_end_a_process(model), bool)


def test_types_that_the_file_does_not_tell_are_inferred() -> None:
    text = """<ir_version: 9, opset_import: ["": 17]> g (float[2] x) => (float[2] y) {
        m = Sqrt (x) n = Exp (x) y = Div (m, n) }"""
    model = from_text(text)
    canonicalize(model)
    assert not may_end_a_process(model)


def test_a_process_that_ends_is_an_error(tmp_path: pathlib.Path) -> None:
    model = dividing(a=np.array([np.iinfo(np.int64).min]), b=np.array([-1]))
    with pytest.raises(RunError, match="SIGFPE") as caught:
        run_in_child(model, None, CPU)
    assert caught.value.hint


def test_samples_of_the_user_are_what_it_runs_on(tmp_path: pathlib.Path) -> None:
    data = tmp_path / "data.npz"
    np.savez(data, a=np.full((4, 1), np.iinfo(np.int64).min), b=np.full((4, 1), -1))
    text = "g (int64[N] a, int64[N] b) => (int64[N] c) { c = Div (a, b) }"
    model = from_text(f'<ir_version: 9, opset_import: ["": 17]> {text}')
    canonicalize(model)
    with pytest.raises(RunError, match="SIGFPE"):
        run_in_child(model, None, CPU, data=data)


def test_what_raises_or_takes_long_is_left_to_who_reports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    run_in_child(dividing(a=np.array([5]), b=np.array([0])), None, CPU)

    def slow(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("child", 1)

    monkeypatch.setattr(trial_run.subprocess, "run", slow)
    run_in_child(dividing(), None, CPU)


def test_what_the_child_does(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ir.save(dividing(b=np.array([2])), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", a=np.arange(3).reshape(3, 1))
    for data in (None, str(tmp_path / "data.npz")):
        request = {
            "model": str(tmp_path / "model.onnx"),
            "target": ["cpu", "test", "avx2", 1],
            "data": data,
            "preprocess": None,
        }
        run_once(request)
        monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(request)))
        assert trial_run.main() == 0
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps({**request, "model": str(tmp_path / "none.onnx")})))
    assert trial_run.main() == 1
