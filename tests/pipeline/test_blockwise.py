"""How large blocks are by the option, and how many samples of them fit into memory."""

from __future__ import annotations

import numpy as np
import pytest
from sample_models import from_text

from onnxslim.analysis.blocks import WHOLE, Dataflow
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.analysis.specialize import infer_at
from onnxslim.errors import BadOptionValue
from onnxslim.pipeline.blockwise import COPIES, FEWEST, HELD_BYTES, capacity, layers_in_block


@pytest.mark.parametrize(("text", "layers"), [("layer", 0), ("block", 1), ("3", 3), ("model", WHOLE)])
def test_words_and_numbers_say_how_many_layers_a_block_has(text: str, layers: float) -> None:
    assert layers_in_block(text, "distill") == layers


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "whole"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(BadOptionValue, match="blocks is") as caught:
        layers_in_block(text, "distill")
    assert str(caught.value.hint) == "blocks is a number, layer, block, model"


@pytest.mark.parametrize("side", [64, 512, 4096])
def test_samples_of_large_values_are_fewer(side: int) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 18]> g (float[N,{side},{side}] x) => (float[N,{side},4] y) {{
        a = MatMul (x, w)  b = Relu (a)  y = MatMul (b, v) }}"""
    model = from_text(text, w=np.ones((side, side), np.float32), v=np.ones((side, 4), np.float32))
    infer_shapes(model)
    view = infer_at(model, {"x": (1, side, side)})
    blocks = Dataflow(model.graph, [node for node in model.graph if node.op_type == "MatMul"], view).blocks(1)
    largest = 2 * 4 * side * side  # what the first block reads, and what it makes
    assert capacity(blocks, view) == max(FEWEST, HELD_BYTES // (COPIES * largest))
