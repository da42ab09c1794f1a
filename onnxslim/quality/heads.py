"""Detection heads: layouts of boxes and scores in the outputs of detectors, and their decoding.

Sources: YOLOv5 and v8 (Ultralytics, exported), YOLOX (Ge et al. 2021, section 2.1: offsets within a grid cell of three
strides, sizes as logarithms), DETR (Carion et al. 2020: the last class is "no object"), SSD (Liu et al. 2016: the first
class is the background).
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim.arrays import Floats
from onnxslim.quality.boxes import Boxes, corners_of_centres, suppress

STRIDES = (8, 16, 32)
"""Cell sizes in pixels of the three grids of YOLO heads."""
LEAST_SCORE = 0.01
"""Boxes with a lower score are ignored."""


class BoxLayout(enum.Enum):
    """Layout of boxes and scores in one or several outputs."""

    YOLOV5 = "yolov5"
    """[A, 5 + C]: centre, size, objectness, classes; also YOLOX with decoded boxes."""
    YOLOV8 = "yolov8"
    """[4 + C, A]: centre, size, classes."""
    YOLOX = "yolox"
    """[A, 5 + C]: centre and size relative to cells of a grid, objectness, classes."""
    ROWS = "rows"
    """[K, 6]: corners, score, class; duplicates are suppressed inside."""
    QUERIES = "queries"
    """[K, 4 + C]: centre, size, classes; one row per object, without duplicates."""
    SPLIT = "split"
    """Boxes [A, 4] and scores [A, C] in separate outputs; duplicates are not suppressed."""
    DETR = "detr"
    """Boxes [Q, 4] and logits [Q, C], without duplicates."""
    SUPPRESSED = "suppressed"
    """Boxes [K, 4], scores [K] and classes [K], with or without their number; duplicates are suppressed inside."""


@dataclasses.dataclass(frozen=True)
class Head:
    """Layout and names of the outputs of a detector."""

    layout: BoxLayout
    boxes: str
    """The output of the boxes, or the only output."""
    scores: str = ""
    classes: str = ""
    count: str = ""
    """The output with the number of valid boxes; empty: all are valid."""
    corners: bool = False
    """Whether boxes are given by corners instead of centre and size."""
    background: int | None = None
    """Index of the background class."""
    softmax: bool = False
    """DETR: classes are exclusive (softmax); otherwise independent (sigmoid)."""
    masks: int = 0
    """YOLOv8: number of rows of mask coefficients after the scores."""
    image: tuple[int, int] = (0, 0)
    """(height, width) of the input, for the grid of YOLOX."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return tuple(name for name in (self.boxes, self.scores, self.classes, self.count) if name)

    @property
    def is_dynamic(self) -> bool:
        """Whether the number of boxes depends on the image."""
        return self.layout in (BoxLayout.SUPPRESSED, BoxLayout.ROWS)

    def read(self, outputs: Mapping[str, Any], most_overlap: float) -> Boxes:
        """Return the detected boxes of one image, without boxes that are not finite.

        Args:
            outputs: Outputs for one image, with a first axis of length 1 if the model has a batch axis.
            most_overlap: Overlap above which boxes of a class are duplicates, if the model does not suppress them.
        """
        with np.errstate(invalid="ignore", over="ignore"):
            boxes = self._decode(outputs)
        boxes = boxes.take(np.isfinite(boxes.corners).all(axis=1) & np.isfinite(boxes.scores))
        boxes = boxes.above(LEAST_SCORE)
        separate = self.layout in (BoxLayout.YOLOV5, BoxLayout.YOLOV8, BoxLayout.YOLOX, BoxLayout.SPLIT)
        return suppress(boxes, most_overlap) if separate else boxes

    def _decode(self, outputs: Mapping[str, Any]) -> Boxes:
        arrays = {name: np.asarray(outputs[name], np.float64) for name in self.outputs}
        if self.layout is BoxLayout.SUPPRESSED:
            return self._suppressed(arrays)
        table = _matrix(arrays[self.boxes])
        if self.layout in (BoxLayout.SPLIT, BoxLayout.DETR):
            scores = _matrix(arrays[self.scores])
            if len(scores) != len(table) and scores.shape[1] == len(table):
                scores = scores.T
            if self.layout is BoxLayout.DETR:
                scores = _softmax(scores) if self.softmax else 1 / (1 + np.exp(-scores.clip(-50, 50)))
            return self._best_classes(table[:, :4], scores)
        if self.layout is BoxLayout.ROWS:
            return Boxes(table[:, :4], table[:, 4], _whole(table[:, 5]))
        if self.layout is BoxLayout.YOLOV8:
            return self._best_classes(table[:4].T, table[4 : len(table) - self.masks].T)
        if self.layout is BoxLayout.QUERIES:
            return self._best_classes(table[:, :4], table[:, 4:])
        boxes = self._decoded(table[:, :4]) if self.layout is BoxLayout.YOLOX else table[:, :4]
        return self._best_classes(boxes, table[:, 4:5] * table[:, 5:] if table.shape[1] > 5 else table[:, 4:5])

    def _best_classes(self, boxes: Floats, scores: Floats) -> Boxes:
        if self.background is not None:
            scores = scores.copy()
            scores[:, self.background] = -1.0
        best = scores.argmax(axis=1) if scores.shape[1] else np.zeros(len(scores), np.int64)
        corners = boxes if self.corners else corners_of_centres(boxes)
        return Boxes(corners, scores[np.arange(len(scores)), best], best)

    def _decoded(self, boxes: Floats) -> Floats:
        cells, strides = grid(self.image)
        if len(cells) != len(boxes):
            return boxes
        return np.concatenate(
            [(boxes[:, :2] + cells) * strides[:, None], np.exp(boxes[:, 2:].clip(-20, 20)) * strides[:, None]], axis=1
        )

    def _suppressed(self, arrays: Mapping[str, npt.NDArray[np.float64]]) -> Boxes:
        boxes = arrays[self.boxes].reshape(-1, 4)
        scores = arrays[self.scores].reshape(-1)
        classes = arrays[self.classes].reshape(-1) if self.classes else np.zeros(len(scores))
        count = min(len(boxes), len(scores), len(classes))
        if self.count and arrays[self.count].size:
            count = min(count, max(0, int(_whole(arrays[self.count].reshape(-1)[:1])[0])))
        corners = boxes[:count] if self.corners else corners_of_centres(boxes[:count])
        return Boxes(corners, scores[:count], _whole(classes[:count]))


def grid(image: tuple[int, int]) -> tuple[Floats, Floats]:
    """Return the cells (x, y) of the grids of all strides, shape [A, 2], and their strides, shape [A]."""
    cells, strides = [], []
    for stride in STRIDES:
        height, width = (size // stride for size in image)
        rows, columns = np.mgrid[:height, :width]
        cells.append(np.stack([columns.reshape(-1), rows.reshape(-1)], axis=1).astype(np.float64))
        strides.append(np.full(height * width, float(stride)))
    return np.concatenate(cells), np.concatenate(strides)


def _matrix(array: Floats) -> Floats:
    """Return an output of one image as [rows, columns], without leading axes of length 1."""
    return array.reshape(-1, array.shape[-1]) if array.ndim != 3 or array.shape[0] != 1 else array[0]


def _whole(classes: Floats) -> npt.NDArray[np.int64]:
    return np.nan_to_num(classes, nan=-1, posinf=-1, neginf=-1).round().astype(np.int64)


def _softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float64)
