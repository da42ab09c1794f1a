"""The command that trains: from labels alone, of classes or numbers, with errors of its own for what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from distilled_models import images, network, normalized_network

import onnxslim as package
from onnxslim.runtime.session import Session

HEADER = '<ir_version: 8, opset_import: ["" : 18]> g '
PERCEPTRON = HEADER + (
    "(float[N,8] x) => (float[N,OUT] y) <float[8,32] w, float[32] b, float[32,OUT] v> {"
    " a = MatMul (x, w)  s = Add (a, b)  h = Relu (s)  y = MatMul (h, v) }"
)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Images whose class is told by a network that nobody sees."""
    given = images(400)
    scores = Session.of(network()).run(given)["y"]
    np.savez(tmp_path / "pictures.npz", **given, labels=scores.argmax(1))
    return tmp_path / "pictures.npz"


@pytest.mark.parametrize("opset", [13, 18])
def test_classes_are_learned_from_drawn_weights(onnxslim, pictures: Path, tmp_path: Path, opset: int) -> None:
    path, out = tmp_path / "net.onnx", tmp_path / "out.onnx"
    package.save_model(normalized_network(opset, width=16), path)
    command = ("train", path, "--data", pictures, "-o", out, "--epochs", 20, "--batch", 32, "--rate", 0.01)
    answer = onnxslim(*command, "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    top = told["quality"]["figures"][0]
    assert top["after"]["value"] > top["before"]["value"] + 0.2
    assert told["loss"] == "cross_entropy"
    assert told["loss_after"] < told["loss_before"]
    assert (told["held_out"], told["val"]["samples"], told["weights"]) == (40, 40, "random")
    assert len(told["losses"]) == 21
    before, after = onnx.load(path), onnx.load(out)
    assert [node.op_type for node in after.graph.node] == [node.op_type for node in before.graph.node]
    assert after.opset_import[0].version == opset
    pairs = zip(before.graph.initializer, after.graph.initializer, strict=True)
    assert all((onnx.numpy_helper.to_array(one) != onnx.numpy_helper.to_array(other)).any() for one, other in pairs)
    statistics = {each.name: onnx.numpy_helper.to_array(each) for each in after.graph.initializer}
    assert (statistics["d1"] > 0).all()
    first = out.read_bytes()
    assert onnxslim(*command, "--json").code == 0
    assert out.read_bytes() == first
    tables = onnxslim(*command[:-2], "--epochs", 2, "--fold").out
    for words in ("Loss (cross_entropy)", "Top-1", "random at first", "Written to"):
        assert words in tables
    assert "BatchNormalization" not in [node.op_type for node in onnx.load(out).graph.node]


def test_a_text_without_weights_learns_numbers_and_goes_on_from_them(onnxslim, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((600, 8)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x, labels=np.abs(x[:, :1]) + x[:, 1:2])
    (tmp_path / "net.onnxtxt").write_text(PERCEPTRON.replace("OUT", "1"))
    out, tuned = tmp_path / "out.onnx", tmp_path / "tuned.onnx"
    common = ("--data", tmp_path / "d.npz", "--epochs", 15, "--json")
    answer = onnxslim("train", tmp_path / "net.onnxtxt", "-o", out, *common, "--rate", 0.02)
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert told["loss"] == "mse"
    assert told["loss_after"] < 0.2  # of the variance
    answer = onnxslim("train", out, "-o", tuned, *common, "--weights", "keep")
    assert answer.code == 0, answer.err
    again = json.loads(answer.out)
    assert again["loss_before"] == pytest.approx(told["loss_after"], rel=1e-4)
    assert again["loss_after"] < told["loss_after"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": None}, "carry no labels"),
        ({"labels": np.full(64, 7)}, "a label is 7, and 'y' tells 4 classes"),
        ({"labels": np.zeros((64, 3))}, "no output fits labels that are numbers"),
        ({"labels": np.array(["cat"] * 64)}, "cannot be learned"),
        ({"model": HEADER + "(float[N,8] x) => (float[N,8] y) { y = Relu (x) }"}, "no weights that could be trained"),
        ({"model": "no text"}, "no ONNX text"),
        ({"options": ("-o", "nosuch/out.onnx")}, "nosuch"),
        ({"options": ("-o", "net.onnxtxt")}, "would overwrite the input"),
        ({"options": ("--checkpoint", "data.npz")}, "would overwrite what --data reads"),
        ({"options": ("--weights", "some")}, "--weights: weights cannot be 'some'"),
        ({"options": ("--optimizer", "lion")}, "--optimizer"),
        ({"options": ("--epochs", 0)}, "--epochs: it is 0"),
        ({"options": ("--held-out", 1)}, "--held-out: it is 1"),
        ({"options": ("--rate", "nan")}, "--rate"),
        ({"options": ("--augment", "mixup")}, "after mixup labels are not true any more"),
        ({"options": ("--augment", "flop")}, "no augmentation 'flop'"),
        ({"options": ("--augment", "flip")}, "augment is flip"),
        ({"options": ("--rate", 1e9, "--optimizer", "sgd")}, "the loss ran away"),
    ],
)
def test_what_cannot_be_trained_is_told_without_a_trace(
    onnxslim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.onnxtxt").write_text(change.get("model", PERCEPTRON.replace("OUT", "4")))
    labels = change.get("labels", np.arange(64) % 4)
    x = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
    np.savez("data.npz", x=x, **({} if labels is None else {"labels": labels}))
    options = ("-o", "out.onnx", *change.get("options", ()))
    answer = onnxslim("train", "net.onnxtxt", "--data", "data.npz", *options)
    assert answer.code in (1, 2)
    assert words in " ".join(answer.err.split())
    assert "hint:" in answer.err
    assert "bug in onnxslim" not in answer.err
    assert not Path("out.onnx").exists()
