"""Distillation block after block: what a block of the student makes is brought to what the original makes there."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.blocks import Block, Dataflow
from onnxslim.analysis.linear_layer import linear_layers
from onnxslim.analysis.specialize import infer_at, specialize_shapes
from onnxslim.arrays import Array
from onnxslim.data import Samples
from onnxslim.model.nesting import read_values
from onnxslim.pipeline.blockwise import Blockwise, Claim, capacity
from onnxslim.pipeline.interface import Context, Note, remark
from onnxslim.train.block_distillation import LearnedWeights, distill_block
from onnxslim.train.block_training import BlockTask
from onnxslim.train.distillation import DistillationSettings
from onnxslim.train.features import alike_values
from onnxslim.train.loop import Trained
from onnxslim.train.losses import logits


class FloatLearner:
    """Learns weights as they are.

    Args:
        weights: Names of the initializers that are trained.
        masks: For weights of which some elements stay as they are: 1 where they move and 0 where they do not.
        settings: How each block is trained.
    """

    name = "distill"
    done = "trained"
    teacher = "original"

    def __init__(self, weights: Collection[str], masks: Mapping[str, Array], settings: DistillationSettings) -> None:
        self._left, self._masks, self._settings = set(weights), masks, settings
        self.batch = settings.batch

    def claim(self, block: Block) -> Claim:
        """Return weights that no block before has read."""
        read = {node: {value.name for value in read_values(node)} & self._left for node in block.nodes}
        names = frozenset(name for found in read.values() for name in found if name)
        self._left -= names
        return Claim(names, sum(map(bool, read.values())))

    @staticmethod
    def progress(loss: float) -> str:
        """Return the loss in words."""
        return f"loss {loss:.3g}"

    def train(self, part: ir.Model, base: ir.Model, claim: Claim, task: BlockTask) -> tuple[Trained, LearnedWeights]:
        """Train a block."""
        return distill_block(base, sorted(claim.names), self._settings, self._masks, task)


class StudentBlocks:
    """The blocks of a student, which end where the original has a value of the same name and shape.

    Args:
        student: The model.
        teacher: The original.
        layers: How many layers each has at least; see `Dataflow.blocks`.
        samples: What both run on.
    """

    def __init__(self, student: ir.Model, teacher: ir.Model, layers: float, samples: Samples) -> None:
        shapes = {name: array.shape for name, array in samples.first().items()}
        self._student, self._teacher, self._view = student, teacher, infer_at(student, shapes)
        # The original is as it came: sizes may follow from what is not folded yet.
        alike = set(alike_values(*(specialize_shapes(each, shapes).graph for each in (student, teacher))))
        alike |= {value.name or "" for value in teacher.graph.outputs}
        self._taught = {value.name: value for node in teacher.graph for value in node.outputs if value.name in alike}
        nodes = [use.node for layer in linear_layers(student.graph) for use in layer.uses]
        flow = Dataflow(student.graph, nodes, self._view)
        self._order = flow.order
        self.blocks = [
            self._before_softmax(block) for block in flow.blocks(layers, lambda end: end.name in self._taught)
        ]
        """In order."""

    def _before_softmax(self, block: Block) -> Block:
        """Return a block that ends at logits where an output is a distribution, if the original has them."""
        made = {value.name: value for node in block.nodes for value in node.outputs}
        ends = [
            made.get(name, end) if end.is_graph_output() and (name := logits(end, 2)[0]) in self._taught else end
            for end in block.ends
        ]
        return dataclasses.replace(block, ends=tuple(dict.fromkeys(ends)))

    def train(
        self, learner: FloatLearner, samples: Samples, held_out: float, context: Context
    ) -> tuple[bool, Sequence[Note]]:
        """Train the blocks, in place; return whether any is better, and what became of each.

        Args:
            learner: What is learned.
            samples: As many as fit into memory are used.
            held_out: The share of the samples that are set aside.
            context: Of the pass.

        Raises:
            RunError: A model does not run on the samples.
        """
        notes: list[Note] = []
        fitting = capacity(self.blocks, self._view)
        if samples.count > fitting:
            notes.append(remark("samples", f"{fitting} of {samples.count}", "values of so many fit into memory"))
            samples = samples.draw(fitting, np.random.default_rng(context.seed))

        def counterpart(value: ir.Value) -> ir.Value | None:
            return self._taught.get(value.name or "")

        work = Blockwise(
            self._student, self._teacher, counterpart, self._order, self.blocks, samples, learner, held_out, context
        )
        notes += work.train()
        return work.modified, notes
