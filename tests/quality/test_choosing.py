"""The metric that fits is chosen, by the labels as well; one that is named is bound, or refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from evidences import evidence_of
from sample_models import from_text
from zoo import zoo_file

from onnxslim.commands.quality_records import quality_diagnostics
from onnxslim.data import open_samples, synthetic_samples
from onnxslim.errors import BadOptionValue
from onnxslim.extensions import Group, extension_names
from onnxslim.metrics.classification import Classification, Reading
from onnxslim.metrics.regression import Regression
from onnxslim.metrics.sqnr import Sqnr
from onnxslim.model import open_model
from onnxslim.quality.choosing import MetricRequest, bind, choose_metric, recognise
from onnxslim.quality.discovery import find_metric
from onnxslim.quality.evidence import gather_evidence, producer_ops
from onnxslim.quality.fidelity import add_run, start_tallies, summarize
from onnxslim.quality.measure import Quality, measure_quality
from onnxslim.quality.metric import Slice
from onnxslim.runtime.session import Session
from onnxslim.runtime.statistics import Interval

SCORES = {"y": np.float32([[0.5, -1, 2]])}


def test_a_request_is_read_before_anything_runs() -> None:
    assert MetricRequest.read(None).given is None
    assert MetricRequest.read("classification").given is Classification
    with pytest.raises(BadOptionValue, match="no metric named"):
        MetricRequest.read("accuracy")
    with pytest.raises(BadOptionValue, match="no module"):
        MetricRequest.read("nosuchmodule:f")


def test_labels_that_a_metric_does_not_understand_rule_it_out() -> None:
    outputs = {"logits": np.float32([[0.5, -1, 2]]), "age": np.float32([[31.5]])}
    evidence = evidence_of(outputs)
    only = evidence_of({"logits": outputs["logits"], "steps": np.float32([[4.0]])})
    assert recognise(only).metric.name == "classification"
    assert isinstance(recognise(dataclasses.replace(only, labels=np.array([30.5]))).metric, Regression)
    unknown = recognise(dataclasses.replace(evidence, labels=np.array([[1.5, 2, 3, 4]])))
    assert unknown.strength > 0, "the error that follows says what is wrong with the labels"


@pytest.mark.parametrize("name", sorted(set(extension_names(Group.METRICS)) - {"detection"}))
def test_a_metric_that_is_named_is_bound_where_shapes_allow(name: str) -> None:
    image = {"x": np.zeros((1, 3, 16, 16), np.float32)}
    outputs = {
        "a": np.random.default_rng(0).normal(size=(1, 12, 16)).astype(np.float32),
        "b": np.random.default_rng(1).normal(size=(1, 12)).astype(np.float32),
    }
    found = bind(find_metric(name), evidence_of(outputs, image), f"--metric {name}")
    assert found.metric.name == name
    assert found.reason.startswith(f"--metric {name}: ")
    rows = found.metric.gather(found.metric.rows(outputs, outputs, None, 1))
    assert found.metric.loss(rows) == pytest.approx(0.0, abs=1e-12)


def test_a_metric_that_fits_no_output_is_refused() -> None:
    with pytest.raises(BadOptionValue, match=r"no output fits detection: y \[1, 3\]") as caught:
        bind(find_metric("detection"), evidence_of(SCORES), "--metric detection")
    assert caught.value.exit_code == 2


BRANCHES = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N,3] x, bool c) => (float[N,1] p, float[N,3] q, float[N,3] x2) {
  s = If (c) <
    then_branch = one () => (float[N,3] a) { b = Sigmoid (x) a = Identity (b) },
    else_branch = two () => (float[N,3] d) { e = Tanh (x) d = Cast <to = 1> (e) }
  >
  p = ReduceMean <axes = [1]> (s)
  h = Relu (x)
  q = Concat <axis = 0> (h, x)
  x2 = Identity (x)
}
"""


def test_what_makes_an_output_stands_before_what_only_moves_it() -> None:
    model = from_text(BRANCHES)
    made = {value.name: producer_ops(value) for value in model.graph.outputs}
    assert set(made["p"]) == {"Sigmoid", "Tanh"}
    assert made["q"] == ("Relu",)
    assert made["x2"] == ()


def test_evidence_is_gathered_from_a_few_samples() -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,3] x) => (float[N,3] y) { y = Softmax (x) }'
    model = from_text(text)
    session = Session.of(model)
    samples = open_samples(
        {"x": np.eye(3, dtype=np.float32).repeat(10, 0), "labels": np.arange(30) % 3}, session.inputs
    )
    evidence = gather_evidence(session, model, samples)
    assert len(evidence.outputs[0].values) == len(evidence.counts) == 8
    assert evidence.outputs[0].sums_to_one(-1)
    assert evidence.outputs[0].ops == ("Softmax",)
    assert evidence.labels is not None
    assert (evidence.images, evidence.tokens) == ((), None)
    images = evidence_of({}, {"a": np.zeros((1, 3, 20, 30)), "b": np.zeros((1, 10, 12, 1)), "c": np.zeros((1, 3))})
    assert images.images == ((20, 30), (10, 12))
    assert evidence_of({}, {"ids": np.zeros((1, 7), np.int64)}).tokens == "ids"


def test_where_no_task_is_recognised_the_user_is_told() -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,5,7,3] x) => (float[N,5,7,3] y) { y = Abs (x) }'
    model = from_text(text)
    session = Session.of(model)
    values = np.random.default_rng(0).normal(size=(4, 5, 7, 3)).astype(np.float32)
    samples = open_samples({"x": values, "labels": np.arange(4)}, session.inputs)
    chosen = choose_metric(MetricRequest(), session, model, samples)
    assert chosen.metric.name == "sqnr"
    quality = measure_quality(chosen, session, session, samples, generator=np.random.default_rng(0))
    assert not quality.labelled
    codes = [diagnostic.code for diagnostic in quality_diagnostics(quality, labelled=True)]
    assert codes == ["no-metric", "labels-unread"]
    named = choose_metric(MetricRequest.read("sqnr"), session, model, samples)
    quality = measure_quality(named, session, session, samples, generator=np.random.default_rng(0))
    assert [diagnostic.code for diagnostic in quality_diagnostics(quality, labelled=False)] == []


@pytest.mark.parametrize(("noise", "warned"), [(0.5, True), (0.01, False)])
def test_scores_that_died_beside_large_boxes_are_told(noise: float, warned: bool) -> None:
    generator = np.random.default_rng(0)
    whole = np.concatenate([generator.uniform(10, 600, (4, 50)), generator.uniform(0, 1, (3, 50))])[None]
    given = whole.copy()
    given[:, 4:] += generator.normal(0, noise, (1, 3, 50))
    given[:, :4] += generator.normal(0, 1, (1, 4, 50))
    parts = Slice("y", "boxes", -2, 0, 4), Slice("y", "scores", -2, 4, 7)
    tallies = start_tallies(["y"], parts)
    add_run(tallies, {"y": whole.astype(np.float32)}, {"y": given.astype(np.float32)}, 1)
    fidelity = summarize(list(tallies.values()), generator)
    zero = Interval(0.0, 0.0, 0.0)
    quality = Quality(Sqnr(("y",)), "asked for", True, False, zero, (), None, fidelity, np.zeros((1, 2)))
    codes = [diagnostic.code for diagnostic in quality_diagnostics(quality, labelled=False)]
    assert codes == (["weak-slice"] if warned else [])


def test_figures_come_with_intervals_that_hold_them() -> None:
    model = from_text('<ir_version: 8, opset_import: ["" : 17]> g (float[N,3] x) => (float[N,3] y) { y = Neg (x) }')
    other = from_text(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,3] x, float[3] b) => (float[N,3] y) '
        "{ n = Neg (x) y = Add (n, b) }",
        b=np.float32([0.3, 0, 0]),
    )
    session, candidate = Session.of(model), Session.of(other)
    values = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    labels = np.where(np.arange(200) % 10 == 0, 0, (-values).argmax(1))
    for samples in (
        open_samples({"x": values}, session.inputs),
        open_samples({"x": values, "labels": labels}, session.inputs),
    ):
        chosen = choose_metric(MetricRequest(), session, model, samples)
        assert chosen.metric == Classification("y", Reading.SCORES, -1, 3)
        quality = measure_quality(chosen, session, candidate, samples, generator=np.random.default_rng(0), size=32)
        assert len(quality.rows) == 200
        (figure,) = quality.figures
        for interval in (figure.before, figure.after, figure.change, quality.loss):
            assert interval.low <= interval.value <= interval.high
        if samples.labelled:
            assert quality.loss.value == pytest.approx(-figure.change.value)
        else:
            assert 0 < quality.loss.value < 1, "estimated, from more than the flips"
        paired = figure.change.high - figure.change.low
        if samples.labelled:
            assert paired < figure.before.high - figure.before.low + figure.after.high - figure.after.low


@pytest.mark.zoo
@pytest.mark.parametrize("path", ["fashion/resnet8.onnx", "fashion/resnet18.onnx", "onnx/cifar10_resnet20.onnx"])
def test_trained_classifiers_are_classifiers(path: str) -> None:
    model = open_model(zoo_file(*path.split("/")))
    session = Session.of(model)
    chosen = choose_metric(MetricRequest(), session, model, synthetic_samples(model, 4, session=session))
    assert chosen.metric == Classification("logits", classes=10)


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("name", "metric"),
    [("unet.ts", "segmentation"), ("bert_small.dynamo", "embedding"), ("lstm.ts", "classification")],
)
def test_graphs_without_weights_tell_their_task_by_shapes_and_ops(name: str, metric: str) -> None:
    made = onnx.load(zoo_file("thin", f"{name}.onnx"), load_external_data=False)
    shapes = [[size.dim_value for size in value.type.tensor_type.shape.dim] for value in made.graph.output]
    model = ir.from_proto(made)
    inputs = {
        value.name: np.zeros([int(size) for size in value.shape], value.dtype.numpy()) for value in model.graph.inputs
    }
    generator = np.random.default_rng(0)
    outputs = {
        value.name: generator.normal(size=shape).astype(np.float32)
        for value, shape in zip(model.graph.outputs, shapes, strict=True)
    }
    ops = {value.name: producer_ops(value) for value in model.graph.outputs}
    assert recognise(evidence_of(outputs, inputs, ops=ops)).metric.name == metric
