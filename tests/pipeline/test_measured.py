"""Models between two passes hold no memory that nobody asks for."""

from __future__ import annotations

import gc
import typing

import numpy as np
from sample_models import from_text

from onnxslim.data import no_samples
from onnxslim.pipeline.measured import MeasuredModel, Run
from onnxslim.pipeline.request import Request
from onnxslim.runtime.session import Session

TEXT = '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { y = Relu (x) }'


def test_all_models_of_a_run_are_closed_and_opened_anew() -> None:
    opened: list[str] = []

    def measured(name: str) -> MeasuredModel:
        model = from_text(TEXT)
        return MeasuredModel(model, lambda: (opened.append(name), Session.of(model))[1])

    original, made, dropped = measured("original"), measured("made"), measured("dropped")
    run = Run(typing.cast(Request, None), original, no_samples(), no_samples())
    run.models.update((made, dropped))
    del dropped
    gc.collect()
    assert list(run.models) == [made], "a run keeps no model"
    sessions = [original.session, made.session, made.plain_session]
    run.close_models()
    assert all(not {"session", "plain_session"} & model.__dict__.keys() for model in (original, made))
    assert made.session not in sessions
    np.testing.assert_array_equal(made.session.run({"x": np.float32([-1, 2])})["y"], [0, 2])
    assert opened == ["original", "made", "made"]
