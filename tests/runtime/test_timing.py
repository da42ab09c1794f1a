"""Timing in processes of their own: real ones on tiny models, and every way in which they can fail."""

from __future__ import annotations

import io
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Iterator, Mapping

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from sample_models import from_text

from onnxslim.errors import RunError
from onnxslim.runtime import timing, timing_child
from onnxslim.runtime.child import python_command
from onnxslim.runtime.latency import ColdStart
from onnxslim.runtime.session import Session, Threading, write_model
from onnxslim.runtime.target import Target
from onnxslim.runtime.timing import (
    TimedProcess,
    TimedSession,
    cold_start,
    compare_latency,
    measure_latency,
    opened,
    time_layers,
    time_models,
    timed_process,
)
from onnxslim.runtime.timing_child import serve, wait_until_idle
from onnxslim.runtime.turns import OF_LAYERS, OF_MODELS, Turns

CPU = Target("cpu", "test", "avx2", 1)
FEEDS = {"x": np.zeros((4, 3), np.float32)}
TEXT = '<ir_version: 10, opset_import: ["": 17]> r (float[N, 3] x) => (float[N, 3] y) { y = Relu (x) }'
KINDS = '<ir_version: 10, opset_import: ["": 17]> k (KIND[N] x) => (KIND[N] y) { y = Identity (x) }'


@pytest.fixture
def temporary(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pathlib.Path]:
    """The folder of temporary files, empty before and after."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert not list(folder.iterdir())


def weighty(value: float = 2.0) -> ir.Model:
    """Return a model with a weight of 8 KB in memory."""
    text = '<ir_version: 10, opset_import: ["": 17]> w (float[N, 3] x) => (float[N, 700] y) <float[3, 700] w = {0}>'
    model = from_text(text.replace("{0}", "{" + ", ".join(["0"] * 2100) + "}") + " { y = MatMul (x, w) }")
    model.graph.initializers["w"].const_value = ir.tensor(np.full((3, 700), value, np.float32), name="w")
    return model


def test_two_models_in_memory_are_compared(temporary: pathlib.Path) -> None:
    paired = compare_latency(from_text(TEXT), weighty(), FEEDS, CPU, generator=np.random.default_rng(0), seconds=0.1)
    assert 0 < paired.ratio.low <= paired.ratio.value <= paired.ratio.high
    for latency in (paired.before, paired.after):
        times = latency.times
        assert 0 < times.quantiles[0] <= times.p50 <= times.p95 <= times.p99 <= times.quantiles[-1]


def test_processes_are_started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    colds = iter([ColdStart(load, load / 10) for load in (1.0, 50.0, 2.0, 70.0, 9.0, 60.0)])
    monkeypatch.setattr(TimedProcess, "wait", lambda self: None)
    monkeypatch.setattr(TimedProcess, "open", lambda self: next(colds))
    monkeypatch.setattr(TimedProcess, "block", lambda self, seconds: [0.001])
    monkeypatch.setattr(timing, "module_command", lambda module: python_command("input()"))
    monkeypatch.setattr("onnxslim.runtime.latency.MOST_PAIRS", 5)
    generator = np.random.default_rng(0)
    paired = compare_latency(from_text(TEXT), from_text(TEXT), FEEDS, CPU, generator=generator, starts=3)
    assert (paired.before.cold, paired.after.cold) == (ColdStart(2.0, 0.2), ColdStart(60.0, 6.0))
    with pytest.raises(StopIteration):
        next(colds)


def test_a_file_is_timed_where_it_lies(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ir.save(from_text(TEXT), tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    path = pathlib.Path("model.onnx")
    assert measure_latency(path, FEEDS, CPU, seconds=0.05).times.p50 > 0
    start = cold_start(path, FEEDS, CPU)
    assert start.load_ms > 0
    assert start.first_run_ms > 0


@pytest.mark.parametrize(
    ("kind", "array"), [("string", np.array(["a", "ö"], object)), ("bfloat16", np.ones(2, ml_dtypes.bfloat16))]
)
def test_all_kinds_of_inputs_reach_the_process(kind: str, array: object, temporary: pathlib.Path) -> None:
    model = from_text(KINDS.replace("KIND", kind))
    assert measure_latency(model, {"x": array}, CPU, seconds=0.05).times.p50 > 0


def test_sessions_are_timed_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "Child", None)
    session = Session.of(from_text(TEXT))
    paired = compare_latency(session, session, FEEDS, CPU, generator=np.random.default_rng(0), seconds=0.1)
    assert paired.ratio.value > 0


def test_sessions_are_timed_once_for_all_the_time_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[float] = []

    def time_pairs(*timers: TimedSession, seconds: float) -> list[tuple[list[float], list[float]]]:
        lengths.append(seconds)
        return [([0.001], [0.001])] * 5

    monkeypatch.setattr(timing, "time_pairs", time_pairs)
    session = Session.of(from_text(TEXT))
    compare_latency(session, session, FEEDS, CPU, generator=np.random.default_rng(0), seconds=0.6, starts=3)
    assert lengths == [0.6]


def test_on_cuda_no_second_process_holds_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "Child", None)
    monkeypatch.setattr(Session, "of", lambda model, target: "a session")
    with opened((from_text(TEXT),), FEEDS, Target("cuda", "test", "avx2", 1)) as ((timer,), cold):
        assert cold == (None,)
        assert timer == TimedSession("a session", FEEDS)


def test_weights_on_disk_are_not_copied(tmp_path: pathlib.Path, temporary: pathlib.Path) -> None:
    ir.save(weighty(), tmp_path / "model.onnx", external_data="weights", size_threshold_bytes=0)
    model = ir.load(tmp_path / "model.onnx")
    (tmp_path / "out").mkdir()
    path, weights = write_model(model, tmp_path / "out")
    assert weights == str(tmp_path)
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["model.onnx"]
    assert path.stat().st_size < 1000
    (output,) = Session.of(path, CPU, weights_folder=weights).run({"x": np.ones((1, 3), np.float32)}).values()
    assert np.array_equal(output, np.full((1, 700), 6, np.float32))
    assert measure_latency(model, FEEDS, CPU, seconds=0.05).times.p50 > 0


def test_large_weights_in_memory_go_into_a_file_of_their_own(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxslim.runtime.session.IN_MEMORY_LIMIT", 1000)
    path, weights = write_model(weighty(), tmp_path)
    assert weights is None
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert Session.of(path, CPU).run(FEEDS)["y"].shape == (4, 700)


def test_a_model_that_does_not_run_is_an_error(temporary: pathlib.Path) -> None:
    with pytest.raises(RunError, match="nothing was given for the input 'x'"):
        measure_latency(from_text(TEXT), {}, CPU)
    broken = from_text(TEXT)
    broken.graph[0].op_type = "NoSuchOperator"
    with pytest.raises(RunError, match="ONNX Runtime says"):
        cold_start(broken, FEEDS, CPU)


SAY_READY = "print('{\"ready\": true}', flush=True)\n"
OPENED = SAY_READY + "import sys, time, os\nsys.stdin.readline()\n"
OPENED += 'print(\'{"load_ms": 1, "first_run_ms": 1}\', flush=True)\nsys.stdin.readline()\n'


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise SystemExit('no memory')", "the process that times the model failed: no memory"),
        (OPENED + "raise MemoryError('full')", "the process that times the model failed: MemoryError: full"),
        (OPENED + "os.abort()", "the process that times the model was ended by SIGABRT"),
        (OPENED + "time.sleep(600)", "the process that times the model took longer than"),
        ("import time; time.sleep(600)", "the process that times the model took longer than"),
        (SAY_READY + "import time; time.sleep(600)", "the process that times the model took longer than"),
    ],
)
def test_a_process_that_dies_or_hangs_is_an_error_and_gone(
    code: str, message: str, temporary: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("START", "OPEN", "RESPONSE"):
        monkeypatch.setattr(timing, name, 5.0 if "sleep" not in code else 1.0)
    monkeypatch.setattr(timing, "SLACK", 1.0)
    monkeypatch.setattr(timing, "module_command", lambda module: python_command(code))
    before = children()
    with pytest.raises(RunError, match=message):
        measure_latency(from_text(TEXT), FEEDS, CPU, seconds=0.1)
    assert children() == before


def test_ctrl_c_leaves_no_process_and_no_file(temporary: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: TimedProcess, seconds: float) -> list[float]:
        raise KeyboardInterrupt

    monkeypatch.setattr(TimedProcess, "block", interrupted)
    before = children()
    with pytest.raises(KeyboardInterrupt):
        measure_latency(from_text(TEXT), FEEDS, CPU)
    assert children() == before


def children() -> list[str]:
    """Return the numbers of this process's children, where the system tells."""
    folder = pathlib.Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    return folder.read_text().split() if folder.exists() else []


class Threads:
    """Threads that spin for some time after work."""

    def __init__(self, spin: float) -> None:
        self.now, self.spin = 0.0, spin

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def work(self) -> float:
        return min(self.now, self.spin)


@pytest.mark.parametrize(("spin", "waits"), [(0.0, 0.0), (0.04, 0.04), (1e9, timing_child.LONGEST_SPIN)])
def test_silence_is_waited_for(spin: float, waits: float) -> None:
    threads = Threads(spin)
    wait_until_idle(threads.work, lambda: threads.now, threads.sleep, lambda: False)
    assert waits <= threads.now <= waits + 4 * timing_child.NAP


def test_a_thread_that_waits_for_a_core_is_not_silent() -> None:
    threads = Threads(0.0)
    wait_until_idle(threads.work, lambda: threads.now, threads.sleep, lambda: threads.now < 0.06)
    assert 0.06 <= threads.now <= 0.06 + 4 * timing_child.NAP


def test_a_thread_that_waits_for_a_core_is_told_from_one_that_sleeps(tmp_path: pathlib.Path) -> None:
    for name, state in (("1", "S"), ("2", "R")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "stat").write_text(f"{name} (a (thread)) {state} 1 2 3\n")
    assert timing_child.others_runnable(tmp_path)
    (tmp_path / "2" / "stat").write_text("2 (a thread) S 1 2 3\n")
    assert not timing_child.others_runnable(tmp_path)
    assert not timing_child.others_runnable(tmp_path / "missing")


def test_the_process_is_silent_when_it_answers(tmp_path: pathlib.Path) -> None:
    with timed_process(weighty(), {"x": np.zeros((2000, 3), np.float32)}, Target("cpu", "", "avx2", 2)) as process:
        process.wait()
        process.open()
        process.block(0.05)
        if not pathlib.Path("/proc").exists():
            pytest.skip("only Linux tells how long another process has worked")
        stat = pathlib.Path(f"/proc/{process._child._process.pid}/stat")
        worked = [int(each) for each in stat.read_text().rpartition(")")[2].split()[11:13]]
        time.sleep(0.3)
        later = [int(each) for each in stat.read_text().rpartition(")")[2].split()[11:13]]
    assert sum(later) - sum(worked) <= 2, "ticks of 10 ms"


def ask(*requests: Mapping[str, object]) -> list[dict[str, object]]:
    answers = io.StringIO()
    serve(io.StringIO("".join(json.dumps(request) + "\n" for request in requests)), answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def test_the_protocol(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing_child, "MOST_TIMES", 50)
    opening: list[object] = []
    real = Session.of
    monkeypatch.setattr(Session, "of", lambda *a, **o: opening.append(o["threading"]) or real(*a, **o))
    request = timing.written_request(from_text(TEXT), FEEDS, CPU, tmp_path)
    ready, start, block = ask({"do": "open", **request}, {"do": "block", "seconds": 0.05})
    assert ready == {"ready": True}
    assert start.keys() == {"load_ms", "first_run_ms"}
    assert 1 < len(block["times"]) <= 50
    assert opening == [Threading.SPINNING], "as users have it"
    (tmp_path / "model.onnx").write_bytes(b"no model")
    _, error = ask({"do": "open", **request})
    assert "ONNX Runtime says" in error["error"]


def test_layers_take_turns_in_one_process(temporary: pathlib.Path) -> None:
    broken = from_text(TEXT)
    broken.graph[0].op_type = "NoSuchOperator"
    many = {"x": np.zeros((50_000, 3), np.float32)}
    none, small, large = time_layers([(broken, FEEDS), (weighty(), FEEDS), (weighty(), many)], CPU)
    assert none is None
    assert 0 < small < large


def test_on_cuda_layers_run_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "Child", None)
    real = Session.of
    monkeypatch.setattr(Session, "of", lambda model, target, **options: real(model, CPU))
    broken = from_text(TEXT)
    broken.graph[0].op_type = "NoSuchOperator"
    none, some = time_layers([(broken, FEEDS), (from_text(TEXT), FEEDS)], Target("cuda", "test", "avx2", 1))
    assert none is None
    assert some > 0


def test_models_take_longer_turns_than_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Turns] = []
    monkeypatch.setattr(timing, "time_those_that_run", lambda prepare, models, turns: asked.append(turns) or [])
    for timer in (time_layers, time_models):
        timer([(from_text(TEXT), FEEDS)], Target("cuda", "test", "avx2", 1))
    assert asked == [OF_LAYERS, OF_MODELS]


def test_layers_share_their_threads_where_the_runtime_can(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening: list[Threading] = []
    real = Session.of

    def of(*arguments: object, threading: Threading, **options: object) -> Session:
        opening.append(threading)
        return real(*arguments, **options)

    monkeypatch.setattr(Session, "of", of)
    pools: list[int] = []
    runtime = timing_child.onnxruntime
    monkeypatch.setattr(
        runtime, "set_global_thread_pool_sizes", lambda intra, inter: pools.append(intra), raising=False
    )
    layer = timing.written_request(from_text(TEXT), FEEDS, CPU, tmp_path)
    request = {"do": "layers", "layers": [layer, layer], "threads": 2, "turns": [40, 0.5]}
    _, answer = ask(request)
    assert (len(answer["times"]), pools, opening) == (2, [2], [Threading.SHARED] * 2)
    monkeypatch.delattr(runtime, "set_global_thread_pool_sizes")
    opening.clear()
    ask(request)
    assert opening == [Threading.SLEEPING] * 2
    _, nodes = ask({"do": "nodes", "runs": 3, **layer})
    assert len(nodes["kernels"]) == 1
