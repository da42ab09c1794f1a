"""Detection: heads of every layout hold the same boxes; what is lost is counted as one counts by hand."""

from __future__ import annotations

import numpy as np
import pytest
from evidences import evidence_of
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_models import from_text

from onnxslim.data import open_samples
from onnxslim.errors import DataError
from onnxslim.metrics.detection import Detection
from onnxslim.quality.boxes import Boxes, match, mean_average_precision, overlaps, suppress
from onnxslim.quality.choosing import MetricRequest, choose_metric
from onnxslim.quality.heads import BoxLayout, grid
from onnxslim.quality.measure import measure_quality
from onnxslim.runtime.session import Session

IMAGE = 128
ANCHORS = 336  # 16 x 16 + 8 x 8 + 4 x 4 cells
CLASSES = 3
TRUE = Boxes(
    np.array([[8.0, 8, 40, 30], [60, 50, 100, 90], [20, 70, 50, 120], [90, 10, 120, 40]]),
    np.array([0.9, 0.8, 0.7, 0.6]),
    np.array([0, 1, 2, 1]),
)
PLACES = (17, 100, 200, 300)
"""The anchors at which they are seen."""


def centres(corners: np.ndarray) -> np.ndarray:
    return np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1)


def table(anchors: int, columns: int) -> np.ndarray:
    """Return anchors with small boxes everywhere and hardly any score."""
    generator = np.random.default_rng(0)
    rows = np.zeros((anchors, columns))
    rows[:, :2] = generator.uniform(5, IMAGE - 5, (anchors, 2))
    rows[:, 2:4] = generator.uniform(2, 9, (anchors, 2))
    rows[:, 4:] = generator.uniform(0, 0.005, (anchors, columns - 4))
    return rows


def scored(columns: int, first: int) -> np.ndarray:
    """Return the true boxes at their anchors, with scores from column `first` on."""
    rows = table(ANCHORS, columns)
    rows[PLACES, :4] = centres(TRUE.corners)
    rows[PLACES, first + TRUE.classes] = TRUE.scores
    return rows


def encoded(layout: BoxLayout) -> dict[str, np.ndarray]:
    """Return the outputs of a detector that sees the true boxes."""
    seen = len(TRUE)
    if layout is BoxLayout.YOLOV8:
        return {"output0": scored(4 + CLASSES, 4).T[None]}
    if layout in (BoxLayout.YOLOV5, BoxLayout.YOLOX):
        rows = scored(5 + CLASSES, 5)
        rows[PLACES, 4] = 1.0
        if layout is BoxLayout.YOLOX:
            cells, strides = grid((IMAGE, IMAGE))
            rows[:, :2] = rows[:, :2] / strides[:, None] - cells
            rows[:, 2:4] = np.log(rows[:, 2:4] / strides[:, None])
        return {"output": rows[None]}
    if layout is BoxLayout.ROWS:
        rows = np.zeros((30, 6))
        rows[:seen] = np.concatenate([TRUE.corners, TRUE.scores[:, None], TRUE.classes[:, None]], axis=1)
        return {"output": rows[None]}
    if layout is BoxLayout.QUERIES:
        rows = table(50, 4 + CLASSES)
        rows[:seen, :4] = centres(TRUE.corners)
        rows[np.arange(seen), 4 + TRUE.classes] = TRUE.scores
        rows[:, :4] /= IMAGE
        return {"output": rows[None]}
    if layout is BoxLayout.SPLIT:
        rows = scored(4 + CLASSES, 4)
        half = rows[:, 2:4] / 2
        corners = np.concatenate([rows[:, :2] - half, rows[:, :2] + half], axis=1)
        return {"boxes": corners[None], "scores": rows[None, :, 4:]}
    if layout is BoxLayout.DETR:
        logits = np.full((50, CLASSES + 1), -8.0)
        logits[:, -1] = 5.0
        logits[:seen, -1] = 0.0
        logits[np.arange(seen), TRUE.classes] = np.log(TRUE.scores / (1 - TRUE.scores))
        boxes = table(50, 4) / IMAGE
        boxes[:seen] = centres(TRUE.corners) / IMAGE
        return {"logits": logits[None], "pred_boxes": boxes[None]}
    return {
        "num_dets": np.array([[seen]], np.int64),
        "boxes": np.pad(TRUE.corners, ((0, 3), (0, 0)))[None],
        "scores": np.pad(TRUE.scores, (0, 3))[None],
        "labels": np.pad(TRUE.classes, (0, 3))[None],
    }


def detector(layout: BoxLayout) -> tuple[Detection, dict[str, np.ndarray]]:
    outputs = {
        name: array.astype(np.float32) if array.dtype.kind == "f" else array for name, array in encoded(layout).items()
    }
    found = Detection.recognise(evidence_of(outputs, {"x": np.zeros((1, 3, IMAGE, IMAGE), np.float32)}))
    assert found is not None
    assert isinstance(found.metric, Detection)
    return found.metric, outputs


@pytest.mark.parametrize("layout", BoxLayout)
def test_every_layout_is_recognised_and_read(layout: BoxLayout) -> None:
    metric, outputs = detector(layout)
    assert metric.head.layout is layout
    seen = metric.head.read(outputs, 0.5).above(0.25).best(10)
    scale = IMAGE if layout in (BoxLayout.QUERIES, BoxLayout.DETR) else 1
    np.testing.assert_allclose(seen.corners * scale, TRUE.corners, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(seen.scores, TRUE.scores, atol=0.02)
    np.testing.assert_array_equal(seen.classes, TRUE.classes)


@pytest.mark.parametrize("layout", BoxLayout)
def test_the_same_outputs_lose_nothing_and_broken_ones_everything(layout: BoxLayout) -> None:
    metric, outputs = detector(layout)
    same = metric.rows(outputs, outputs, None, 1)
    assert metric.loss(same) == 0.0
    assert metric.agreement(same).tolist() == [1.0]
    figures = metric.figures(same)
    assert (figures["mAP 50"].after, figures["score error"].after) == (1.0, 0.0)
    for name, array in outputs.items():
        if array.dtype.kind == "f":
            for broken in (np.full_like(array, np.nan), array[..., :-1] if array.ndim == 3 else array.astype(int)):
                rows = metric.rows(outputs, {**outputs, name: broken}, None, 1)
                assert metric.loss(rows) == 1.0
                assert metric.figures(rows)["mAP 50"].after == 0.0


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from([BoxLayout.YOLOV8, BoxLayout.YOLOV5, BoxLayout.SPLIT, BoxLayout.QUERIES, BoxLayout.DETR]),
    st.randoms(),
)
def test_another_order_of_the_boxes_loses_nothing(layout: BoxLayout, random) -> None:
    metric, outputs = detector(layout)
    order = list(range(outputs[metric.head.boxes].shape[-1 if layout is BoxLayout.YOLOV8 else 1]))
    random.shuffle(order)
    moved = {
        name: array[..., order] if layout is BoxLayout.YOLOV8 else array[:, order] for name, array in outputs.items()
    }
    assert metric.loss(metric.rows(outputs, moved, None, 1)) == 0.0


def test_what_is_lost_is_counted() -> None:
    metric, outputs = detector(BoxLayout.YOLOV8)
    faded = outputs["output0"].copy()
    faded[0, 4 + TRUE.classes[3], PLACES[3]] = 0.1  # found no more, but still in the list
    rows = metric.rows(outputs, {"output0": faded}, None, 1)
    assert metric.loss(rows) == pytest.approx(1 - 6 / 7)  # 3 of 4 boxes: twice 3 over 4 + 3
    figures = metric.figures(rows)
    assert figures["mAP 50"].after == 1.0, "its score is lower, but it is not below a wrong one"
    assert figures["score error"].after == pytest.approx(0.5 / 4, abs=1e-3)
    moved = outputs["output0"].copy()
    moved[0, 0, PLACES[1]] += 60
    assert metric.loss(metric.rows(outputs, {"output0": moved}, None, 1)) == pytest.approx(0.25)


def test_against_labels() -> None:
    metric, outputs = detector(BoxLayout.YOLOV8)
    truth = np.concatenate([TRUE.corners, TRUE.classes[:, None]], axis=1)
    padded = np.concatenate([truth, np.full((2, 5), -1.0)])
    faded = outputs["output0"].copy()
    faded[0, 4:, PLACES[3]] = 0.001
    rows = metric.rows(outputs, {"output0": faded}, padded[None], 1)
    assert metric.figures(rows)["mAP 50"].before == 1.0
    assert metric.figures(rows)["mAP 50"].after == pytest.approx((1 + 0.5 + 1) / 3)
    assert metric.loss(rows) == pytest.approx(1 - 6 / 7)
    better = metric.rows({"output0": faded}, outputs, padded[None], 1)
    assert metric.loss(better) == pytest.approx(6 / 7 - 1)
    with pytest.raises(DataError, match="are no boxes") as caught:
        metric.rows(outputs, outputs, np.array([3]), 1)
    assert "--metric" in (caught.value.hint or "")


def test_a_dynamic_number_of_boxes() -> None:
    boxes = {"boxes": TRUE.corners, "labels": TRUE.classes, "scores": TRUE.scores}
    found = Detection.recognise(evidence_of(boxes, {"x": np.zeros((1, 3, IMAGE, IMAGE), np.float32)}))
    assert found is not None
    less = {name: array[:3] for name, array in boxes.items()}
    none = {name: array[:0] for name, array in boxes.items()}
    assert found.metric.loss(found.metric.rows(boxes, less, None, 1)) == pytest.approx(1 - 6 / 7)
    assert found.metric.loss(found.metric.rows(boxes, none, None, 1)) == 1.0
    assert found.metric.loss(found.metric.rows(none, none, None, 1)) == 0.0
    assert found.metric.loss(found.metric.rows(none, boxes, None, 1)) == 1.0


@pytest.mark.parametrize("number", [np.nan, np.inf, -3.0, 1e300])
def test_a_number_of_boxes_that_is_none_is_no_box(number: float) -> None:
    metric, outputs = detector(BoxLayout.SUPPRESSED)
    broken = {**outputs, "num_dets": np.array([[number]])}
    assert len(metric.head.read(broken, 0.5)) in (0, len(TRUE))
    assert metric.loss(metric.rows(outputs, broken, None, 1)) == 1.0


@pytest.mark.parametrize(
    ("outputs", "why"),
    [
        ({"y": np.random.default_rng(0).normal(size=(1, 336, 8)).astype(np.float32)}, "no scores"),
        ({"y": np.random.default_rng(0).random((1, 64, 256)).astype(np.float32)}, "nothing in pixels"),
        ({"y": np.random.default_rng(0).random((1, 1000)).astype(np.float32)}, "no boxes"),
        ({"mask": np.ones((1, 21, 128, 128), np.float32)}, "a map"),
        ({"y": np.zeros((0, 6), np.float32)}, "nothing at all"),
    ],
)
def test_what_is_no_detector(outputs: dict[str, np.ndarray], why: str) -> None:
    assert Detection.recognise(evidence_of(outputs, {"x": np.zeros((1, 3, IMAGE, IMAGE), np.float32)})) is None, why


def test_where_hardly_anything_is_seen_the_score_is_lower() -> None:
    rows = scored(4 + CLASSES, 4)
    rows[:, 4:] *= 0.2
    evidence = evidence_of(
        {"output0": rows.T[None].astype(np.float32)}, {"x": np.zeros((1, 3, IMAGE, IMAGE), np.float32)}
    )
    found = Detection.recognise(evidence)
    assert found is not None
    assert found.metric.score == pytest.approx(0.18)
    assert "hardly anything" in found.reason


MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[1,3,128,128] image, float[7,3,8,8] w, float[7] b, int64[3] shape, int64[2] parts, float limit) =>
  (float[1,7,256] output0) {
  c = Conv <strides = [8, 8]> (image, w, b)
  s = Sigmoid (c)
  r = Reshape (s, shape)
  four, three = Split <axis = 1> (r, parts)
  boxes = Mul (four, limit)
  output0 = Concat <axis = 1> (boxes, three)
}
"""


def test_a_head_with_boxes_in_pixels_and_scores_in_one_concat_is_judged_by_itself() -> None:
    def model(scale: float):
        generator = np.random.default_rng(0)
        weight = generator.normal(0, 0.15, (7, 3, 8, 8))
        return from_text(
            MODEL,
            w=weight.astype(np.float32),
            b=np.float32([0, 0, -2, -2, -1, -1, -1]) * np.float32(scale),
            shape=np.array([1, 7, 256]),
            limit=np.float32(128),
            parts=np.array([4, 3]),
        )

    one, other = model(1.0), Session.of(model(1.2))
    session = Session.of(one)
    samples = open_samples(
        {"image": np.random.default_rng(1).normal(size=(4, 3, 128, 128)).astype(np.float32)}, session.inputs
    )
    chosen = choose_metric(MetricRequest(), session, one, samples)
    assert isinstance(chosen.metric, Detection)
    assert chosen.metric.head.layout is BoxLayout.YOLOV8
    quality = measure_quality(chosen, session, other, samples, generator=np.random.default_rng(0))
    (output,) = quality.fidelity.parts
    boxes, scores = output.parts
    assert (boxes.name, scores.name) == ("boxes", "scores")
    assert output["sqnr_db"].value == pytest.approx(boxes["sqnr_db"].value, abs=0.1), "pixels drown what scores lose"
    assert scores["sqnr_db"].value != pytest.approx(boxes["sqnr_db"].value, abs=0.5)
    assert 0 < quality.loss.value < 1
    assert quality.loss.low < quality.loss.value < quality.loss.high


def test_overlaps_of_boxes() -> None:
    one = np.array([[0.0, 0, 2, 2]])
    others = np.array([[0.0, 0, 2, 2], [1, 0, 3, 2], [2, 2, 3, 3], [0, 0, 0, 0], [2, 2, 0, 0]])
    assert overlaps(one, others)[0].tolist() == pytest.approx([1, 1 / 3, 0, 0, 0])


def test_doubles_are_suppressed_within_their_class() -> None:
    boxes = Boxes(
        np.array([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9], [50, 50, 60, 60]]),
        np.array([0.5, 0.9, 0.8, 0.1]),
        np.array([1, 1, 2, 1]),
    )
    kept = suppress(boxes, 0.5)
    assert kept.scores.tolist() == [0.9, 0.8, 0.1]
    assert len(suppress(Boxes.none(), 0.5)) == 0


def test_a_true_box_is_matched_once() -> None:
    truth = Boxes(np.array([[0.0, 0, 10, 10]]), np.ones(1), np.zeros(1, np.int64))
    found = Boxes(np.array([[0.0, 0, 10, 9], [0, 0, 10, 10]]), np.array([0.6, 0.5]), np.zeros(2, np.int64))
    assert match(found, truth, 0.5).tolist() == [0, -1]
    assert match(found, Boxes.none(), 0.5).tolist() == [-1, -1]


def test_average_precision_by_hand() -> None:
    scores, right = np.array([0.9, 0.8, 0.7]), np.array([True, False, True])
    classes = np.zeros(3, np.int64)
    assert mean_average_precision(scores, right, classes, np.zeros(2, np.int64)) == pytest.approx((1 + 2 / 3) / 2)
    assert mean_average_precision(scores, right, classes, np.array([0, 0, 5])) == pytest.approx((1 + 2 / 3) / 4)
    assert mean_average_precision(scores[:0], right[:0], classes[:0], classes[:0]) == 1.0
    assert mean_average_precision(scores, right, classes, classes[:0]) == 0.0
