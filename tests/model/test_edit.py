"""New names are those of nothing else, wherever it lies, and what is replaced leaves name, type and readers behind."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from hypothesis import given
from hypothesis import strategies as st
from peak_memory import peak_bytes
from sample_models import from_text

from onnxslim.analysis.contraction import contractions
from onnxslim.analysis.gemm import spread
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.model import open_model
from onnxslim.model.edit import Editor, drop_unused, overwrite, take_over
from onnxslim.runtime.session import Session

HEADER = '<ir_version: 9, opset_import: ["" : 17]> '
NESTED = (
    HEADER
    + """g (bool c, float[2] x) => (float[2] y) {
        [split] a = Relu (x)
        y = If (c) <
            then_branch = t () => (float[2] deep) { deep = Neg (a) },
            else_branch = e () => (float[2] other) { deeper = Abs (a) other = Exp (deeper) }
        >
    }"""
)


def test_a_bias_that_is_new_is_not_called_as_a_value_that_is_there() -> None:
    """ONNX Runtime refuses a model in which two values have one name."""
    model = from_text(
        HEADER
        + "g (float[1,2,4,4] x, float[2,2,3,3] w) => (float y) { a = Conv (x, w) a_bias = Relu (a) y = Neg (a_bias) }",
        w=np.ones((2, 2, 3, 3), np.float32),
    )
    infer_shapes(model)
    (convolution,) = contractions(model.graph)
    convolution.bias.write(Editor(model), np.ones(2))
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    given = Session.of(model).run({"x": np.zeros((1, 2, 4, 4), np.float32)})
    np.testing.assert_array_equal(given["y"], -np.ones((1, 2, 2, 2)))
    assert "a_bias_1" in model.graph.initializers


def test_names_within_nested_graphs_and_of_nodes_are_in_use() -> None:
    editor = Editor(from_text(NESTED))
    names = [editor.name(wanted) for wanted in ("a", "x", "y", "deep", "deeper", "split", "free", "free", "")]
    assert names == ["a_1", "x_1", "y_1", "deep_1", "deeper_1", "split_1", "free", "free_1", "_1"]


def test_numbers_of_names_pass_by_what_is_in_use() -> None:
    model = from_text(HEADER + "g (float[2] q1) => (float[2] y) { q0 = Relu (q1) y = Neg (q0) }")
    editor = Editor(model)
    assert [editor.numbered("q"), editor.name("q3"), editor.numbered("q"), editor.numbered("val_")] == [
        "q2",
        "q3",
        "q4",
        "val_0",
    ]


@given(
    st.lists(st.sampled_from(["a", "a_1", "a_2", "a_1_1", "b"]), max_size=30), st.sets(st.sampled_from(["a_1", "b"]))
)
def test_no_name_is_given_twice(wanted: list[str], there: set[str]) -> None:
    nodes = "".join(f"{name} = Relu (x) " for name in sorted(there))
    editor = Editor(from_text(HEADER + f"g (float[2] x) => (float[2] y) {{ {nodes} y = Neg (x) }}"))
    names = [editor.name(name) for name in wanted]
    assert len({*names, *there}) == len(names) + len(there)
    assert all(name.startswith(stem) for name, stem in zip(names, wanted, strict=True))


def test_gemms_that_are_spread_pass_by_names_that_exporters_give() -> None:
    """The names that torch gives are those that onnx_ir makes up."""
    model = from_text(
        HEADER + "g (float[3,5] x, float[3,4] val_0) => (float[5,4] y) { y = Gemm <transA = 1> (x, val_0) }",
        val_0=np.ones((3, 4), np.float32),
    )
    infer_shapes(model)
    assert spread(model.clone(), lambda node: True) == 1
    spread(model, lambda node: True)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    Session.of(model).run({"x": np.zeros((3, 5), np.float32)})


def test_what_takes_over_has_the_name_the_type_and_the_readers() -> None:
    model = from_text(HEADER + "g (float[2] x) => (float[2] y, float[2] z) { y = Relu (x) z = Neg (y) }")
    first, reader = model.graph
    node = ir.Node("", "Abs", [model.graph.inputs[0]])
    model.graph.insert_before(first, node)
    take_over(node.outputs[0], first.outputs[0])
    model.graph.remove(first, safe=True)
    (new,) = node.outputs
    assert (new.name, new.dtype, new.shape, model.graph.outputs[0]) == ("y", ir.DataType.FLOAT, ir.Shape([2]), new)
    assert reader.inputs[0] is new


def test_other_numbers_leave_shape_and_type() -> None:
    model = from_text(
        HEADER + "g (float16[2,1] x, float16[2,1] w) => (float16[2,1] y) { y = Add (x, w) }",
        w=np.ones((2, 1), np.float16),
    )
    overwrite(model.graph.initializers["w"], np.array([2.0, 3.0]))
    tensor = model.graph.initializers["w"].const_value
    assert tensor is not None
    assert (tensor.dtype, tensor.numpy().tolist()) == (ir.DataType.FLOAT16, [[2.0], [3.0]])


def test_only_what_nothing_needs_is_dropped() -> None:
    zeros = np.zeros(2, np.float32)
    model = from_text(
        HEADER + "g (float[2] x, float[2] read, float[2] given) => (float[2] y, float[2] given) { y = Add (x, read) }",
        read=zeros, given=zeros,
    )  # fmt: skip
    Editor(model).initializer("unused", zeros)
    drop_unused(model.graph, [None, *model.graph.initializers.values(), *model.graph.inputs])
    assert set(model.graph.initializers) == {"read", "given"}


def test_a_clone_knows_the_form_of_the_file(tmp_path) -> None:
    """What undoes the canonical form is kept with the graph; a clone that lost it would be written otherwise."""
    path = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(NESTED), path)
    model = open_model(path)
    assert model.graph.meta
    assert dict(model.clone().graph.meta) == dict(model.graph.meta)


def test_equal_constants_are_one_and_are_in_memory_once() -> None:
    editor = Editor(from_text(HEADER + "g (float[2] x) => (float[2] y) { y = Relu (x) }"))
    large = np.arange(100_000, dtype=np.float32)
    others = [large.copy(), large.reshape(2, -1), large.astype(np.int32), large + 1, np.asfortranarray(large[:9])]
    value = editor.constant("c", large)
    assert [editor.constant("c", other) is value for other in others] == [True, False, False, False, False]
    assert peak_bytes(lambda: editor.constant("c", large * 2)) < 1.5 * large.nbytes
