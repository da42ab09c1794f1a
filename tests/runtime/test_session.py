"""Sessions: what they say about a model, what they give, and how they refuse."""

import concurrent.futures
import pathlib

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from sample_models import from_text
from zoo import zoo_file

from onnxslim.errors import ProviderUnavailable, RunError
from onnxslim.runtime import session as module
from onnxslim.runtime.provider import device_name
from onnxslim.runtime.session import Session, TensorSpec, Threading, run_error
from onnxslim.runtime.target import Target, detect_target

CPU = Target("cpu", "test", "avx2", 1)
LINEAR = """
<ir_version: 10, opset_import: ["": 17]>
linear (float[N, 3] x, float[3, 2] w) => (float[N, 2] y, int64[N] best) {
    y = MatMul (x, w)
    best = ArgMax <axis = 1, keepdims = 0> (y)
}
"""
WEIGHTS = np.arange(6, dtype=np.float32).reshape(3, 2)
X = np.arange(12, dtype=np.float32).reshape(4, 3)


def linear() -> ir.Model:
    return from_text(LINEAR, w=WEIGHTS)


def test_specs_tell_types_and_symbolic_dimensions() -> None:
    session = Session.of(linear(), CPU)
    assert session.inputs == (TensorSpec("x", np.dtype(np.float32), ("N", 3)),)
    assert session.outputs[1] == TensorSpec("best", np.dtype(np.int64), ("N",))
    assert session.target == CPU


@pytest.mark.parametrize("optimize", [True, False])
def test_outputs_come_by_name(optimize: bool) -> None:
    session = Session.of(linear(), CPU, optimize=optimize)
    outputs = session.run({"x": X})
    np.testing.assert_allclose(outputs["y"], X @ WEIGHTS)
    assert list(session.run({"x": X}, ["best"])) == ["best"]
    level = session._runtime.get_session_options().graph_optimization_level  # nothing else shows it from outside
    assert (level == onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL) is not optimize


def test_a_path_is_opened_too(tmp_path) -> None:
    ir.save(linear(), tmp_path / "m.onnx")
    np.testing.assert_allclose(Session.of(tmp_path / "m.onnx").run({"x": X})["y"], X @ WEIGHTS)


@pytest.mark.parametrize("limit", [module.IN_MEMORY_LIMIT, 0])
def test_weights_on_disk_are_found_and_stay_there(tmp_path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    ir.save(linear(), tmp_path / "m.onnx", external_data="m.data", size_threshold_bytes=0)
    model = ir.load(tmp_path / "m.onnx")
    monkeypatch.setattr(module, "IN_MEMORY_LIMIT", limit)
    np.testing.assert_allclose(Session.of(model, CPU).run({"x": X})["y"], X @ WEIGHTS)
    assert isinstance(model.graph.initializers["w"].const_value, ir.ExternalTensor)


def test_a_model_in_memory_over_the_limit_goes_through_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IN_MEMORY_LIMIT", 0)
    model = linear()
    np.testing.assert_allclose(Session.of(model, CPU).run({"x": X})["y"], X @ WEIGHTS)
    assert not isinstance(model.graph.initializers["w"].const_value, ir.ExternalTensor)


WIDE = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,8] x, float[8,256] w) => (float[N,256] y) {
    y = MatMul (x, w) }"""


@pytest.mark.parametrize(("optimize", "pack"), [(True, True), (True, False), (False, True), (False, False)])
def test_large_weights_are_handed_over_as_they_are(monkeypatch: pytest.MonkeyPatch, optimize: bool, pack: bool) -> None:
    monkeypatch.setattr(module, "IN_MEMORY_LIMIT", 0)  # nothing is written, so nothing goes through a folder
    monkeypatch.setattr(module.tempfile, "TemporaryDirectory", None)
    weights = np.arange(-1024, 1024, dtype=np.float32).reshape(8, 256)
    model = from_text(WIDE, w=weights)
    held = model.graph.initializers["w"].const_value
    session = Session.of(model, CPU, optimize=optimize, pack=pack)
    assert model.graph.initializers["w"].const_value is held
    wanted = weights.copy()
    weights[:] = 7  # whoever still read here would give sevens: ONNX Runtime has a copy, so this memory may go
    np.testing.assert_array_equal(session.run({"x": np.eye(8, dtype=np.float32)})["y"], wanted)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int8])
@pytest.mark.parametrize("pack", [True, False])
def test_weights_of_any_type_are_handed_over(dtype: type, pack: bool) -> None:
    word = {np.float32: "float", np.float64: "double", np.float16: "float16", np.int8: "int8"}[dtype]
    weights = np.arange(-1024, 1024).reshape(8, 256).astype(dtype)
    model = from_text(
        f"""<ir_version: 8, opset_import: ["" : 17]> g ({word}[N,8] x, {word}[8,256] w, {word}[8,256] unused)
        => (float[N,256] y, {word}[8,256] w) {{ z = Cast <to = 1> (x)  v = Cast <to = 1> (w)  y = MatMul (z, v) }}""",
        w=weights,
        unused=weights,
    )
    outputs = Session.of(model, CPU, pack=pack).run({"x": np.eye(8, dtype=dtype)})
    np.testing.assert_array_equal(outputs["y"], weights.astype(np.float32))
    np.testing.assert_array_equal(outputs["w"], weights)


def test_several_threads_open_one_model() -> None:
    model = from_text(WIDE, w=np.ones((8, 256), np.float32))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        sessions = list(pool.map(lambda _: Session.of(model, CPU), range(24)))
    assert all((each.run({"x": np.ones((1, 8), np.float32)})["y"] == 8).all() for each in sessions)


def test_sequences_and_maps_come_back_as_python_objects(tmp_path) -> None:
    zipmap = onnx.helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[7, 9])
    split = onnx.helper.make_node("SplitToSequence", ["x"], ["s"], axis=0)
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 2])
    kind = onnx.helper.make_sequence_type_proto(
        onnx.helper.make_map_type_proto(
            onnx.TensorProto.INT64, onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [])
        )
    )
    tensors = onnx.helper.make_sequence_type_proto(onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None))
    outputs = [onnx.helper.make_value_info("y", kind), onnx.helper.make_value_info("s", tensors)]
    graph = onnx.helper.make_graph([zipmap, split], "zipmap", [x], outputs)
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "m.onnx")
    session = Session.of(tmp_path / "m.onnx", CPU)  # onnx_ir has no maps: such a model runs from its file
    assert [spec.dtype for spec in session.outputs] == [None, None]
    outputs = session.run({"x": np.array([[0.25, 0.75]], np.float32)})
    assert outputs["y"] == [{7: 0.25, 9: 0.75}]
    assert isinstance(outputs["s"], list)
    session.prepare({"x": np.ones((1, 2), np.float32)})()


def test_strings_go_in_and_out() -> None:
    model = from_text('<ir_version: 10, opset_import: ["": 17]> s (string[N] x) => (string[N] y) { y = Identity (x) }')
    assert Session.of(model, CPU).run({"x": np.array(["a", "b"], object)})["y"].tolist() == ["a", "b"]


def test_types_that_numpy_lacks_have_the_names_of_ml_dtypes() -> None:
    text = '<ir_version: 10, opset_import: ["": 17]> b (bfloat16[N] x) => (float[N] y) { y = Cast <to = 1> (x) }'
    assert Session.of(from_text(text), CPU).inputs[0].dtype == ml_dtypes.bfloat16


def test_an_input_with_a_default_may_be_given_or_left_out() -> None:
    model = from_text(
        '<ir_version: 10, opset_import: ["": 17]>d (float[2] x, float[2] b = {1, 2}) => (float[2] y) { y = Add (x, b) }'
    )
    session = Session.of(model, CPU)
    zeros, ones = np.zeros(2, np.float32), np.ones(2, np.float32)
    assert session.run({"x": zeros})["y"].tolist() == [1, 2]
    assert session.run({"x": zeros, "b": ones})["y"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("feeds", "outputs", "says"),
    [
        ({"x": X, "extra": X}, None, "no input 'extra'"),
        ({}, None, "nothing was given for the input 'x'"),
        ({"x": X}, ["nosuch"], "no output 'nosuch'"),
        ({"x": X.astype(np.float64)}, None, "ONNX Runtime says: Unexpected input data type"),
        ({"x": X[:, :2]}, None, "ONNX Runtime says: Got invalid dimensions"),
    ],
)
def test_what_does_not_fit_is_named(feeds, outputs, says: str) -> None:
    with pytest.raises(RunError, match=says) as caught:
        Session.of(linear(), CPU).run(feeds, outputs)
    assert "\n" not in caught.value.what


def test_a_prepared_run_raises_our_error_too() -> None:
    session = Session.of(linear(), CPU)
    with pytest.raises(RunError, match="no input"):
        session.prepare({"x": X, "z": X})
    with pytest.raises(RunError, match="invalid dimensions"):
        session.prepare({"x": X[:, :2]})()


def test_a_model_that_onnx_runtime_refuses(tmp_path) -> None:
    text = (
        '<ir_version: 10, opset_import: ["": 17, "no.such": 1]> bad (float[N] x) => (float[N] y) { y = no.such.Op (x) }'
    )
    with pytest.raises(RunError, match="ONNX Runtime says") as caught:
        Session.of(from_text(text), CPU)
    assert caught.value.where == "bad"
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(RunError, match="ONNX Runtime says: Protobuf parsing failed"):
        Session.of(tmp_path / "m.onnx", CPU)


def test_only_the_first_line_of_a_message_is_told() -> None:
    error = run_error(RuntimeError("[ONNXRuntimeError] : 1 : FAIL : first\nsecond"), "here")
    assert (error.what, error.where) == ("ONNX Runtime says: first", "here")
    assert run_error(RuntimeError("")).what == "ONNX Runtime says: RuntimeError"


def test_a_failing_model_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    text = """
    <ir_version: 10, opset_import: ["": 17]>
    bad (float[N] x, int64[K] s) => (float[M] y) { y = Reshape (x, s) }
    """
    with pytest.raises(RunError):
        Session.of(from_text(text), CPU).run({"x": np.ones(3, np.float32), "s": np.array([2], np.int64)})
    assert capfd.readouterr() == ("", "")


def test_cuda_without_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ProviderUnavailable, match="without CUDA"):
        Session.of(linear(), Target("cuda", "", "avx2", 1))


@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
def test_cuda_that_does_not_start_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    if device_name("cuda") is not None:
        pytest.skip("it starts here")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(ProviderUnavailable, match="did not start"):
        Session.of(linear(), Target("cuda", "", "avx2", 1))


def test_bound_runs_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The binding itself is the same for every device: here it is the CPU, below the real one."""
    session = Session.of(linear(), CPU)
    bound = session._bound
    devices = iter(["cpu", "cpu", "cpu", "nosuch"])
    session._device = "cuda"
    monkeypatch.setattr(session, "_bound", lambda feeds, outputs, device: bound(feeds, outputs, next(devices)))
    outputs = session.run({"x": X.T[:3].T}, ["best", "y"])
    np.testing.assert_allclose(outputs["y"], X @ WEIGHTS)
    assert list(outputs) == ["best", "y"]
    session.prepare({"x": X})()
    for feeds in ({"x": X[:, :2]}, {"x": X}):
        with pytest.raises(RunError) as failed:
            session.run(feeds, ["y"])
        assert failed.value.what.count("ONNX Runtime says") == 1
    assert not list(devices)


@pytest.mark.cuda
def test_cuda_gives_what_the_cpu_gives() -> None:
    if device_name("cuda") is None:
        pytest.skip("no CUDA device here")
    session = Session.of(linear(), detect_target("cuda"), optimize=False)
    np.testing.assert_allclose(session.run({"x": X})["y"], X @ WEIGHTS, rtol=1e-5)
    session.prepare({"x": X})()


@pytest.mark.zoo
def test_a_real_model_runs() -> None:
    session = Session.of(zoo_file("onnx", "cifar10_resnet20.onnx"))
    assert session.run({"input": np.zeros((2, 3, 32, 32), np.float32)})["logits"].shape == (2, 10)


def test_an_input_in_half_precision_takes_float32() -> None:
    text = '<ir_version: 10, opset_import: ["": 17]> half (float16[N, 3] x) => (float16[N, 3] y) { y = Identity (x) }'
    session = Session.of(ir.from_onnx_text(text), CPU)
    assert session.run({"x": X})["y"].dtype == np.float16
    session.prepare({"x": X})()


def test_what_is_not_timed_takes_the_memory_of_one_run() -> None:
    """A plan of the memory of the first run is taken beside it in the second; those who time have what users have."""

    def planned(threading: Threading, profile: pathlib.Path | None = None) -> bool:
        config = module.SessionConfig(optimize=True, pack=True, profile=profile, threading=threading)
        return bool(config.options(Target("cpu", "cpu", "none", 1)).enable_mem_pattern)

    assert [planned(threading) for threading in Threading] == [False, True, True]
    assert planned(Threading.SLEEPING, pathlib.Path("profile"))
