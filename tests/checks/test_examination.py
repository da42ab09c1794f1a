"""What is wrong with samples is told, each kind by its own code, and what is right is not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest
from zoo import MODELS

import onnxslim
from onnxslim.checks import examine
from onnxslim.checks.outputs import check_outputs
from onnxslim.checks.values import check_values
from onnxslim.data import Batch, Samples, open_samples
from onnxslim.data.samples import BatchLayout
from onnxslim.model import open_model
from onnxslim.report.json import to_json
from onnxslim.runtime.session import Session

RESNET8 = MODELS / "fashion_resnet8.onnx"


def images(count: int = 64) -> np.ndarray:
    with np.load(MODELS / "fashion_calib.npz") as file:
        return ((file["image"][:count].astype(np.float32) / 255 - 0.2860) / 0.3530).astype(np.float32)


def codes(feeds: dict[str, np.ndarray]) -> list[str]:
    count = len(next(iter(feeds.values())))
    rows = [Batch({name: array[at : at + 1] for name, array in feeds.items()}) for at in range(count)]
    whole = check_values([Batch(feeds, None, count)])
    assert check_values(rows) == whole, "however the samples are batched"
    return [each.code for each in whole]


def test_copies_and_empty_images_and_noise_are_told() -> None:
    right = images(40)
    assert codes({"x": right}) == []
    assert codes({"x": np.concatenate([right[:30], right[:10]])}) == ["duplicated-samples"]
    empty = right.copy()
    empty[::4] = np.arange(10).reshape(10, 1, 1, 1)
    assert codes({"x": empty}) == ["constant-samples"]
    noise = np.random.default_rng(0).normal(size=(40, 3, 16, 16)).astype(np.float32)
    assert codes({"x": noise}) == ["random-samples"]
    assert codes({"x": noise.transpose(0, 2, 3, 1)}) == ["random-samples"]


def test_tokens_masks_states_and_embeddings_raise_no_alarm() -> None:
    generator = np.random.default_rng(0)
    tokens = {"ids": generator.integers(0, 30000, (32, 20)), "mask": np.ones((32, 20), np.int64)}
    assert codes(tokens) == []
    assert codes({"x": generator.normal(size=(32, 384)).astype(np.float32)}) == []
    assert codes({"x": generator.normal(size=(32, 64, 14, 14)).astype(np.float32)}) == []
    assert codes({"x": generator.normal(size=(32, 512)).astype(np.float32), "h": np.zeros((32, 64), np.float32)}) == []
    assert codes({"yes": np.zeros((32, 1), np.bool_)}) == []
    assert codes({"text": np.array([f"a text of {at} words" for at in range(32)], object).reshape(32, 1)}) == []


def test_one_class_and_outputs_that_never_change_are_told() -> None:
    session = Session.of(RESNET8)
    (output,) = session.outputs
    right = images(64)
    batches = [Batch({"image": right[at : at + 8]}, None, 8) for at in range(0, 64, 8)]
    assert check_outputs(session, batches, output.name) == []
    best = np.concatenate([session.run(each.feeds)[output.name].argmax(1) for each in batches])
    alike = np.repeat(right[best == best[0]], 16, axis=0)[:32]
    same = [Batch({"image": alike[at : at + 8]}, None, 8) for at in range(0, 32, 8)]
    assert [each.code for each in check_outputs(session, same, output.name)] == ["one-class"]
    assert check_outputs(session, same[:1], output.name) == [], "of few samples chance may do that"
    equal = [Batch({"image": np.repeat(right[:1], 8, axis=0)}, None, 8)] * 2
    assert [each.code for each in check_outputs(session, equal, None)] == ["constant-outputs"]


@pytest.mark.parametrize(("count", "expected"), [(31, ["few-samples"]), (32, [])])
def test_few_samples_for_what_is_asked_are_told(count: int, expected: list[str]) -> None:
    session = Session.of(RESNET8)
    samples = open_samples({"image": images(count)}, session.inputs)
    found = examine(open_model(RESNET8), session, samples, None, Session.of, 0, lossy=["quant"], classes=None)
    assert [each.code for each in found] == expected
    assert examine(open_model(RESNET8), session, samples, None, Session.of, 0, lossy=(), classes=None) == ()


def test_samples_that_calibrate_and_measure_are_told() -> None:
    session = Session.of(RESNET8)
    one, other = (open_samples({"image": each}, session.inputs) for each in (images(80), images(200)[80:]))
    model = open_model(RESNET8)
    (shared,) = examine(model, session, one, one, Session.of, 0, lossy=(), classes=None)
    assert shared.code == "shared-samples"
    assert examine(model, session, one, other, Session.of, 0, lossy=(), classes=None) == ()


def test_the_report_holds_what_was_found() -> None:
    result = onnxslim.optimize(RESNET8, "simplify", data={"image": images(40) * 90 + 72}, measure=False)
    (found,) = result.report.diagnostics
    assert "pixels of 0 to 255" in found.message
    assert [each["code"] for each in to_json(result.report)["diagnostics"]] == ["inputs-do-not-fit"]
    right = onnxslim.optimize(RESNET8, "simplify", data={"image": images(40)}, measure=False)
    assert right.report.diagnostics == ()


def test_a_sequence_is_not_examined() -> None:
    """Samples of your own making may hold what is no tensor; ONNX Runtime takes a sequence as a list."""
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["" : 17]> g (seq(float[N]) s, int64 i) => (float[N] y) {
        a = SequenceAt (s, i)  y = Relu (a) }"""
    )
    feeds = {"s": [np.ones(3, np.float32), -np.ones(5, np.float32)], "i": np.array(1)}
    samples = Samples(HandMade([feeds]), "sequences")
    result = onnxslim.optimize(model, "simplify", data=samples, val=samples, measure=False)
    assert [stage.name for stage in result.report.passes] == ["simplify"]


@dataclasses.dataclass(frozen=True)
class HandMade:
    feeds: list[dict[str, object]]
    layout: ClassVar[BatchLayout] = BatchLayout(1)

    @property
    def count(self) -> int:
        return len(self.feeds)

    def read(self, indices: np.ndarray | None, size: int) -> Iterator[Batch]:
        return (Batch(self.feeds[index]) for index in (range(self.count) if indices is None else indices))  # type: ignore[arg-type]
