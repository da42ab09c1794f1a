"""Preprocessing of images: ``size=224x224:mean=0.485/0.456/0.406:...``, or a function of the user."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from onnxslim.arrays import Array
from onnxslim.data.function import import_function, names_function
from onnxslim.errors import BadOptionValue, DataError
from onnxslim.runtime.session import TensorSpec

EXAMPLE = "for example: --preprocess size=224x224:mean=0.485/0.456/0.406:std=0.229/0.224/0.225"
COLORS = {"rgb": "RGB", "bgr": "RGB", "gray": "L"}
"""Colour order -> mode of Pillow that it is read from."""
LAYOUTS = ("nchw", "nhwc")
RESAMPLES = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """Steps of preprocessing: resize, crop, scale, normalize, lay out. value = (pixel / scale - mean) / std."""

    size: tuple[int, ...] = ()
    """(height, width); one number: length of the shorter side; empty: size of the input, or of the image."""
    crop: tuple[int, ...] = ()
    """(height, width) cut from the centre after resizing; one number: a square; empty: none."""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    scale: float = 255.0
    layout: str = ""
    """``nchw`` or ``nhwc``; empty: by the position of 1 or 3 channels in the input's shape."""
    color: str = ""
    """``rgb``, ``bgr`` or ``gray``; empty: as many channels as the input has."""
    resample: str = "bilinear"


def pillow() -> ModuleType:
    """Return Pillow's ``PIL.Image``.

    Raises:
        DataError: It is not installed.
    """
    try:
        return importlib.import_module("PIL.Image")
    except ImportError as error:
        raise DataError(
            "reading images needs Pillow, which is not installed", hint="pip install 'onnxslim-compiler[images]'"
        ) from error


def _numbers(text: str, separator: str, read: Callable[[str], Any]) -> tuple[Any, ...]:
    return tuple(read(part) for part in text.split(separator))


def _one_of(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"it is one of {', '.join(words)}")
        return text.lower()

    return read


def _sides(text: str) -> tuple[int, ...]:
    sides = _numbers(text.lower(), "x", int)
    if len(sides) > 2 or min(sides) < 1:
        raise ValueError("it is height x width, or one number")
    return sides


READERS: dict[str, Callable[[str], Any]] = {
    "size": _sides,
    "crop": _sides,
    "mean": lambda text: _numbers(text, "/", float),
    "std": lambda text: _numbers(text, "/", float),
    "scale": float,
    "layout": _one_of(*LAYOUTS),
    "color": _one_of(*COLORS),
    "resample": _one_of(*RESAMPLES),
}
"""Keys of the text form -> parsers of their values."""


def parse_preprocess(text: str) -> Preprocess:
    """Parse ``key=value:key=value``.

    Raises:
        BadOptionValue: A key is unknown, or its value is invalid.
    """
    values: dict[str, Any] = {}
    where = f"--preprocess {text}"
    for part in filter(None, text.split(":")):
        key, _, value = part.partition("=")
        if key not in READERS:
            raise BadOptionValue(f"there is no key {key!r}", where=where, hint=f"the keys are: {', '.join(READERS)}")
        try:
            values[key] = READERS[key](value)
        except ValueError as error:
            raise BadOptionValue(f"{key} cannot be {value!r}: {error}", where=where, hint=EXAMPLE) from error
    if 0.0 in values.get("std", ()) or values.get("scale") == 0.0:
        hint = "give the deviation of each channel, and 255 as scale"
        raise BadOptionValue("std and scale divide: they cannot be 0", where=where, hint=hint)
    return Preprocess(**values)


def preprocessor(text: str, spec: TensorSpec) -> Callable[[Any], Array]:
    """Return the function from an image (``PIL.Image.Image``) to one sample of `spec`, without its batch axis.

    Raises:
        BadOptionValue: `text` is invalid, or its values do not fit together.
        DataError: `spec` is not an image.
    """
    if names_function(text):
        function = import_function(text, "--preprocess")
        return lambda image: np.asarray(function(image))
    parsed, where = parse_preprocess(text), f"--preprocess {text}"
    if len(spec.shape) != 4:
        hint = "write a function image -> array and name it: --preprocess module:function"
        raise DataError(f"the input {spec.name!r} of rank {len(spec.shape)} is no image", where=where, hint=hint)
    layout = parsed.layout or ("nhwc" if spec.shape[3] in (1, 3) and spec.shape[1] not in (1, 3) else "nchw")
    channel_axis = LAYOUTS.index(layout) * 2 + 1
    color = parsed.color or ("gray" if spec.shape[channel_axis] == 1 else "rgb")
    channels = 1 if color == "gray" else 3
    for name, values in (("mean", parsed.mean), ("std", parsed.std)):
        if len(values) not in (0, 1, channels):
            hint = "give one value, or one for each channel with / between"
            raise BadOptionValue(f"{name} has {len(values)} values for {channels} channels", where=where, hint=hint)
    height, width = (spec.shape[axis] for axis in ((2, 3) if layout == "nchw" else (1, 2)))
    if not parsed.size and not parsed.crop and isinstance(height, int) and isinstance(width, int):
        parsed = dataclasses.replace(parsed, size=(height, width))
    floating = spec.dtype is not None and spec.dtype.kind == "f"
    if not floating and (parsed.mean or parsed.std):
        hint = "leave both out: the input takes the pixels as they are"
        raise BadOptionValue("mean and std need an input of floats", where=where, hint=hint)
    parsed = dataclasses.replace(parsed, layout=layout, color=color)
    return lambda image: apply_preprocess(parsed, image, floating=floating)


def apply_preprocess(preprocess: Preprocess, image: Any, *, floating: bool = True) -> Array:
    """Return `image` (``PIL.Image.Image``) as [C, H, W] or [H, W, C], in float32 or as uint8 pixels."""
    image = image.convert(COLORS[preprocess.color or "rgb"])
    if preprocess.size:
        if len(preprocess.size) == 2:
            height, width = preprocess.size
        else:
            ratio = preprocess.size[0] / min(image.width, image.height)
            height, width = max(1, round(image.height * ratio)), max(1, round(image.width * ratio))
        image = image.resize((width, height), getattr(pillow().Resampling, preprocess.resample.upper()))
    if preprocess.crop:
        height, width = preprocess.crop if len(preprocess.crop) == 2 else preprocess.crop * 2
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
    pixels = np.asarray(image, dtype=np.uint8)
    pixels = pixels[..., np.newaxis] if pixels.ndim == 2 else pixels
    if preprocess.color == "bgr":
        pixels = pixels[..., ::-1]
    array: Array = pixels
    if floating:
        mean = np.asarray(preprocess.mean or (0.0,), np.float32)
        std = np.asarray(preprocess.std or (1.0,), np.float32)
        array = (pixels.astype(np.float32) / np.float32(preprocess.scale) - mean) / std
    return np.ascontiguousarray(array if preprocess.layout == "nhwc" else array.transpose(2, 0, 1))
