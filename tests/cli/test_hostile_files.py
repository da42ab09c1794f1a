"""Files that somebody made to do harm, as users would run them: one clear error or a right result, and nothing else."""

from __future__ import annotations

import pathlib
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
from zoo import ZOO

HOSTILE = ZOO.parent / "cases" / "hostile"

REFUSED = {
    "constant_odd_attribute": ["(Constant) holds no constant", "'wert'"],
    "function_external": ["weights are missing: w.bin"],
    "input_huge": ["no made-up sample runs", "bytes of memory"],
    "opset_foreign_only": ["(Relu)", "does not say of which version"],
    "sparse_beyond": ["'w'", "lies outside its shape"],
    "sparse_external": ["weights are missing: secret.bin"],
    "sparse_huge": ["'w'", "MiB"],
    "undefined_dtype": ["'w'", "no element type"],
    "undefined_input": ["(Add) reads 'nowhere', which nothing makes"],
    "../cycle": ["(Add) reads 'y'", "circle"],
    "../dangling_input": ["(Add) reads 'nowhere', which nothing makes"],
    "sigfpe": ["SIGFPE"],
    "escape_names": ["ONNX Runtime says"],
    "markup_op": ["ONNX Runtime says", "[/red]"],
    "gather_hang": ["ONNX Runtime says"],
}
"""Files that cannot be run, and words of the error."""

RUN_ONLY = {"input_huge", "sigfpe", "escape_names", "markup_op", "gather_hang"}
"""Of these: what is found when they are run; they can be opened."""

RIGHT = ("inputs_1100", "output_named_like_input", "utf8_doc")
"""Files that are odd, and run."""


@pytest.fixture
def hostile(tmp_path: pathlib.Path):
    def copy(name: str) -> pathlib.Path:
        source = HOSTILE / f"{name}.onnx"
        if not source.exists():
            pytest.skip("the cases are not here (set ONNXSLIM_ZOO to the folder beside theirs)")
        return pathlib.Path(shutil.copy(source, tmp_path / "model.onnx"))

    return copy


def unharmed(answer) -> None:
    assert "bug in onnxslim" not in answer.err
    assert "Traceback" not in answer.err
    assert "\x1b" not in answer.out + answer.err
    assert answer.code in (0, 1)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_run_is_refused_with_the_reason(onnxslim, hostile, name: str) -> None:
    path = hostile(name)
    answer = onnxslim("optimize", path, "--no-measure")
    unharmed(answer)
    assert answer.code == 1
    assert answer.out == ""
    assert "hint: " in answer.err
    for word in REFUSED[name]:
        assert word in answer.err
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    inspected = onnxslim("inspect", path)
    unharmed(inspected)
    assert inspected.code == (0 if name in RUN_ONLY else 1), inspected.err


@pytest.mark.parametrize("name", RIGHT)
def test_what_runs_is_written_and_runs(onnxslim, hostile, name: str) -> None:
    path = hostile(name)
    answer = onnxslim("optimize", path, "--no-measure", "-o", path.with_name("out.onnx"))
    unharmed(answer)
    assert answer.code == 0, answer.err
    before, after = (onnxruntime.InferenceSession(each) for each in (path, path.with_name("out.onnx")))
    feeds = {each.name: np.ones((2, each.shape[1]), np.float32) for each in before.get_inputs()}
    for one, other in zip(before.run(None, feeds), after.run(None, feeds), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["string_bomb", "sum_bomb"])
def test_bombs_do_not_go_off(onnxslim, hostile, name: str) -> None:
    path = hostile(name)
    unharmed(onnxslim("inspect", path))
    answer = onnxslim("optimize", path, "--no-check", "-o", path.with_name("out.onnx"))
    unharmed(answer)
    assert answer.code == 0, answer.err
    assert path.with_name("out.onnx").stat().st_size < path.stat().st_size + (2 << 20)


def test_sparse_tensors_read_nothing_from_the_current_folder(
    onnxslim, hostile, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = hostile("sparse_external")
    here = tmp_path / "here"
    here.mkdir()
    (here / "secret.bin").write_bytes(bytes(1024))
    monkeypatch.chdir(here)
    answer = onnxslim("optimize", path, "--no-check", "-o", tmp_path / "out.onnx")
    assert "weights are missing: secret.bin" in answer.err
    assert not (tmp_path / "out.onnx").exists()


def test_weights_of_local_functions_are_written(onnxslim, hostile, tmp_path: pathlib.Path) -> None:
    path = hostile("function_external")
    np.arange(16, dtype=np.float32).tofile(path.with_name("w.bin"))
    out = tmp_path / "elsewhere" / "out.onnx"
    out.parent.mkdir()
    assert onnxslim("optimize", path, "--no-measure", "-o", out).code == 0
    (given,) = onnxruntime.InferenceSession(out).run(None, {"x": np.eye(4, dtype=np.float32)})
    np.testing.assert_array_equal(given, np.arange(16, dtype=np.float32).reshape(4, 4))


@pytest.mark.parametrize("command", ["inspect", "optimize"])
def test_names_do_not_reach_the_terminal_as_they_are(onnxslim, hostile, command: str) -> None:
    for name in ("escape_names", "markup_op"):
        path = hostile(name)
        for more in ([], ["--json"]):
            answer = onnxslim(command, path, *(["--no-check"] if command == "optimize" else []), *more)
            unharmed(answer)
            assert answer.code == 0, answer.err
            assert "\x1b" not in answer.out
        assert onnx.load(path).graph.node[0].op_type in ("\x1b[31mOp\nerror: fake", "[/red]")
