"""Measured times of layers, told by a clock of the test: what is slower in int8 stays in float, and says so."""

from __future__ import annotations

import math
import re

import numpy as np
import onnx_ir as ir
import pytest
from onnxslim.passes.quant import Quant, quantizer
from onnxslim.passes.quant.integers import INT8
from onnxslim.passes.quant.measuring import Stopwatch, conversions, measured_costs, node_owners
from onnxslim.passes.quant.plan import make_plan
from onnxslim.passes.quant.precision import (
    Times,
)
from onnxslim.passes.quant.scales import Activations, Calibration
from onnxslim.passes.quant.table import load_table
from onnxslim.passes.quant.weights import Rounding
from sample_models import from_text
from story import VNNI, make_context
from three_layers import net

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.errors import BadOptionValue, RunError
from onnxslim.pipeline.interface import Goal
from onnxslim.runtime.layer_latency import NOTHING
from onnxslim.runtime.session import Session

IN_FLOAT = {"a": 4.0, "h": 1.0, "b": 3.0, "y": 2.0}
IN_INT8 = {"a": 1.0, "h": 1.0, "b": 4.0, "y": 0.5}


def is_quantized(model):
    return any(node.op_type == "QuantizeLinear" for node in model.graph)


def computes_in_int8(node):
    sources = [value.producer() for value in node.inputs if value is not None]
    return node.op_type == "Conv" and all(source is not None and reads_integers(source) for source in sources)


def reads_integers(node):
    return node.op_type == "DequantizeLinear"


class ToldTimes:
    """Times of nodes as told; conversions take their time where a float op is on one side, and none between others."""

    def __init__(self, conversion=0.25, rest=0.5):
        self.conversion, self.rest, self.compared = conversion, rest, []

    def _of(self, node):
        maker = node.inputs[0].producer()
        if node.op_type == "QuantizeLinear":
            fused = maker is not None and computes_in_int8(maker)
            return 0.0 if fused else self.conversion
        if reads_integers(node):
            fused = maker is None or all(computes_in_int8(use.node) for use in node.outputs[0].uses())
            return 0.0 if fused and not node.outputs[0].is_graph_output() else self.conversion
        return (IN_INT8 if computes_in_int8(node) else IN_FLOAT).get(node.outputs[0].name, 0.0)

    def of_nodes(self, model, feeds, macs, runs):
        return {node.outputs[0].name: self._of(node) for node in model.graph}, self.rest

    def together(self, models, feeds):
        self.compared.append(len(models))
        return [self.rest + sum(map(self._of, model.graph)) for model in models]


class ToldLayers:
    """Each conversion takes as long as is told."""

    def __init__(self, pair=0.5):
        self.pair = pair

    def milliseconds(self, layers, progress=None):
        return [0.01 if layer.steps[0].op[1] == "Identity" else self.pair + 0.01 for layer in layers]


def run(model, feeds, monkeypatch, told, context=None, **options):
    monkeypatch.setattr(quantizer, "ModelTimes", lambda target: told)
    monkeypatch.setattr(quantizer, "LayerTimes", lambda target: ToldLayers(2 * told.conversion))
    given = {"calibration": Calibration.MINMAX, "rounding": Rounding.NEAREST, "times": Times.MEASURED, **options}
    after = model.clone()
    infer_shapes(after)
    change = Quant(**given).run(after, make_context(model, feeds, target=VNNI, **(context or {})))
    return after, change


def in_float(model):
    return {node.outputs[0].name for node in model.graph if node.op_type == "Conv" and not computes_in_int8(node)}


def test_nodes_belong_to_the_layer_before_them():
    model, _ = net()
    plan = make_plan(model, load_table("cpu"))
    assert node_owners(model, plan) == {"a": "a", "h": "a", "b": "b", "r": "b", "y": "y"}


def test_layers_cost_what_their_nodes_take_in_their_places():
    model, feeds = net()
    plan = make_plan(model, load_table("cpu"))
    after = model.clone()
    Quant(calibration=Calibration.MINMAX, float_time=0.0).run(after, make_context(model, feeds, target=VNNI))
    watch = Stopwatch(ToldTimes(), ToldLayers(), {"x": feeds["x"][:1]})
    costs = measured_costs(model, after, plan, {"a": 768, "b": 1024, "y": 1024}, lambda site: INT8, watch)
    assert costs.measured
    everything = frozenset("aby")
    assert costs.time(everything) == pytest.approx(10.5), "as the whole model takes"
    assert {key: cost.float_time for key, cost in costs.layers.items()} == pytest.approx({"a": 5, "b": 3, "y": 2})
    ratio = costs.layers["b"].int8_time / costs.layers["a"].int8_time
    assert ratio == pytest.approx(4 / 2), "Elu stays float, and costs the layer as much as before"
    assert costs.rest_time == pytest.approx(0.5)
    assert costs.layers["a"].float_bytes == 48
    assert len(costs.boundaries) == 5


def test_a_gate_that_is_a_clip_of_levels_belongs_to_the_layer_that_makes_them():
    model, feeds = net()
    next(node for node in model.graph if node.op_type == "Elu").op_type = "HardSwish"
    weight = model.graph.initializers["u"]
    weight.const_value = ir.tensor(8 * weight.const_value.numpy(), name="u")  # so that the gate opens wide
    plan = make_plan(model, load_table("cpu"))
    after = model.clone()
    Quant(calibration=Calibration.MINMAX, float_time=0.0).run(after, make_context(model, feeds, target=VNNI))
    (clip,) = (node.outputs[0].name for node in after.graph if node.op_type == "Clip")

    class Clips(ToldTimes):
        def of_nodes(self, model, feeds, macs, runs):
            times, rest = super().of_nodes(model, feeds, macs, runs)
            return times | ({clip: 1.0} if clip in times else {}), rest

        def together(self, models, feeds):
            return [time + index for index, time in enumerate(super().together(models, feeds))]

    def of_a(told):
        watch = Stopwatch(told, ToldLayers(), {"x": feeds["x"][:1]})
        return measured_costs(model, after, plan, {"a": 768, "b": 1024, "y": 1024}, lambda site: INT8, watch).layers[
            "a"
        ]

    assert of_a(Clips()).int8_time == pytest.approx(IN_INT8["a"] + IN_INT8["h"] + 1.0)
    assert of_a(ToldTimes()).int8_time < IN_INT8["a"] + IN_INT8["h"] + 0.1


def test_a_layer_that_is_slower_in_int8_is_brought_back(monkeypatch):
    model, feeds = net()
    after, change = run(model, feeds, monkeypatch, ToldTimes(conversion=0.05), float_time=0.0)
    assert in_float(after) == {"b"}
    (slower,) = (note for note in change.notes if note.code == "slower-layer")
    assert slower.reason == "in int8 it takes 4 ms with its conversions, and in float 3 ms"
    (told,) = [note for note in change.notes if "measured in turns" in note.reason]
    assert told.reason.startswith("measured in turns: 10.5 ms in float, ")
    assert re.search(r"with everything in int8 that can be, of whose error [0-9]+% is left$", told.reason)


def test_a_model_that_is_not_faster_is_left_alone(monkeypatch):
    model, feeds = net()
    after, change = run(model, feeds, monkeypatch, ToldTimes(conversion=3.0))
    assert not change.modified
    assert not is_quantized(after)
    assert change.notes[0].code == "not-faster"
    assert "in float 10.5 ms" in change.notes[0].reason


def test_a_budget_of_time_is_kept_with_the_least_error(monkeypatch):
    model, feeds = net()
    floats = []
    for latency in (0.97, 0.65, 0.3):
        after, change = run(model, feeds, monkeypatch, ToldTimes(conversion=0.05), latency=latency)
        floats.append(len(in_float(after)))
        missed = [note for note in change.notes if "latency=0.3 is not to be had" in note.reason]
        assert bool(missed) == (latency == 0.3)
    assert floats[0] > max(floats[1:])


def test_a_budget_of_bytes_is_kept_with_the_least_error(monkeypatch):
    model, feeds = net()
    after, _ = run(model, feeds, monkeypatch, ToldTimes(), size=0.6)
    assert len(in_float(after)) == 1
    weights = [value.const_value for value in after.graph.initializers.values() if value.const_value.size >= 12]
    assert sum(weight.nbytes for weight in weights) <= 0.6 * 176
    after, change = run(model, feeds, monkeypatch, ToldTimes(), size=0.1)
    assert not in_float(after)
    assert [note for note in change.notes if "size=0.1 is not to be had" in note.reason]


@pytest.mark.parametrize(
    ("options", "context", "measured"),
    [
        ({}, {"timed": True}, True),
        ({"size": 0.5}, {"timed": True}, False),
        ({"size": 0.5, "latency": 0.5}, {"timed": True}, True),
        ({}, {"timed": True, "goal": Goal.SIZE}, False),
        ({}, {}, False),
        ({"target": "qnn"}, {"timed": True}, False),
        ({"times": Times.ESTIMATED}, {"timed": True}, False),
        ({"times": Times.MEASURED}, {}, True),
    ],
)
def test_times_are_measured_where_they_decide(options, context, measured, monkeypatch):
    model, feeds = net()
    told = ToldTimes()
    run(model, feeds, monkeypatch, told, context, **{"times": Times.AUTO, **options})
    assert bool(told.compared) is measured


def test_what_cannot_be_measured_is_estimated(monkeypatch):
    class Broken(ToldTimes):
        def of_nodes(self, model, feeds, macs, runs):
            raise RunError("it does not run")

    model, feeds = net()
    after, change = run(model, feeds, monkeypatch, Broken(), float_time=0.0)
    assert change.modified
    assert not in_float(after)

    class Late(ToldTimes):
        def together(self, models, feeds):
            if len(self.compared):
                raise RunError("it does not run")
            return super().together(models, feeds)

    after, change = run(model, feeds, monkeypatch, Late(conversion=0.05), float_time=0.0)
    assert in_float(after) == {"b"}, "as it is reckoned"
    assert not [note for note in change.notes if "measured in turns" in note.reason]


def test_options_that_make_no_sense_are_refused():
    for options in ({"latency": 0.0}, {"latency": 1.0}, {"size": 1.5}):
        with pytest.raises(BadOptionValue, match=r"latency|size"):
            Quant(**options)
    with pytest.raises(BadOptionValue, match="latency has no meaning with activations=dynamic"):
        Quant(latency=0.5, activations=Activations.DYNAMIC)
    model, feeds = net()
    with pytest.raises(BadOptionValue, match="cpu does not tell the times"):
        Quant(times=Times.MEASURED, target="qnn").run(model, make_context(model, feeds, target=VNNI))


def test_a_conversion_is_there_and_back():
    for shape, relaid, count in (((1, 4, 8, 8), True, 3), ((1, 4, 8, 8), False, 2), ((4, 8), False, 2)):
        layer = conversions(shape, relaid)
        assert len(layer.steps) == count
        model, feeds = layer.model()
        (found,) = Session.of(model).run(feeds).values()
        assert math.prod(found.shape) == math.prod(shape)


def test_conversions_between_layers_change_the_layout_of_images():
    """Beside an op that is float whatever is chosen, they do not."""
    asked = []

    class Told(ToldTimes):
        def milliseconds(self, layers):
            asked.extend(len(layer.steps) for layer in layers[:-1])
            return [float(len(layer.steps)) for layer in layers]

    model, feeds = net()
    plan = make_plan(model, load_table("cpu"))
    told = Told()
    costs = measured_costs(model, model, plan, {}, lambda _: INT8, Stopwatch(told, told, feeds))
    prices = {(edge.maker, edge.read_in_float): (edge.quantize, edge.dequantize) for edge in costs.boundaries}
    idle = len(NOTHING.steps)
    plain, relaid = (2 - idle) / 2, (3 - idle) / 2
    factor = prices[None, False][0] / plain
    assert prices[None, False] == pytest.approx((plain * factor, relaid * factor)), "Tanh and Elu are float"
    assert prices["b", False] == pytest.approx((relaid * factor, relaid * factor)), "two convolutions"
    assert prices["a", True] == pytest.approx((relaid * factor, plain * factor)), "Elu reads it"
    assert set(asked) == {2, 3}


IMAGES = """<ir_version: 9, opset_import: ["" : 17]> g (float[N,3,8,8] x) => (float[N,4,8,8] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, u)  r = Relu (a)  b = Conv (r, v)  s = Relu (b)  y = Conv (s, w) }"""


@pytest.mark.parametrize(("first", "exact"), [(1.0, True), (4.5, False)])
def test_images_are_held_exactly_where_the_layer_that_reads_them_is_not_much_slower_for_it(first, exact, monkeypatch):
    generator = np.random.default_rng(0)
    shapes = {"u": (4, 3, 3, 3), "v": (4, 4, 1, 1), "w": (4, 4, 1, 1)}
    weights = {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    model = from_text(IMAGES, **weights)
    pixels = generator.integers(0, 256, (32, 3, 8, 8))
    pixels[0, :, 0, 0], pixels[0, :, 0, 1] = 0, 255
    monkeypatch.setitem(IN_INT8, "a", first)
    monkeypatch.setitem(IN_FLOAT, "a", 2.0)
    monkeypatch.setitem(IN_INT8, "b", 1.0)
    times = ToldTimes(conversion=0.05)
    after, change = run(model, {"x": (pixels / 255).astype(np.float32)}, monkeypatch, times, float_time=0.0)
    assert bool([note for note in change.notes if note.action == "256 levels"]) is exact
    dear = [note.reason for note in change.notes if note.code == "exact-too-dear"]
    assert len(dear) == (0 if exact else 1)
    assert in_float(after) == (set() if exact else {"a"})
