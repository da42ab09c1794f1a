"""Local functions are inlined when a model is opened: the outputs stay, the names are readable, no function is left."""

from __future__ import annotations

import pathlib
import random
from collections.abc import Callable

import numpy as np
import onnx
import onnx.inliner
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest

import onnxslim
from onnxslim.commands.inspect import inspect
from onnxslim.errors import ModelUnreadable
from onnxslim.model import open_model, save_model
from onnxslim.model.inlining import DIAGNOSTICS, MOST_NODES, _is_equivalent

HEAD = '<ir_version: 8, opset_import: ["" : 17, "local" : 1]>'
X = np.array([-2.0, 0.5, 3.0], np.float32)

CALLED_TWICE = f"""
{HEAD}
g (float[N] x) => (float[N] y) {{ a = local.Block (x)  h = Neg (a)  y = local.Block (h) }}
<domain: "local", opset_import: ["" : 17]>
Block (u) => (v) {{ h = Relu (u)  v = Add (h, u) }}
"""
NESTED = f"""
{HEAD}
g (float[N] x) => (float[N] y) {{ y = local.Outer (x) }}
<domain: "local", opset_import: ["" : 17, "local" : 1]>
Outer (u) => (v) {{ h = local.Inner (u)  k = local.Inner (h)  v = Add (h, k) }}
<domain: "local", opset_import: ["" : 17]>
Inner (u) => (v) {{ h = Abs (u)  v = Sqrt (h) }}
"""
ATTRIBUTES = f"""
{HEAD}
g (float[N] x) => (float[N] y) {{ a = local.Leak <slope = 0.25> (x)  y = local.Leak (a) }}
<domain: "local", opset_import: ["" : 17]>
Leak <slope: float = 0.5> (u) => (v) {{
    c = Constant <value_float: float = @slope> ()
    w = LeakyRelu <alpha: float = @slope> (u)
    v = Mul (w, c)
}}
"""
PASSED_ON = f"""
{HEAD}
g (float[N] x) => (float[N] y, float[N] z) {{ y, z = local.Both (x) }}
<domain: "local", opset_import: ["" : 17]>
Both (u) => (h, u) {{ h = Relu (u) }}
"""
FEWER = f"""
{HEAD}
g (float[N] x) => (float[N] y) {{ a = local.Many (x)  _, b = local.Many (a)  y = Add (a, b) }}
<domain: "local", opset_import: ["" : 17]>
Many (u, lower, upper) => (v, w) {{ v = Clip (u, lower, upper)  w = Neg (v) }}
"""
IN_BRANCHES = f"""
{HEAD}
g (float[N] x) => (float[N] y) {{
    s = ReduceSum <keepdims = 0> (x)
    zero = Constant <value_float = 0.0> ()
    c = Greater (s, zero)
    y = If (c) <
        then_branch = t () => (float[N] o) {{ h = local.Pick (x)  o = Neg (h) }},
        else_branch = e () => (float[N] p) {{ p = local.Pick (x) }}
    >
}}
<domain: "local", opset_import: ["" : 17]>
Pick (u) => (v) {{
    one = Constant <value_float = 1.0> ()
    m = ReduceMax <keepdims = 0> (u)
    c = Less (m, one)
    v = If (c) <
        then_branch = t () => (o) {{ h = Neg (u)  o = Abs (h) }},
        else_branch = e () => (p) {{ h = Add (u, one)  p = Exp (h) }}
    >
}}
"""
IN_A_LOOP = f"""
{HEAD}
g (float[2] x) => (float[2] y) {{ a = local.Thrice (x)  y = local.Thrice (a) }}
<domain: "local", opset_import: ["" : 17, "local" : 1]>
Thrice (u) => (v) {{
    n = Constant <value_int = 3> ()
    yes = Constant <value = bool {{1}}> ()
    v = Loop (n, yes, u) <body = b (int64 i, bool go, float[2] s) => (bool on, float[2] t) {{
        on = Identity (go)
        t = local.Grow (s)
    }}>
}}
<domain: "local", opset_import: ["" : 17]>
Grow (u) => (v) {{ i = Abs (u)  v = Add (i, u) }}
"""
OLDER = """
<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
g (float[N] x) => (float[N] y) { y = local.Act (x) }
<domain: "local", opset_import: ["" : 15]>
Act (u) => (v) { h = Elu (u)  v = Softsign (h) }
"""


def block(u: np.ndarray) -> np.ndarray:
    return np.maximum(u, 0) + u


def pick(u: np.ndarray) -> np.ndarray:
    return np.abs(-u) if u.max() < 1 else np.exp(u + 1)


def grow(u: np.ndarray) -> np.ndarray:
    return np.abs(u) + u


Outputs = tuple[np.ndarray, ...]
ALL: dict[str, tuple[str, Callable[[np.ndarray], Outputs]]] = {
    "called twice": (CALLED_TWICE, lambda x: (block(-block(x)),)),
    "nested": (NESTED, lambda x: (np.sqrt(np.abs(x)) + np.sqrt(np.sqrt(np.abs(x))),)),
    "attributes": (ATTRIBUTES, lambda x: (np.where(x < 0, 0.25 * 0.25 * 0.5 * 0.5, 0.25 * 0.5) * x,)),
    "passed on": (PASSED_ON, lambda x: (np.maximum(x, 0), x)),
    "fewer": (FEWER, lambda x: (x - x,)),
    "in branches": (IN_BRANCHES, lambda x: (-pick(x) if x.sum() > 0 else pick(x),)),
    "in a loop": (IN_A_LOOP, lambda x: (grow(grow(grow(grow(grow(grow(x)))))),)),
    "older": (OLDER, lambda x: (np.where(x < 0, np.expm1(x), x) / (1 + np.abs(np.where(x < 0, np.expm1(x), x))),)),
}


def write(folder: pathlib.Path, text: str) -> pathlib.Path:
    path = folder / "model.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def run(path: pathlib.Path, x: np.ndarray) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})


@pytest.mark.parametrize(("text", "expected"), ALL.values(), ids=ALL.keys())
def test_calls_become_their_bodies(
    tmp_path: pathlib.Path, text: str, expected: Callable[[np.ndarray], Outputs]
) -> None:
    path = write(tmp_path, text)
    model = open_model(path)
    assert not model.functions
    assert dict(model.opset_imports) == {"": 17}
    assert model.graph.meta[DIAGNOSTICS] == ()
    save_model(model, tmp_path / "out.onnx")
    after = onnx.load(tmp_path / "out.onnx")
    onnx.checker.check_model(after, full_check=True)
    assert not after.functions
    for sign in (1, -1):
        x = sign * (X[:2] if "float[2]" in text else X)
        for one, two in zip(expected(x), run(tmp_path / "out.onnx", x), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-6)


def test_names_tell_the_function_and_stay_those_of_the_interface(tmp_path: pathlib.Path) -> None:
    model = open_model(write(tmp_path, CALLED_TWICE))
    assert [output.name for node in model.graph for output in node.outputs] == [
        "Block/h",
        "a",
        "h",
        "Block/h_2",
        "y",
    ]
    assert [node.name for node in model.graph][:2] == ["Block/Relu", "Block/Add"]


def test_who_asks_for_it_keeps_the_calls(tmp_path: pathlib.Path) -> None:
    model = open_model(write(tmp_path, NESTED), inline=False)
    assert [node.op_type for node in model.graph] == ["Outer"]
    assert len(model.functions) == 2
    result = onnxslim.optimize(tmp_path / "model.onnx", inline=False, measure=False)
    assert [node.op_type for node in result.model.graph] == ["Outer"]


def test_what_was_inlined_is_simplified(tmp_path: pathlib.Path) -> None:
    text = f"""{HEAD} g (float[N] x) => (float[N] y) {{ a = local.Half (x)  y = local.Half (a) }}
    <domain: "local", opset_import: ["" : 17]>
    Half (u) => (v) {{ one = Constant <value_float = 1.0> ()  w = Mul (u, one)  v = Relu (w) }}"""
    result = onnxslim.optimize(write(tmp_path, text), measure=False)
    assert [node.op_type for node in result.model.graph] == ["Relu"]
    assert result.report.diagnostics == ()


def test_functions_in_a_circle_are_called_that(tmp_path: pathlib.Path) -> None:
    text = f"""{HEAD} g (float[N] x) => (float[N] y) {{ y = local.A (x) }}
    <domain: "local", opset_import: ["" : 17, "local" : 1]>
    A (u) => (v) {{ v = local.B (u) }}
    <domain: "local", opset_import: ["" : 17, "local" : 1]>
    B (u) => (v) {{ v = local.A (u) }}"""
    with pytest.raises(ModelUnreadable, match=r"in a circle: local::\w -> local::\w -> local::\w"):
        open_model(write(tmp_path, text))


def test_a_function_whose_ops_mean_another_thing_stays_and_the_report_says_so(tmp_path: pathlib.Path) -> None:
    text = f"""{HEAD} g (float[N] x) => (float[M] y, float[N] z) {{ y = local.Total (x)  z = local.Soft (x) }}
    <domain: "local", opset_import: ["" : 12]>
    Total (u) => (v) {{ v = ReduceSum <axes = [0], keepdims = 0> (u) }}
    <domain: "local", opset_import: ["" : 12]>
    Soft (u) => (v) {{ v = Elu (u) }}"""
    path = write(tmp_path, text.replace("float[M] y", "float y"))
    result = onnxslim.optimize(path, check=False)
    assert [name[1] for name in result.model.functions] == ["Total"]
    (diagnostic,) = result.report.diagnostics
    assert diagnostic.code == "function-not-inlined"
    assert "local::Total" in diagnostic.message
    assert "ReduceSum is another op" in diagnostic.message


@pytest.mark.parametrize(
    ("op", "same"),
    [("Relu", True), ("Add", True), ("Gemm", True), ("Softmax", False), ("ReduceSum", False), ("Split", False)],
)
def test_ops_mean_the_same_where_only_their_types_were_widened(op: str, same: bool) -> None:
    node = ir.Node("", op, [None])
    assert _is_equivalent(node, 12, 17) is same
    assert _is_equivalent(node, 17, 17)
    assert not _is_equivalent(ir.Node("", "Nobody", [None]), 12, 17)


def test_functions_that_double_with_each_level_stay_calls(tmp_path: pathlib.Path) -> None:
    levels = 40
    text = f"{HEAD} g (float[N] x) => (float[N] y) {{ y = local.F{levels} (x) }}"
    for level in range(levels + 1):
        body = "v = Neg (u)" if level == 0 else f"w = local.F{level - 1} (u)  v = local.F{level - 1} (w)"
        text += f'<domain: "local", opset_import: ["" : 17, "local" : 1]> F{level} (u) => (v) {{ {body} }}'
    model = open_model(write(tmp_path, text))
    assert len(model.functions) == levels + 1
    assert f"more than {MOST_NODES:,}" in model.graph.meta[DIAGNOSTICS][0].message


def test_functions_that_nobody_calls_go(tmp_path: pathlib.Path) -> None:
    text = CALLED_TWICE.replace("a = local.Block (x)  h = Neg (a)  y = local.Block (h)", "y = Neg (x)")
    model = open_model(write(tmp_path, text))
    assert not model.functions
    assert "local" not in model.opset_imports


def random_functions(seed: int) -> str:
    """Return a model of a few functions that call each other, now and then within a branch."""
    drawn = random.Random(seed)
    functions: list[tuple[str, int, int]] = []

    def call(values: list[str], place: int) -> str:
        callee = drawn.randrange(len(functions))
        _, inputs, outputs = functions[callee]
        made = [f"t{place}_{each}" for each in range(outputs)]
        given = [drawn.choice(values) for _ in range(inputs)]
        values += made
        return f"{', '.join(made)} = local.F{callee} ({', '.join(given)})"

    def node(values: list[str], place: int) -> str:
        one, other = drawn.choice(values), drawn.choice(values)
        values.append(f"n{place}")
        return f"n{place} = {drawn.choice(['Add', 'Mul', 'Sub'])} ({one}, {other})"

    def branch(values: list[str], place: int) -> str:
        one, other, asked = (drawn.choice(values) for _ in range(3))
        values.append(f"o{place}")
        return f"""c{place} = ReduceSum <keepdims = 0> ({asked})  z{place} = Constant <value_float = 0.1> ()
            b{place} = Greater (c{place}, z{place})  o{place} = If (b{place}) <
                then_branch = then () => (r) {{ h = Neg ({one})  r = Abs (h) }},
                else_branch = otherwise () => (q) {{ h = Tanh ({other})  q = Sin (h) }}>"""

    for number in range(drawn.randint(1, 5)):
        names = [f"i{each}" for each in range(drawn.randint(1, 3))]
        values = list(names)
        kinds = [node, branch, *([call] * 2 if number else [])]
        body = "\n".join(drawn.choice(kinds)(values, place) for place in range(drawn.randint(1, 4)))
        results = values[len(names) :][-drawn.randint(1, 2) :]
        text = f'<domain: "local", opset_import: ["" : 17, "local" : 1]> F{number} ({", ".join(names)}) => '
        functions.append((f"{text} ({', '.join(results)}) {{ {body} }}", len(names), len(results)))
    values = ["x"]
    body = "\n".join(call(values, place) for place in range(4))
    graph = f"g (float[N] x) => (float[N] y) {{ {body}  y = Identity ({values[-1]}) }}"
    return "\n".join([HEAD, graph, *(text for text, _, _ in functions)])


@pytest.mark.parametrize("seed", range(12))
def test_the_inliner_of_onnx_makes_the_same(tmp_path: pathlib.Path, seed: int) -> None:
    path = write(tmp_path, random_functions(seed))
    onnx.save(onnx.inliner.inline_local_functions(onnx.load(path)), tmp_path / "expected.onnx")
    model = open_model(path)
    assert not model.functions
    save_model(model, tmp_path / "out.onnx")
    x = np.random.default_rng(seed).normal(size=5).astype(np.float32)
    (expected,), (got,) = run(tmp_path / "expected.onnx", x), run(tmp_path / "out.onnx", x)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_products_within_functions_are_quantized_and_pruned(tmp_path: pathlib.Path) -> None:
    text = f"""{HEAD} g (float[N,16] x, float[16,32] w, float[32,8] v) => (float[N,8] y) {{ y = local.Two (x, w, v) }}
    <domain: "local", opset_import: ["" : 17]>
    Two (u, w, v) => (t) {{ m = MatMul (u, w)  r = Relu (m)  t = MatMul (r, v) }}"""
    proto = onnx.parser.parse_model(text)
    generator = np.random.default_rng(0)
    for value in list(proto.graph.input)[1:]:
        shape = [size.dim_value for size in value.type.tensor_type.shape.dim]
        array = generator.normal(size=shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
        proto.graph.input.remove(value)
    samples = {"x": generator.normal(size=(64, 16)).astype(np.float32)}
    result = onnxslim.optimize(proto, "prune:ratio=0.5:align=1,quant", data=samples, measure=False)
    pruned = next(record for record in result.report.passes if record.name == "prune")
    assert any("-> " in note.action for note in pruned.changes)
    assert sum(node.op_type == "QuantizeLinear" for node in result.model.graph) >= 2
    assert not result.model.functions


def test_inspect_shows_what_is_inside_unless_asked_not_to(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, CALLED_TWICE)
    assert inspect(path).ops == {"Relu": 2, "Add": 2, "Neg": 1}
    assert inspect(path, inline=False).ops == {"local.Block": 2, "Neg": 1}
