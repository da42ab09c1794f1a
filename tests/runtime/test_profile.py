"""Times of nodes as ONNX Runtime tells them."""

from __future__ import annotations

import tempfile

import numpy as np
import pytest
from channel_models import CHANNEL_MODELS

from onnxslim.errors import RunError
from onnxslim.runtime.profile import node_milliseconds, quiet_milliseconds
from onnxslim.runtime.session import Session
from onnxslim.runtime.target import detect_target


def test_every_node_takes_some_time() -> None:
    model = CHANNEL_MODELS["residual"]
    feeds = {"x": np.ones((2, 3, 8, 8), np.float32)}
    times = node_milliseconds(model, feeds, detect_target("cpu", 1), runs=4)
    assert len(times) >= 4
    assert all(0 <= each < 1000 for each in times.values())
    assert 0 < quiet_milliseconds(model, feeds, detect_target("cpu", 1)) < 1000


def test_the_process_of_a_profile_leaves_nothing_behind(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(RunError, match="nothing was given for the input 'x'"):
        node_milliseconds(CHANNEL_MODELS["residual"], {}, detect_target("cpu", 1), runs=2)
    assert not list(tmp_path.iterdir())


def test_nobody_profiles_unasked(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Session.of(CHANNEL_MODELS["residual"]).run({"x": np.ones((2, 3, 8, 8), np.float32)})
    assert not list(tmp_path.iterdir())
