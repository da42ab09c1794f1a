"""Gradients of interpolation: each axis is multiplied by a matrix, and what comes back by the transposed one.

The matrix is what the op itself makes of the unit vectors, so that it interpolates as the runtime does.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxslim.errors import NotDifferentiable
from onnxslim.ops.fact import Unknowable
from onnxslim.ops.families.stretching import resize_axes, resize_scales
from onnxslim.ops.gradient import Gradient, GradientSite, Shape, static_shape
from onnxslim.ops.parameters import describe, read
from onnxslim.ops.signatures import OpName

MOST_ELEMENTS = 2**24
"""Of the matrix of an axis (64 MiB in float32)."""
OF_ALL_AXES = frozenset({"axes", "keep_aspect_ratio_policy"})
"""Attributes that say something of several axes."""


@dataclasses.dataclass(frozen=True)
class Stretched:
    """An axis that is interpolated."""

    axis: int
    length: int
    places: int
    """Its length in the result."""
    scale: float | None
    """None: the length of the result is told."""
    region: tuple[float, float] | None
    """The part of it that is read, from 0 to 1; None: all of it."""


def resize(site: GradientSite) -> Mapping[int, ir.Value | None]:
    """Resize (x, region, scales, sizes): an interpolation of one axis after the other."""
    found, axes = site.incoming(), _axes(site)
    if all(_repeats(site, axis) for axis in axes):
        return {0: _summed(site, found, axes)}
    for axis in reversed(axes):
        found = _multiplied(site, found, axis)
    return {0: found}


def _axes(site: GradientSite) -> list[Stretched]:
    """Return the axes of which other elements than their own are made."""
    shape, result = site.shape(), site.result_shape()
    axes = resize_axes(site, len(shape))
    scales = None if site.has(3) else resize_scales(site)
    cropped = read(site, "coordinate_transformation_mode") == "tf_crop_and_resize"
    regions = site.elements(1) if cropped else None
    if (scales is None and not site.has(3)) or (cropped and regions is None):
        raise Unknowable
    found = []
    for index, axis in enumerate(axes):
        scale = None if scales is None else scales[index]
        if scales is not None and not isinstance(scale, (int, float)):
            raise Unknowable
        region = None if regions is None else (regions[index], regions[len(axes) + index])
        if region is not None and not all(isinstance(end, (int, float)) for end in region):
            raise Unknowable
        if cropped or result[axis] != shape[axis] or scale not in (None, 1):
            found.append(Stretched(axis, shape[axis], result[axis], scale, region))  # type: ignore[arg-type]  # checked
    return found


def _repeats(site: GradientSite, axis: Stretched) -> bool:
    """Whether each element is repeated as often as the next."""
    if read(site, "mode") != "nearest" or axis.region is not None or axis.places % axis.length:
        return False
    if axis.scale is not None and axis.scale * axis.length != axis.places:
        return False
    rounded = read(site, "nearest_mode")
    if read(site, "coordinate_transformation_mode") == "asymmetric":
        return bool(rounded == "floor")
    centred = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel")
    return read(site, "coordinate_transformation_mode") in centred and rounded.startswith("round")


def _summed(site: GradientSite, value: ir.Value, axes: Sequence[Stretched]) -> ir.Value:
    """Return the sums over the places at which each element is repeated."""
    times = {axis.axis: axis.places // axis.length for axis in axes}
    shape: list[int] = []
    summed: list[int] = []
    for axis, size in enumerate(site.shape()):
        shape.append(size)
        if axis in times:
            summed.append(len(shape))
            shape.append(times[axis])
    return site.sum(site.reshape(value, shape), summed)


def _multiplied(site: GradientSite, value: ir.Value, axis: Stretched) -> ir.Value:
    shape = static_shape(value)
    before, after = math.prod(shape[: axis.axis]), math.prod(shape[axis.axis + 1 :])
    matrix = _matrix(site, axis)
    if after == 1:
        product = site.op("MatMul", site.reshape(value, [before, axis.places]), matrix)
    else:
        rows = site.reshape(value, [before, axis.places, after])
        product = site.op("MatMul", site.op("Transpose", matrix, perm=[1, 0]), rows)
    return site.reshape(product, _with(shape, axis.axis, axis.length))


def _matrix(site: GradientSite, axis: Stretched) -> ir.Value:
    """Return the matrix of an axis: [its length in the result, its length]."""
    if axis.length * max(axis.length, axis.places) > MOST_ELEMENTS:
        raise NotDifferentiable(
            f"{describe(site.node)} interpolates an axis of {axis.length} elements to {axis.places}, too many for a "
            f"matrix of at most {MOST_ELEMENTS}",
            where=site.node.name or None,
            hint="fix the sizes of the inputs to smaller ones",
        )
    x = site.operand()
    assert x.dtype is not None
    unit = np.eye(axis.length, dtype=x.dtype.numpy())[None, None]
    attributes: dict[str, Any] = {
        name: attribute.value for name, attribute in site.node.attributes.items() if name not in OF_ALL_AXES
    }
    if axis.region is not None:
        attributes["extrapolation_value"] = 0.0
    region = None if axis.region is None else np.array([0, 0, axis.region[0], 0, 1, 1, axis.region[1], 1], np.float32)
    scales = None if axis.scale is None else np.array([1, 1, axis.scale, 1], np.float32)
    sizes = None if axis.scale is not None else [1, 1, axis.places, axis.length]
    return site.reshape(site.op("Resize", unit, region, scales, sizes, **attributes), [axis.places, axis.length])


def _with(shape: Shape, axis: int, size: int) -> Shape:
    return (*shape[:axis], size, *shape[axis + 1 :])


GRADIENTS: Mapping[OpName, Gradient] = {("", "Resize"): resize}
