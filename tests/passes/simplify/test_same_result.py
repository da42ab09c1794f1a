"""The same model comes out, byte for byte: a second time, in another process, and with the rules in another order."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import onnx_ir as ir
import pytest
from canonical_form import canonical_form
from rule_order import simplify_in_order
from sample_models import from_text
from zoo import MODELS, zoo_file

import onnxslim
from onnxslim.model import canonicalize, open_model

RESNET8 = MODELS / "fashion_resnet8.onnx"

SHAPES_AND_CHAINS = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,C,8,8] x)
    => (float[N,64] y, float[N,C,8,8] z) {
    a = Transpose <perm = [0, 2, 3, 1]> (x)  b = Relu (a)  c = Relu (b)  d = Transpose <perm = [0, 3, 1, 2]> (c)
    one = Constant <value_float = 1.0> ()  e = Mul (d, one)  f = Neg (e)  g = Neg (f)  h = Identity (g)
    two = Constant <value_float = 2.0> ()  three = Constant <value_float = 3.0> ()
    i = Mul (h, two)  z = Mul (i, three)
    s = ReduceMean <axes = [1], keepdims = 0> (h)  t = Flatten (s)  shape = Shape (t)  y = Reshape (t, shape) }"""


def written(source: pathlib.Path, target: pathlib.Path) -> bytes:
    onnxslim.optimize(source, "simplify", output=target, measure=False)
    return target.read_bytes()


@pytest.mark.parametrize("parts", [None, ("onnx", "cifar10_resnet20.onnx")])
def test_a_second_run_writes_the_same_bytes(tmp_path: pathlib.Path, parts: tuple[str, ...] | None) -> None:
    source = RESNET8 if parts is None else zoo_file(*parts)
    first = written(source, tmp_path / "first.onnx")
    assert first != source.read_bytes()
    assert written(tmp_path / "first.onnx", tmp_path / "second.onnx") == first


def test_a_second_run_of_what_is_not_simple_in_every_way(tmp_path: pathlib.Path) -> None:
    source = tmp_path / "source.onnx"
    ir.save(from_text(SHAPES_AND_CHAINS), source)
    first = written(source, tmp_path / "first.onnx")
    assert written(tmp_path / "first.onnx", tmp_path / "second.onnx") == first


def test_hashes_decide_nothing(tmp_path: pathlib.Path) -> None:
    source = tmp_path / "source.onnx"
    ir.save(from_text(SHAPES_AND_CHAINS), source)
    made = set()
    for seed in ("1", "2"):
        target = tmp_path / f"{seed}.onnx"
        code = f"import onnxslim; onnxslim.optimize({str(source)!r}, 'simplify', output={str(target)!r}, measure=False)"
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, check=True)
        made.add(target.read_bytes())
    assert len(made) == 1


@pytest.mark.parametrize("which", ["text", "resnet8"])
def test_the_order_of_rules_does_not_matter(which: str) -> None:
    forms = set()
    for order in range(4):
        model = from_text(SHAPES_AND_CHAINS) if which == "text" else open_model(RESNET8)
        canonicalize(model)
        simplify_in_order(model, order)
        forms.add(canonical_form(model))
    assert len(forms) == 1


def test_the_canonical_form_tells_models_apart() -> None:
    texts = ("y = Sub (x, w)", "y = Sub (w, x)", "y = Add (x, w)", "t = Add (x, w)  y = Add (t, w)")
    head = '<ir_version: 8, opset_import: ["" : 17]> g (float[N] x, float[N] w) => (float[N] y)'
    assert len({canonical_form(from_text(f"{head} {{ {text} }}")) for text in texts}) == len(texts)
    same = ("a = Neg (x)  b = Exp (w)  y = Add (a, b)", "q = Exp (w)  r = Neg (x)  y = Add (q, r)")
    assert len({canonical_form(from_text(f"{head} {{ {text} }}")) for text in same}) == 1
