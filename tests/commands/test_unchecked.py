"""Without a check no model is run, and whatever needs one is refused."""

from __future__ import annotations

import numpy as np
import pytest
from sample_models import from_text

import onnxslim
from onnxslim.errors import RunError, UsageError
from onnxslim.runtime.session import Session

TEXT = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] y) {
    a = Relu (x)  b = Relu (a)  y = Neg (b) }"""


def never(*arguments: object, **options: object) -> Session:
    raise AssertionError("a model was opened")


def test_no_model_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "of", never)
    result = onnxslim.optimize(from_text(TEXT), "simplify", check=False)
    (record,) = result.report.passes
    assert (record.kept, record.reason) == (True, "outputs not compared: asked not to")
    assert [node.op_type for node in result.model.graph] == ["Relu", "Neg"]
    assert result.report.ratio.latency is None
    with pytest.raises(AssertionError, match="was opened"):
        onnxslim.optimize(from_text(TEXT), "simplify", measure=False)


@pytest.mark.parametrize(
    ("passes", "options"),
    [("prune", {}), ("simplify", {"verify": True}), ("simplify", {"data": {"x": np.zeros((8, 4), np.float32)}})],
)
def test_what_needs_a_check_is_refused(passes: str, options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        onnxslim.optimize(from_text(TEXT), passes, check=False, **options)  # type: ignore[arg-type]


UNKNOWN = """<ir_version: 8, opset_import: ["" : 17, "nobody" : 1]> g (float[N,4] x) => (float[N,4] y) {
    a = Relu (x)  b = Relu (a)  y = nobody.Knows (b) }"""


def test_what_cannot_be_run_is_refused_and_the_way_out_is_told() -> None:
    with pytest.raises(RunError, match="nobody") as refused:
        onnxslim.optimize(from_text(UNKNOWN), "simplify")
    assert refused.value.hint == "--no-check does it without running the model"
    with pytest.raises(RunError) as refused:
        onnxslim.optimize(from_text(UNKNOWN), "prune")
    assert refused.value.hint is None
    with pytest.raises(RunError) as refused:
        onnxslim.optimize(from_text(UNKNOWN), "simplify", verify=True)
    assert refused.value.hint is None
    result = onnxslim.optimize(from_text(UNKNOWN), "simplify", check=False)
    assert [node.op_type for node in result.model.graph] == ["Relu", "Knows"]
    assert result.report.after.accuracy_reason == "not measured: asked not to"
