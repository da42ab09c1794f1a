"""Recognizes detection heads by the shapes, values and names of a model's outputs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

import numpy as np

from onnxslim.arrays import Floats
from onnxslim.quality.evidence import Evidence, OutputEvidence, within_unit
from onnxslim.quality.heads import BoxLayout, Head, grid
from onnxslim.quality.metric import Slice

FEWEST = 20
"""Minimum of boxes of a head without suppression; a smaller output is something else."""
WIDEST = 600
"""Maximum of columns of boxes, scores and masks."""

MASKS = 32
"""Number of mask coefficients of YOLOv8 heads for segmentation."""

BOXES = re.compile(r"(?i)(box|bbox|location|^loc|rect)")
SCORES = re.compile(r"(?i)(score|conf|prob)")
CLASSES = re.compile(r"(?i)(class|label|categor|cls)")
LOGITS = re.compile(r"(?i)(logit|score|class|cls)")


@dataclasses.dataclass(frozen=True)
class RecognisedHead:
    """A recognized head, its slices, and the reason."""

    head: Head
    slices: tuple[Slice, ...]
    reason: str


def recognise_head(evidence: Evidence) -> RecognisedHead | None:
    """Return the detection head of the outputs, or None."""
    if not evidence.images and not evidence.named:
        return None
    for candidates in (_suppressed(evidence), _split(evidence), _single(evidence)):
        for recognised in candidates:
            return recognised
    return None


def _single(evidence: Evidence) -> Iterator[RecognisedHead]:
    """Yield heads of one tensor, [1, A, F] or [1, F, A]."""
    for output in evidence.outputs:
        shape = output.shape
        if not output.is_float or len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] != 1):
            continue
        rows, columns = shape[-2:]
        table = output.arrays[0].reshape(rows, columns).astype(np.float64)
        if not np.isfinite(table).all():
            continue
        if 6 <= columns <= WIDEST and rows >= FEWEST and rows > columns:
            yield from _anchors_first(output, table, evidence)
        if columns == 6 and rows < FEWEST and _are_rows(table):
            yield _rows(output)
        if 5 <= rows <= WIDEST and columns >= FEWEST and columns > rows:
            yield from _channels_first(output, table, evidence)


def _anchors_first(output: OutputEvidence, table: Floats, evidence: Evidence) -> Iterator[RecognisedHead]:
    rows, columns = table.shape
    name, shape = output.name, list(output.shape)
    if columns == 6 and _are_rows(table):
        yield _rows(output)
        return
    scores = table[:, 4:]
    if not within_unit(scores):
        return
    boxes = table[:, :4]
    cells = [len(grid(image)[0]) for image in evidence.images]
    on_grid = any(rows in (count, 3 * count) for count in cells)
    places = Slice(name, "boxes", -1, 0, 4)
    if not on_grid and within_unit(boxes):
        corners = _are_corners(boxes)
        yield RecognisedHead(
            Head(BoxLayout.QUERIES, name, corners=corners),
            (places, Slice(name, "scores", -1, 4, columns)),
            f"{name} {shape} holds {rows} boxes within 0 to 1 with {columns - 4} scores each (RT-DETR)",
        )
        return
    if not on_grid and not (_in_pixels(boxes) and (boxes[:, 2:] >= 0).all()):
        return
    parts = (places, Slice(name, "objectness", -1, 4, 5), Slice(name, "scores", -1, 5, columns))
    if rows in cells and _are_offsets(boxes):
        image = evidence.images[cells.index(rows)]
        yield RecognisedHead(
            Head(BoxLayout.YOLOX, name, image=image),
            parts,
            f"{name} {shape} holds a box for each of {rows} cells of grids of 8, 16 and 32 pixels, as offsets, "
            f"objectness and {columns - 5} class scores (YOLOX)",
        )
        return
    yield RecognisedHead(
        Head(BoxLayout.YOLOV5, name),
        parts,
        f"{name} {shape} holds {rows} boxes in pixels, objectness and {columns - 5} class scores (YOLOv5)",
    )


def _rows(output: OutputEvidence) -> RecognisedHead:
    name = output.name
    slices = Slice(name, "boxes", -1, 0, 4), Slice(name, "scores", -1, 4, 5), Slice(name, "classes", -1, 5, 6)
    reason = f"{name} {list(output.shape)} holds corners, score and class of each box, doubles suppressed inside"
    return RecognisedHead(Head(BoxLayout.ROWS, name, corners=True), slices, reason)


def _channels_first(output: OutputEvidence, table: Floats, evidence: Evidence) -> Iterator[RecognisedHead]:
    """Yield heads [4 + C, A]: boxes in pixels (or within 0 to 1 on the cells of a grid), scores, optional masks."""
    rows, columns = table.shape
    on_grid = columns in [len(grid(image)[0]) for image in evidence.images]
    if not ((table[2:4] >= 0).all() and (_in_pixels(table[:4]) or (on_grid and within_unit(table[:4])))):
        return
    masks = 0
    if not within_unit(table[4:]):
        if not on_grid or rows <= 4 + MASKS or not within_unit(table[4 : rows - MASKS]):
            return
        masks = MASKS
    end = rows - masks
    slices = [Slice(output.name, "boxes", -2, 0, 4), Slice(output.name, "scores", -2, 4, end)]
    if masks:
        slices.append(Slice(output.name, "masks", -2, end, rows))
    yield RecognisedHead(
        Head(BoxLayout.YOLOV8, output.name, masks=masks),
        tuple(slices),
        f"{output.name} {list(output.shape)} holds {columns} boxes: 4 rows of places, {end - 4} of scores (YOLOv8)",
    )


def _split(evidence: Evidence) -> Iterator[RecognisedHead]:
    """Yield heads of two tensors: boxes [1, A, 4], and scores or logits [1, A, C] or [1, C, A]."""
    floats = [output for output in evidence.outputs if output.is_float and len(output.shape) == 3]
    for boxes in floats:
        if boxes.shape[-1] != 4 or boxes.shape[-2] < 4 or LOGITS.search(boxes.name) or not _are_places(boxes):
            continue
        count = boxes.shape[-2]
        for scores in floats:
            if scores is boxes or count not in scores.shape[1:] or BOXES.search(scores.name):
                continue
            yield _pair(boxes, scores)


def _pair(boxes: OutputEvidence, scores: OutputEvidence) -> RecognisedHead:
    places = boxes.arrays[0].reshape(-1, 4).astype(np.float64)
    table = scores.arrays[0].reshape(scores.shape[-2:]).astype(np.float64)
    table = table if len(table) == len(places) else table.T
    normal = f"{boxes.name} {list(boxes.shape)} are boxes"
    if within_unit(table):
        exclusive = table.shape[1] >= 2 and bool(np.allclose(table.sum(axis=1), 1, atol=1e-3))
        background = _background(table) if exclusive else None
        head = Head(BoxLayout.SPLIT, boxes.name, scores.name, corners=_are_corners(places), background=background)
        return RecognisedHead(head, (), f"{normal}, {scores.name} {list(scores.shape)} their scores (SSD)")
    nothing = _background(table)
    exclusive = (table.argmax(axis=1) == nothing).mean() > 0.5 and nothing == table.shape[1] - 1
    head = Head(
        BoxLayout.DETR,
        boxes.name,
        scores.name,
        corners=_are_corners(places),
        background=nothing if exclusive else None,
        softmax=bool(exclusive),
    )
    kind = "the last of which is no object" if exclusive else "each with a sigmoid of its own"
    return RecognisedHead(head, (), f"{normal}, {scores.name} {list(scores.shape)} their logits, {kind} (DETR)")


def _background(table: Floats) -> int:
    """Return the index of the background class: the first or the last class, whichever wins more often."""
    best = table.argmax(axis=1)
    last = table.shape[1] - 1
    return 0 if (best == 0).sum() > (best == last).sum() else last


def _suppressed(evidence: Evidence) -> Iterator[RecognisedHead]:
    """Yield heads with suppression inside: boxes [K, 4] or [1, K, 4], scores and classes of K each."""
    for boxes in evidence.outputs:
        if not boxes.is_float or boxes.shape[-1:] != (4,) or len(boxes.shape) not in (2, 3):
            continue
        per_box = [
            output for output in evidence.outputs if output is not boxes and output.arrays and _follows(output, boxes)
        ]
        floats = [output for output in per_box if output.is_float]
        scores = next((output for output in floats if SCORES.search(output.name)), None)
        scores = scores or next((output for output in floats if within_unit(output.flat)), None)
        if scores is None:
            continue
        rest = [output for output in per_box if output is not scores and _are_whole(output)]
        classes = next((output for output in rest if CLASSES.search(output.name)), rest[0] if rest else None)
        if classes is None and not BOXES.search(boxes.name):
            continue
        used = (boxes, scores, classes)
        counts = [output for output in evidence.outputs if output not in used and _are_whole(output)]
        count = next((output for output in counts if output.arrays[0].size == 1), None)
        places = np.concatenate([array.reshape(-1, 4) for array in boxes.arrays]).astype(np.float64)
        head = Head(
            BoxLayout.SUPPRESSED,
            boxes.name,
            scores.name,
            classes.name if classes else "",
            count.name if count else "",
            corners=not len(places) or _are_corners(places),
        )
        listed = ", ".join(name for name in (scores.name, head.classes, head.count) if name)
        yield RecognisedHead(
            head, (), f"{boxes.name} {list(boxes.shape)} are boxes, {listed} tell about them: suppressed inside"
        )


def _follows(output: OutputEvidence, boxes: OutputEvidence) -> bool:
    """Return whether an output has one number per box in every run."""
    return (
        all(
            array.size == places.size // 4 and array.shape[:1] == places.shape[:1] and array.ndim <= places.ndim
            for array, places in zip(output.arrays, boxes.arrays, strict=True)
        )
        and len(output.shape) >= 1
    )


def _are_rows(table: Floats) -> bool:
    """Return whether the columns of [K, 6] are corners, score and class number."""
    whole = table[:, 5] == np.round(table[:, 5])
    ordered = (table[:, 2] >= table[:, 0]) & (table[:, 3] >= table[:, 1])
    return bool(
        whole.all() and ordered.all() and within_unit(table[:, 4]) and (table[:, 5] >= -1).all() and table.any()
    )


def _are_whole(output: OutputEvidence) -> bool:
    numbers = bool(output.arrays) and output.arrays[0].dtype.kind in "iuf"
    return numbers and bool((output.flat == output.flat.round()).all())


def _are_places(output: OutputEvidence) -> bool:
    """Return whether values are coordinates in pixels, or within 0 to 1 (boxes may extend beyond the image)."""
    values = output.flat
    return bool(values.size) and (_in_pixels(values) or bool((values > -0.5).all() and (values < 1.5).all()))


def _are_corners(boxes: Floats) -> bool:
    return bool(((boxes[:, 2] >= boxes[:, 0]) & (boxes[:, 3] >= boxes[:, 1])).mean() > 0.99)


def _are_offsets(boxes: Floats) -> bool:
    """Return whether boxes are offsets within cells and logarithms of sizes, which are small or negative."""
    return bool((boxes[:, 2:] < 0).any()) or float(np.quantile(np.abs(boxes), 0.99)) < 8


def _in_pixels(boxes: Floats) -> bool:
    return bool(boxes.size) and float(np.quantile(boxes, 0.9)) > 2
