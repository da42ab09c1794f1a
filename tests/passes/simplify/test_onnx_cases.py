"""ONNX's own test cases that have something to simplify: the results stay those of ONNX Runtime on the original.

Cases of one node are left to `tests/bench/onnx_suite.py`, which runs all that the package onnx 1.16.2 shipped as files,
through the whole pipeline.
"""

from __future__ import annotations

import warnings

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnxslim.passes.simplify import Simplify
from story import make_context

from onnxslim.model import NEWEST_OPSET, canonicalize, restored
from onnxslim.pipeline.difference import difference

FEWEST = 100
"""Every second case is taken. So many must have been compared, or the test is not what it says."""


def outputs(model, feeds):
    """Run a model, or return None where ONNX Runtime cannot."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return session.run(None, feeds)
    except Exception:  # onnxruntime's exceptions have no common base
        return None


@pytest.mark.slow
def test_cases_of_several_nodes_stay_what_they_are():
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        cases = [case for case in collect_testcases(None) if case.model is not None and len(case.model.graph.node) > 1][
            ::2
        ]
    compared, wrong = 0, {}
    for case in cases:
        opset = {entry.domain: entry.version for entry in case.model.opset_import}.get("", 0)
        if opset > NEWEST_OPSET:
            continue
        model = ir.from_proto(case.model)
        canonicalize(model)
        change = Simplify().run(model, make_context(model))
        left = [note for note in change.notes if note.action == "left alone" and "Error" in note.reason]
        if left:
            wrong[case.name] = str(left)
        if not change.modified:
            continue
        for arrays, _ in case.data_sets:
            feeds = dict(zip((value.name for value in case.model.graph.input), arrays, strict=False))
            before = outputs(case.model, feeds)
            if before is None:
                continue
            compared += 1
            after = outputs(ir.to_proto(restored(model)), feeds)
            if after is None:
                wrong[case.name] = "does not run any more"
                continue
            whys = [difference(one, other) for one, other in zip(before, after, strict=True)]
            if any(whys):
                wrong[case.name] = str(whys)
    assert not wrong, "\n".join(f"{name}: {why}" for name, why in wrong.items())
    assert compared >= FEWEST, compared
