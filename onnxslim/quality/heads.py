"""Detection heads: the layouts in which detectors write boxes and scores, and how each is read.

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

from onnxslim.quality.boxes import Boxes, Floats, corners_of_centres, suppress

STRIDES = (8, 16, 32)
"""Pixels from one cell of the grid to the next, of the three levels that YOLO heads look at."""
LEAST_SCORE = 0.01
"""What scores less is never looked at."""


class BoxLayout(enum.Enum):
    """How one or several outputs hold boxes and scores."""

    YOLOV5 = "yolov5"
    """[A, 5 + C]: centre, size, objectness, classes. YOLOX with decoded boxes is the same."""
    YOLOV8 = "yolov8"
    """[4 + C, A]: centre, size, classes."""
    YOLOX = "yolox"
    """[A, 5 + C]: centre and size relative to cells of a grid, objectness, classes."""
    ROWS = "rows"
    """[K, 6]: corners, score, class, doubles suppressed inside."""
    QUERIES = "queries"
    """[K, 4 + C]: centre, size, classes, one for each object: nothing to suppress."""
    SPLIT = "split"
    """Boxes [A, 4] and scores [A, C] as outputs of their own, doubles not suppressed."""
    DETR = "detr"
    """Boxes [Q, 4] and logits [Q, C]: nothing to suppress."""
    SUPPRESSED = "suppressed"
    """Boxes [K, 4], scores [K] and classes [K], with or without their number."""


@dataclasses.dataclass(frozen=True)
class Head:
    """How the outputs of a detector are read."""

    layout: BoxLayout
    boxes: str
    """The output with the boxes; with all there is, where it is one."""
    scores: str = ""
    classes: str = ""
    count: str = ""
    """The output that says how many of the K boxes there are; empty where all are."""
    corners: bool = False
    """The boxes are given by corners, not by centre and size."""
    background: int | None = None
    """The class that means that nothing is there."""
    softmax: bool = False
    """DETR: classes exclude each other; else each has a sigmoid of its own."""
    masks: int = 0
    """YOLOv8: rows behind the scores that hold coefficients of masks."""
    image: tuple[int, int] = (0, 0)
    """Height and width of the input, for the grid of YOLOX."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs that are read."""
        return tuple(name for name in (self.boxes, self.scores, self.classes, self.count) if name)

    @property
    def is_dynamic(self) -> bool:
        """Whether the number of boxes may change from image to image."""
        return self.layout in (BoxLayout.SUPPRESSED, BoxLayout.ROWS)

    def read(self, outputs: Mapping[str, Any], most_overlap: float) -> Boxes:
        """Return what is detected in one image; none where the outputs are not what they were.

        Args:
            outputs: The outputs for one image, with a first axis of length 1 where there is one.
            most_overlap: Boxes of a class that overlap more are one, where the model leaves that to its user.
        """
        with np.errstate(invalid="ignore", over="ignore"):
            found = self._found(outputs)
        found = found.take(np.isfinite(found.corners).all(axis=1) & np.isfinite(found.scores))
        found = found.above(LEAST_SCORE)
        separate = self.layout in (BoxLayout.YOLOV5, BoxLayout.YOLOV8, BoxLayout.YOLOX, BoxLayout.SPLIT)
        return suppress(found, most_overlap) if separate else found

    def _found(self, outputs: Mapping[str, Any]) -> Boxes:
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
    """Return the cells (x, y) of the grids of all strides, shape [A, 2], and the stride of each, shape [A]."""
    cells, strides = [], []
    for stride in STRIDES:
        height, width = (size // stride for size in image)
        rows, columns = np.mgrid[:height, :width]
        cells.append(np.stack([columns.reshape(-1), rows.reshape(-1)], axis=1).astype(np.float64))
        strides.append(np.full(height * width, float(stride)))
    return np.concatenate(cells), np.concatenate(strides)


def _matrix(array: Floats) -> Floats:
    """Return an output of one image as [rows, columns]: the axes of length 1 in front are for samples."""
    return array.reshape(-1, array.shape[-1]) if array.ndim != 3 or array.shape[0] != 1 else array[0]


def _whole(classes: Floats) -> npt.NDArray[np.int64]:
    return np.nan_to_num(classes, nan=-1, posinf=-1, neginf=-1).round().astype(np.int64)


def _softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float64)
