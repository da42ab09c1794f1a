"""Samples made up from the model: what the graph says about its inputs must be obeyed, or the model would not run."""

import subprocess
import sys

import numpy as np
import onnx_ir as ir
import pytest
from sample_models import from_text
from zoo import MODELS, zoo_file

from onnxslim.data import synthetic_samples
from onnxslim.data.input_semantics import index_bound
from onnxslim.data.synthetic import FEWEST_TRIES, MOST_ELEMENTS, _by_rank, candidates, roles_of_dimensions
from onnxslim.errors import DataError, RunError
from onnxslim.runtime.session import Session, TensorSpec
from onnxslim.runtime.target import Target

CPU = Target("cpu", "test", "avx2", 1)
HEAD = '<ir_version: 10, opset_import: ["": 17]>'

EMBEDDING = f"""{HEAD}
embedding (int32[B, T] ids, int64[B, T] attention_mask, float[7, 4] table) => (float[B, T, 4] y) {{
    wide = Cast <to = 7> (ids)
    rows = Gather <axis = 0> (table, wide)
    axes = Constant <value_ints = [2]> ()
    mask = Cast <to = 1> (attention_mask)
    column = Unsqueeze (mask, axes)
    y = Mul (rows, column)
}}
"""


def embedding() -> ir.Model:
    return from_text(EMBEDDING, table=np.ones((7, 4), np.float32))


def test_indices_stay_below_what_they_index() -> None:
    samples = synthetic_samples(embedding(), count=20, target=CPU)
    assert (samples.synthetic, samples.count, samples.labelled) == (True, 20, False)
    ids = np.concatenate([batch.feeds["ids"].ravel() for batch in samples.batches()])
    assert ids.dtype == np.int32
    assert set(ids) == set(range(7))
    feeds = samples.first()
    assert feeds["attention_mask"].dtype == np.int64
    assert (feeds["attention_mask"] == 1).all()
    assert feeds["ids"].shape == feeds["attention_mask"].shape == (1, 16)


def test_the_seed_makes_the_samples() -> None:
    one, again, other = (synthetic_samples(embedding(), seed=seed, target=CPU).first(4)["ids"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    samples = synthetic_samples(embedding(), count=8, target=CPU)
    parts = samples.split(0.5)
    assert all(part.synthetic and part.count == 4 for part in parts)


def test_free_batches_are_joined() -> None:
    (batch,) = synthetic_samples(embedding(), count=5, target=CPU).batches(5)
    assert (batch.count, batch.feeds["ids"].shape) == (5, (5, 16))


def test_fixed_batches_stay_alone() -> None:
    model = from_text(f"{HEAD} r (float[2, 3] x) => (float[2, 3] y) {{ y = Relu (x) }}")
    batches = list(synthetic_samples(model, count=3, target=CPU).batches(8))
    assert [batch.feeds["x"].shape for batch in batches] == [(2, 3)] * 3


@pytest.mark.parametrize(
    ("body", "bound"),
    [
        ("y = Gather <axis = 1> (data, i)", 6),
        ("y = Gather <axis = -1> (data, i)", 6),
        ("y = Gather (data, i)", 5),
        ("y = GatherElements <axis = 1> (data, i)", 6),
        ("y = GatherND (data, i)", 5),
        ("a = Identity (i) b = Transpose (a) y = Gather <axis = 1> (data, b)", 6),
        ("a = Identity (data) y = Gather <axis = 1> (a, i)", 6),
        ("a = Concat <axis = 0> (i, i) y = Gather <axis = 1> (data, a)", 6),
        ("z = Gather <axis = 1> (data, i) y = Gather (data, i)", 5),
        ("values = Constant <value_ints = [0, 1]> () y = OneHot (i, depth, values)", 9),
        ("y = Add (i, i)", None),
        ("a = Relu (data) y = Gather (a, i)", None),
    ],
)
def test_bounds_are_found_behind_ops_that_carry_values(body: str, bound: int | None) -> None:
    text = f"{HEAD} g (int64[2, 2] i, float[5, 6] data, int64 depth) => (y) {{ {body} }}"
    model = from_text(text, data=np.ones((5, 6), np.float32), depth=np.array(9, np.int64))
    assert index_bound(model.graph.inputs[0]) == bound


def test_bounds_are_found_in_nested_subgraphs() -> None:
    text = f"""{HEAD}
    g (bool[1] c, int64[2] i, float[5, 6] data) => (float[2, 6] y) {{
        y = If (c) <
            then_branch = yes () => (float[2, 6] a) {{ a = Gather (data, i) }},
            else_branch = no () => (float[2, 6] b) {{ b = Gather (data, i) }}
        >
    }}
    """
    model = from_text(text, data=np.ones((5, 6), np.float32))
    assert index_bound(model.graph.inputs[1]) == 5
    assert synthetic_samples(model, target=CPU).first()["c"].tolist() == [True]


def test_sizes_that_run_are_found() -> None:
    text = f"""{HEAD}
    s (float[N, 3, H, W] x, float[1, 3, 48, 1] k) => (float[N, 3, H, W] y) {{ y = Add (x, k) }}
    """
    samples = synthetic_samples(from_text(text, k=np.ones((1, 3, 48, 1), np.float32)), target=CPU)
    assert samples.first()["x"].shape[:3] == (1, 3, 48)


def test_one_symbol_has_one_size_and_may_be_given() -> None:
    text = f"{HEAD} s (float[B, T] x, float[T, B] z) => (float[B, B] y) {{ y = MatMul (x, z) }}"
    feeds = synthetic_samples(from_text(text), target=CPU, sizes={"T": 5}).first()
    assert (feeds["x"].shape, feeds["z"].shape) == ((1, 5), (5, 1))


def test_a_sum_of_symbols_is_computed() -> None:
    text = f"""{HEAD}
    cache (float[B, 1] new, float[B, past] old, float[B, past+1] mask) => (float[B, M] y) {{
        all = Concat <axis = 1> (old, new)
        y = Add (all, mask)
    }}
    """
    model = from_text(text.replace("past+1", "total"))
    model.graph.inputs[2].shape = ir.Shape(["B", "past + 1"])
    feeds = synthetic_samples(model, target=CPU, sizes={"past": 6}).first()
    assert [feeds[name].shape for name in ("new", "old", "mask")] == [(1, 1), (1, 6), (1, 7)]


def test_a_state_has_its_batch_on_the_second_axis() -> None:
    inputs = (TensorSpec("x", np.dtype(np.float32), (None, "T")), TensorSpec("h", np.dtype(np.float32), (2, None, 8)))
    assert roles_of_dimensions(inputs) == {"x[0]": "batch", "T": "sequence", "h[1]": "batch"}


@pytest.mark.parametrize(
    ("name", "dtype", "shape", "values"),
    [
        ("sr", np.int64, (), {16000}),
        ("sampling_rate", np.int32, (), {16000}),
        ("count", np.int64, (), {1}),
        ("input_mask", np.float32, (50,), {1}),
        ("flag", np.bool_, (50,), {True}),
        ("kinds", np.int64, (50,), {0, 1}),
    ],
)
def test_the_likeliest_values(name: str, dtype, shape: tuple[int, ...], values: set[object]) -> None:
    draw = candidates(TensorSpec(name, np.dtype(dtype), shape), None)[0]
    assert set(np.ravel(draw(np.random.default_rng(0), shape)).tolist()) == values


def test_bytes_take_their_whole_range() -> None:
    (draw,) = candidates(TensorSpec("x", np.dtype(np.int8), (9999,)), None)
    drawn = draw(np.random.default_rng(0), (9999,))
    assert (drawn.min(), drawn.max()) == (-128, 127)


def test_segments_are_zeros() -> None:
    text = EMBEDDING.replace("ids", "token_type_ids")
    samples = synthetic_samples(from_text(text, table=np.ones((7, 4), np.float32)), target=CPU)
    assert (samples.first()["token_type_ids"] == 0).all()


def test_values_that_leave_the_outputs_finite_are_preferred() -> None:
    model = from_text(f"{HEAD} s (float[N, 30] x) => (float[N, 30] y) {{ y = Sqrt (x) }}")
    assert (synthetic_samples(model, target=CPU).first()["x"] >= 0).all()
    never = from_text(f"{HEAD} n (float[N, 2] x) => (float[N, 2] y) {{ z = Sub (x, x) y = Div (z, z) }}")
    assert synthetic_samples(never, target=CPU).first()["x"].shape == (1, 2)


def test_strings_are_made_up_too() -> None:
    model = from_text(f"{HEAD} s (string[N] x) => (string[N] y) {{ y = Identity (x) }}")
    session = Session.of(model, CPU)
    assert isinstance(synthetic_samples(model, session=session).first()["x"][0], str)


def test_a_model_that_never_runs_says_why() -> None:
    text = f"""{HEAD}
    never (int64[N, 5] x, int64[1] shape) => (int64[M] y) {{ y = Reshape (x, shape) }}
    """
    with pytest.raises(DataError, match="no made-up sample runs; ONNX Runtime says") as caught:
        synthetic_samples(from_text(text, shape=np.array([1009], np.int64)), target=CPU)
    assert "--data" in caught.value.hint
    unknown = f'{HEAD[:-2]}, "no.such": 1]> u (float[N] x) => (float[N] y) {{ y = no.such.Op (x) }}'
    with pytest.raises(RunError):
        synthetic_samples(from_text(unknown), target=CPU)


def test_an_input_that_is_no_tensor_cannot_be_made_up() -> None:
    with pytest.raises(DataError, match="no tensor"):
        candidates(TensorSpec("x", None, ()), None)


def test_choices_come_in_the_order_of_their_ranks() -> None:
    assert list(_by_rank([2, 3])) == [(0, 0), (0, 1), (1, 0), (0, 2), (1, 1), (1, 2)]
    assert list(_by_rank([])) == [()]


def test_the_model_that_ships_runs() -> None:
    path = MODELS / "fashion_resnet8.onnx"
    if not path.exists():
        pytest.skip("models/ is not there")
    model = ir.load(path)
    samples = synthetic_samples(model, count=2)
    assert Session.of(model).run(samples.first())["logits"].shape == (1, 10)


@pytest.mark.zoo
@pytest.mark.parametrize("name", ["cifar10_resnet20.onnx", "cifar10_resnet56.onnx"])
def test_real_models_run(name: str) -> None:
    model = ir.load(zoo_file("onnx", name))
    assert synthetic_samples(model, count=1).first()["input"].shape == (1, 3, 32, 32)


@pytest.mark.parametrize("rank", [3, 4, 5, 6, 8])
def test_a_sample_has_at_most_so_many_elements_whatever_the_rank(rank: int) -> None:
    names = ", ".join(f"S{axis}" for axis in range(rank))
    model = from_text(f"{HEAD} r (float[{names}] x) => (float[{names}] y) {{ y = Relu (x) }}")
    first = synthetic_samples(model, count=2, target=CPU).first()["x"]
    assert first.ndim == rank
    assert 1 < first.size <= MOST_ELEMENTS


def test_what_is_declared_is_drawn_however_large_it_is() -> None:
    model = from_text(f"{HEAD} r (float[N, 5000, 1000] x) => (float[N, 5000, 1000] y) {{ y = Relu (x) }}")
    assert synthetic_samples(model, count=1, target=CPU).first()["x"].shape == (1, 5000, 1000)


def test_memory_is_asked_for_before_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxslim.data.synthetic.free_bytes", lambda: 10_000)
    model = from_text(f"{HEAD} r (float[N, 50, 50] x) => (float[N, 50, 50] y) {{ y = Relu (x) }}")
    with pytest.raises(DataError, match="one sample takes 30,000 bytes of memory, and 10,000 are free"):
        synthetic_samples(model, count=1, target=CPU)
    # Where sizes are ours to choose, smaller ones do.
    model = from_text(f"{HEAD} r (float[N, A, B] x) => (float[N, A, B] y) {{ y = Relu (x) }}")
    assert synthetic_samples(model, count=1, target=CPU).first()["x"].size * 12 <= 10_000


@pytest.mark.skipif(sys.platform != "linux", reason="what is free is asked of Linux")
def test_what_is_free_obeys_the_limit_of_the_process() -> None:
    code = """
import resource
from onnxslim.data.room import free_bytes
before = free_bytes()
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
print(before, free_bytes())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert 0 < after <= min(before, 4 << 30)


def test_the_search_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    body = "s = Constant <value_ints = [7, 13]> () y = Reshape (x, s)"
    model = from_text(f"{HEAD} r (float[A,B,C,D] x) => (float[A,B,C,D] y) {{ {body} }}")
    tried = []
    honest = Session.run

    def counted(self: Session, *arguments: object) -> object:
        tried.append(arguments)
        return honest(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Session, "run", counted)
    monkeypatch.setattr("onnxslim.data.synthetic.SECONDS", 0.0)
    with pytest.raises(DataError, match="no made-up sample runs"):
        synthetic_samples(model, count=1, target=CPU)
    assert len(tried) == FEWEST_TRIES
