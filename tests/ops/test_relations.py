"""What is not known before a model runs is frozen, and says why."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from sample_models import from_text

from onnxslim.analysis.axis_relations import AxisRelations
from onnxslim.analysis.coupling import Coupling, relate
from onnxslim.analysis.labels import solve
from onnxslim.analysis.shapes import infer_shapes


def model(node: str, inputs: str, **constants: np.ndarray) -> ir.Model:
    text = f'<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]> g ({inputs}) => (y) {{ {node} }}'
    names = ", ".join(f"float {name}" for name in constants)
    text = text.replace(") => (y)", f"{', ' + names if names else ''}) => (float y)")
    result = from_text(text, **constants)
    for output in result.graph.outputs:
        output.shape = output.type = None
    infer_shapes(result)
    return result


def solved(net: ir.Model) -> Coupling:
    relations = AxisRelations()
    relate(net.graph, relations)
    return Coupling(relations, solve(relations), {})


def constant(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


@pytest.mark.parametrize(
    ("node", "inputs", "constants"),
    [
        ("y = NonZero (x)", "float[6] x", {}),
        ("y = RandomNormalLike (x)", "float[6] x", {}),
        ("y = GatherElements (x, a)", "float[6] x, int64[3] a", {}),
        ("y = Tile (x, a)", "float[6] x, int64[1] a", {}),
        ("y = CumSum (x, a)", "float[6] x, int64 a", {}),
        ("y = Reshape (x, a)", "float[6,4] x, int64[2] a", {}),
        ("y = Reshape (x, a)", "float[N,6,4] x", {"a": constant(6, -1)}),
        ("y = Reshape (x, a)", "float[2,3] x", {"a": constant(3, 2)}),
        ("y = Expand (x, a)", "float[6,4] x, int64[2] a", {}),
        ("y = ConstantOfShape (a)", "int64[2] a", {}),
        ("y, z = Split (x, a)", "float[6,4] x, int64[2] a", {}),
        ("y = Slice (x, a, b)", "float[6] x, int64[1] a, int64[1] b", {}),
        ("y = Gather (x, a)", "float[6] x, int64[3] a", {}),
        ("y = Pad (x, a)", "float[6] x, int64[2] a", {}),
        ("y = Resize (x, , a)", "float[6] x, float[1] a", {}),
        ("y = ReduceMean (x, a)", "float[6,4] x, int64[1] a", {}),
        ("y = Concat <axis=0> (x, z)", "float[6] x, float[N] z", {}),
        ("y = QuantizeLinear <axis=0, block_size=2> (x, z)", "float[6,4] x, float[3,4] z", {}),
        (
            'y = Resize <coordinate_transformation_mode="tf_crop_and_resize"> (x, r, , a)',
            "float[6] x, float[2] r",
            {"a": constant(6)},
        ),
    ],
)
def test_what_is_computed_when_the_model_runs_is_frozen(
    node: str, inputs: str, constants: dict[str, np.ndarray]
) -> None:
    coupling = solved(model(node, inputs, **constants))
    for value, axes in coupling.relations.values().items():
        for axis in range(len(axes)):
            labels = coupling.of(value, axis)
            if labels is not None and value.name == "x":
                assert (coupling.labels.reason[coupling.labels.root[labels]] >= 0).all(), value
