"""The table reads: a line that does not is named, and every op of it is one that there is."""

from __future__ import annotations

import warnings

import onnx
import pytest

from onnxslim.errors import RuleError
from onnxslim.ops.signatures import SignatureTable, signatures


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("Conv X[n, c]", "neither"),
        ("Conv X[n, c] ; W[c] -> Y[n]", "unexpected"),
        ("Conv<group> X[n] -> Y[n]", "no attribute=value"),
        ("Conv X[n, c+d] -> Y[n]", "no axis"),
        ("Conv X[n] -> Y[n] : n*q", "'q'"),
    ],
)
def test_a_line_that_does_not_read_is_named(line: str, what: str) -> None:
    with pytest.raises(RuleError, match="does not read") as caught:
        dict(SignatureTable(f"# comment\n\n{line}\n", "some.axes"))
    assert what in str(caught.value)
    assert "some.axes:3" in str(caught.value)


def test_every_op_of_the_table_is_one_that_onnx_or_onnxruntime_knows() -> None:
    for domain, op_type in signatures():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            known = domain == "com.microsoft" or onnx.defs.has(op_type) or op_type == "SimplifiedLayerNormalization"
            assert known, op_type
