"""Light augmentation of images: the functions of `augmentations.onnxtxt`, one after the other, as one model.

What is drawn at random is drawn here and fed, so that a training can be repeated. Sources: mix-up, Zhang et al. 2018;
cut-out, DeVries and Taylor 2017. The teacher sees what the student sees, so no label has to stay true.
"""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

from onnxslim.arrays import Array
from onnxslim.errors import BadOptionValue, UsageError, did_you_mean
from onnxslim.model.inlining import inline_functions
from onnxslim.runtime.session import OpenSession

Draw = Callable[[np.random.Generator, tuple[int, ...]], Mapping[str, Array]]
"""Draws what a function takes beside images of shape [N, C, H, W], by the names of its parameters."""
FARTHEST = 0.125
"""Shifts: share of the height and width, as 4 of 32 pixels."""
HIDDEN = 0.25
"""Cut-out: share of the height and width that is hidden of each image."""
DEVIATION = 0.05
"""Noise: share of the standard deviation of the image."""
MIXING = 0.2
"""Mix-up: both parameters of the beta distribution (Zhang et al. 2018, section 3)."""


def _flip(random: np.random.Generator, shape: tuple[int, ...]) -> Mapping[str, Array]:
    return {"chosen": random.random((shape[0], 1, 1, 1)) < 0.5}


def _shift(random: np.random.Generator, shape: tuple[int, ...]) -> Mapping[str, Array]:
    placement = np.zeros((shape[0], 2, 3), np.float32)
    placement[:, 0, 0] = placement[:, 1, 1] = 1
    for row, size in enumerate((shape[3], shape[2])):  # the grid runs from -1 to 1 along width, then height
        farthest = int(FARTHEST * size)
        placement[:, row, 2] = 2 * random.integers(-farthest, farthest + 1, shape[0]) / size
    return {"placement": placement}


def _cutout(random: np.random.Generator, shape: tuple[int, ...]) -> Mapping[str, Array]:
    def band(size: int) -> Array:
        length = max(1, round(HIDDEN * size))
        first = random.integers(1 - length, size, (shape[0], 1))
        places = np.arange(size)
        hidden: Array = (places >= first) & (places < first + length)
        return hidden

    rows, columns = band(shape[2]), band(shape[3])
    return {"rows": rows[:, None, :, None], "columns": columns[:, None, None, :]}


def _noise(random: np.random.Generator, shape: tuple[int, ...]) -> Mapping[str, Array]:
    return {"drawn": DEVIATION * random.standard_normal(shape, np.float32)}


def _mixup(random: np.random.Generator, shape: tuple[int, ...]) -> Mapping[str, Array]:
    share = random.beta(MIXING, MIXING, (shape[0], 1, 1, 1)).astype(np.float32)
    return {"partner": random.permutation(shape[0]), "share": share}


AUGMENTATIONS: Mapping[str, Draw] = {
    "flip": _flip,
    "shift": _shift,
    "cutout": _cutout,
    "noise": _noise,
    "mixup": _mixup,
}
"""What each function takes, in the order in which they are applied."""


MIXES = frozenset({"mixup"})
"""Those after which a label is that of no image."""
MOVES = frozenset({"flip", "shift"})
"""Those after which labels of pixels are those of others."""


def check_augmentations(names: Sequence[str]) -> None:
    """Check names of augmentations.

    Raises:
        UsageError: There is none of this name.
    """
    for name in names:
        if name not in AUGMENTATIONS:
            hint = f"{did_you_mean(name, AUGMENTATIONS)}there are {', '.join(AUGMENTATIONS)}"
            raise UsageError(f"there is no augmentation {name!r}", hint=hint)


def check_labels_stay(names: Sequence[str], rank: int) -> None:
    """Check that labels stay true after augmentations.

    Args:
        names: Of augmentations.
        rank: Axes of the labels of a batch; three or more are labels of pixels.

    Raises:
        BadOptionValue: They do not.
    """
    wrong = [name for name in names if name in MIXES or (rank > 2 and name in MOVES)]
    if wrong:
        what = f"after {wrong[0]} labels are not true any more"
        hint = "leave it out: it is for training towards another model, without labels"
        raise BadOptionValue(f"augment is {'+'.join(names)}, and {what}", hint=hint)


class Augmentation:
    """Changes the images of a batch at random.

    Args:
        names: Which functions of `AUGMENTATIONS`; their order does not count.
        images: The input that holds images of shape [N, C, H, W].
        open_session: Opens a model on the target.
    """

    def __init__(self, names: Sequence[str], images: str, open_session: OpenSession) -> None:
        check_augmentations(names)
        self._names = [name for name in AUGMENTATIONS if name in names]
        self._images = images
        self._session = open_session(augmentation_model(self._names))

    def __call__(self, feeds: Mapping[str, Array], random: np.random.Generator) -> Mapping[str, Array]:
        """Return the feeds with other images."""
        images = feeds[self._images]
        drawn = {
            f"{name}_{parameter}": array
            for name in self._names
            for parameter, array in AUGMENTATIONS[name](random, images.shape).items()
        }
        return {**feeds, self._images: self._session.run({"x": images, **drawn})["y"]}


@functools.cache
def _functions() -> onnx.ModelProto:
    file = importlib.resources.files("onnxslim.train").joinpath("augmentations.onnxtxt")
    return onnx.parser.parse_model(file.read_text(encoding="utf-8"))


def augmentation_model(names: Sequence[str]) -> ir.Model:
    """Return a model that applies functions one after the other to images ``x``; ``y`` is what comes out.

    What a function takes beside is an input: its name, and that of the parameter.
    """
    model = ir.from_proto(_functions())
    graph = model.graph
    for node in list(graph):
        graph.remove(node, safe=True) if not node.outputs[0].is_graph_output() else None
    images = graph.inputs[0]
    images.shape = ir.Shape(["N", "C", "H", "W"])
    value = images
    example = {name: AUGMENTATIONS[name](np.random.default_rng(0), (1, 1, 1, 1)) for name in names}
    nodes: list[ir.Node] = []
    for name in names:
        function = model.functions["augment", name, ""]
        inputs = [value]
        for parameter in function.inputs[1:]:
            array = example[name][parameter.name or ""]
            kind = ir.TensorType(ir.DataType.from_numpy(array.dtype))
            taken = ir.Value(name=f"{name}_{parameter.name}", type=kind, shape=ir.Shape([None] * array.ndim))
            graph.inputs.append(taken)
            inputs.append(taken)
        node = ir.Node("augment", name, inputs, num_outputs=1)
        node.outputs[0].name = f"{name}_made"
        nodes.append(node)
        value = node.outputs[0]
    (last,) = graph
    last.replace_input_with(0, value)
    for node in nodes:
        graph.insert_before(last, node)
    inline_functions(model)
    return model
