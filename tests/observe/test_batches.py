"""How many samples run at once is bounded by what they take, whatever the model is like."""

from __future__ import annotations

import numpy as np
import pytest
from sample_models import from_text

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.data import open_samples
from onnxslim.observe import batches
from onnxslim.runtime.session import TensorSpec

COUNT = 40
BYTES, KEPT_BYTES = 6_400, 25_600


@pytest.fixture(autouse=True)
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BYTES", BYTES)
    monkeypatch.setattr(batches, "KEPT_BYTES", KEPT_BYTES)


def size_of(text: str, shape: tuple[int, ...], **options: object) -> int:
    model = from_text(f'<ir_version: 8, opset_import: ["" : 17]> g {text}')
    infer_shapes(model)
    declared = ("N", *shape[1:])
    samples = open_samples(
        {"x": np.zeros((COUNT, *shape[1:]), np.float32)}, [TensorSpec("x", np.dtype(np.float32), declared)]
    )
    return batches.batch_size(model, samples, **options)  # type: ignore[arg-type]


def test_small_values_run_many_at_once() -> None:
    assert size_of("(float[N,4] x) => (float[N,4] y) { y = Relu (x) }", (1, 4)) == 32
    assert size_of("(float[N,4] x) => (float[N,4] y) { y = Relu (x) }", (1, 4), at_least=8) == COUNT // 8


@pytest.mark.parametrize("times", [4, 16])
def test_the_largest_value_bounds(times: int) -> None:
    width = BYTES // 4 // times
    assert size_of(f"(float[N,{width}] x) => (float[N,{width}] y) {{ y = Relu (x) }}", (1, width)) == times


def test_what_is_kept_bounds_together() -> None:
    width, names = BYTES // 4 // 8, "abcdefgh"
    nodes = " ".join(f"{made} = Neg ({read})" for read, made in zip("x" + names, names, strict=False))
    text = f"(float[N,{width}] x) => (float[N,{width}] h) {{ {nodes} }}"
    assert size_of(text, (1, width)) == 8
    assert size_of(text, (1, width), kept=names) == KEPT_BYTES // (BYTES // 8 * len(names)) == 4


def test_values_within_branches_and_of_other_types_count() -> None:
    width = BYTES // 8 // 4
    text = f"""(float[N,{width}] x, bool c) => (double[N,{width}] y) {{ y = If (c) <
        then_branch = t () => (double[N,{width}] p) {{ p = Cast <to = 11> (x) }},
        else_branch = e () => (double[N,{width}] q) {{ q = Cast <to = 11> (x) }} > }}"""
    assert size_of(text, (1, width)) == 4
