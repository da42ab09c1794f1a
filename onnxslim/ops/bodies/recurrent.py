"""Recurrences as the ops of their steps, one after the other: LSTM, GRU and RNN, unrolled along time.

Source: ONNX specification, docs/Operators.md: LSTM, GRU, RNN, whose equations stand beside the steps here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import onnx_ir as ir

from onnxslim.model.constants import constant
from onnxslim.ops.activation import Activation, activation
from onnxslim.ops.parameters import read
from onnxslim.ops.signatures import OpName
from onnxslim.ops.site import Body, Declined, NodeSite

MOST_STEPS = 512
"""Each step is some ten nodes, and their gradients some thirty: beyond, graphs take longer to prepare than to run."""
State = tuple[ir.Value, ...]
"""The hidden state, [batch, hidden], and what else goes from step to step."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One direction of a recurrence: its weights, and what the attributes say of it."""

    site: NodeSite
    hidden: int
    steps: int
    batch: int
    weight: ir.Value
    """[gates * hidden, input]"""
    recurrence: ir.Value
    """[gates * hidden, hidden]"""
    bias: ir.Value | None
    """[2 * gates * hidden]: of the input, then of the hidden state."""
    peepholes: ir.Value | None
    """[3 * hidden], of LSTM: input, output, forget."""
    activations: tuple[Activation, ...]

    def parts(self, value: ir.Value, lengths: Sequence[int], axis: int = 0) -> list[ir.Value]:
        """Return runs of an axis, one behind the other, each of so many times the hidden state."""
        if len(lengths) == 1:
            return [value]
        sizes = [length * self.hidden for length in lengths]
        return list(self.site.ops("Split", value, sizes, count=len(sizes), axis=axis))

    def biases(self, gates: int) -> list[ir.Value | None]:
        """Return the biases of the input and of the hidden state."""
        return [None, None] if self.bias is None else list(self.parts(self.bias, [gates, gates]))

    def projected(self, inputs: ir.Value, weight: ir.Value, bias: ir.Value | None) -> list[ir.Value]:
        """Return the products of the inputs, [steps * batch, input], with a weight: one for each step."""
        product = self.site.op("Gemm", inputs, weight, bias, transB=1)
        if self.steps == 1:
            return [product]
        return list(self.site.ops("Split", product, [self.batch] * self.steps, count=self.steps, axis=0))

    def limited(self, value: ir.Value) -> ir.Value:
        """Return what goes into an activation, within the bounds that the attribute `clip` sets."""
        bound = read(self.site, "clip", 0.0)
        return self.site.op("Clip", value, -float(bound), float(bound)) if bound else value


Step = Callable[[int, State], State]
"""Returns the state after a step in time, given that before it."""


def lstm_steps(cell: Cell, inputs: ir.Value) -> Step:
    """LSTM: i, o, f = f(X W + H R + B (+ P C)), c = g(...), C = f C + i c, H = o h(C)."""
    site, (gate, candidate, shown) = cell.site, cell.activations
    given, state = cell.biases(4)
    bias = None if given is None else site.op("Add", given, state)
    products = cell.projected(inputs, cell.weight, bias)
    peepholes = None if cell.peepholes is None else cell.parts(cell.peepholes, [1, 1, 1])
    if read(site, "input_forget", 0):
        raise Declined("its input and forget gates are coupled")

    def peeked(value: ir.Value, which: int, memory: ir.Value) -> ir.Value:
        assert peepholes is not None
        return gate(site, cell.limited(site.op("Add", value, site.op("Mul", memory, peepholes[which]))))

    def step(time: int, before: State) -> State:
        hidden, memory = before
        sums = site.op("Gemm", hidden, cell.recurrence, products[time], transB=1)
        if peepholes is None:
            gates, new = cell.parts(sums, [3, 1], axis=1)
            let_in, let_out, forget = cell.parts(gate(site, cell.limited(gates)), [1, 1, 1], axis=1)
        else:
            let_in, let_out, forget, new = cell.parts(sums, [1, 1, 1, 1], axis=1)
            let_in, forget = peeked(let_in, 0, memory), peeked(forget, 2, memory)
        new = candidate(site, cell.limited(new))
        memory = site.op("Add", site.op("Mul", forget, memory), site.op("Mul", let_in, new))
        if peepholes is not None:
            let_out = peeked(let_out, 1, memory)
        return site.op("Mul", let_out, shown(site, memory)), memory

    return step


def gru_steps(cell: Cell, inputs: ir.Value) -> Step:
    """GRU: z, r = f(X W + H R + B), h = g(X W + (r H) R + B) or g(X W + r (H R + B) + B), H = (1 - z) h + z H."""
    site, (gate, candidate) = cell.site, cell.activations
    after = bool(read(site, "linear_before_reset", 0))
    given, state = cell.biases(3)
    gates_of, new_of = cell.parts(cell.weight, [2, 1])
    gates_recurrence, new_recurrence = cell.parts(cell.recurrence, [2, 1])
    gates_bias = new_bias = state_bias = None
    if given is not None and state is not None:
        first, new_bias = cell.parts(given, [2, 1])
        second, state_bias = cell.parts(state, [2, 1])
        gates_bias = site.op("Add", first, second)
        new_bias = new_bias if after else site.op("Add", new_bias, state_bias)
    gate_products = cell.projected(inputs, gates_of, gates_bias)
    new_products = cell.projected(inputs, new_of, new_bias)

    def step(time: int, before: State) -> State:
        (hidden,) = before
        gates = site.op("Gemm", hidden, gates_recurrence, gate_products[time], transB=1)
        update, reset = cell.parts(gate(site, cell.limited(gates)), [1, 1], axis=1)
        if after:
            kept = site.op("Mul", reset, site.op("Gemm", hidden, new_recurrence, state_bias, transB=1))
            new = site.op("Add", kept, new_products[time])
        else:
            new = site.op("Gemm", site.op("Mul", reset, hidden), new_recurrence, new_products[time], transB=1)
        new = candidate(site, cell.limited(new))
        return (site.op("Add", new, site.op("Mul", update, site.op("Sub", hidden, new))),)

    return step


def rnn_steps(cell: Cell, inputs: ir.Value) -> Step:
    """RNN: H = f(X W + H R + B)."""
    site, (shown,) = cell.site, cell.activations
    given, state = cell.biases(1)
    products = cell.projected(inputs, cell.weight, None if given is None else site.op("Add", given, state))

    def step(time: int, before: State) -> State:
        sums = site.op("Gemm", before[0], cell.recurrence, products[time], transB=1)
        return (shown(site, cell.limited(sums)),)

    return step


@dataclasses.dataclass(frozen=True)
class Recurrence:
    """One of the ops: builds all steps of all directions."""

    steps: Callable[[Cell, ir.Value], Step]
    activations: tuple[str, ...]
    """Those that it takes where the attribute is left out, for each direction."""
    states: tuple[int, ...]
    """The inputs that hold the states before the first step."""

    def __call__(self, site: NodeSite) -> Sequence[ir.Value | None]:
        """Build the outputs: all hidden states, the last one, and the last of the other states."""
        batch_first = bool(read(site, "layout", 0))
        data = site.transpose(site.operand(0), (1, 0, 2) if batch_first else (0, 1, 2))
        batch_axis = 0 if batch_first else 1
        steps, batch = site.shape()[1 - batch_axis], site.shape()[batch_axis]
        directions, _, hidden = site.shape(2)
        self._check(site, steps)
        inputs = site.reshape(data, (steps * batch, site.shape()[2]))
        named = list(read(site, "activations", ()) or self.activations * directions)
        functions = list(_functions(site, named))
        count = len(self.activations)
        every: list[ir.Value] = []
        last: list[list[ir.Value]] = [[] for _ in self.states]
        for direction in range(directions):
            own = tuple(functions[direction * count : (direction + 1) * count])
            weights = [self._part(site, index, 0, direction) for index in (1, 2, 3, 7)]
            weight, recurrence, bias, peepholes = weights
            assert weight is not None
            assert recurrence is not None
            cell = Cell(site, hidden, steps, batch, weight, recurrence, bias, peepholes, own)
            step = self.steps(cell, inputs)
            state = tuple(self._first(site, index, batch_axis, direction, (batch, hidden)) for index in self.states)
            shown: dict[int, ir.Value] = {}
            backwards = direction == 1 or read(site, "direction", "forward") == "reverse"
            for time in range(steps)[:: -1 if backwards else 1]:
                state = step(time, state)
                shown[time] = state[0]
            every.append(self._stacked(site, [shown[time] for time in range(steps)], (steps, 1, batch, hidden)))
            for place, value in enumerate(state):
                last[place].append(site.reshape(value, (1, batch, hidden)))
        outputs = [self._joined(site, every, 1), *(self._joined(site, values, 0) for values in last)]
        if batch_first:
            outputs = [site.transpose(outputs[0], (2, 0, 1, 3)), *(site.transpose(x, (1, 0, 2)) for x in outputs[1:])]
        return outputs

    def _check(self, site: NodeSite, steps: int) -> None:
        if steps > MOST_STEPS:
            raise Declined(f"it has {steps} steps in time, more than {MOST_STEPS}")
        if not steps:
            raise Declined("it has no steps in time")
        if site.has(4):
            lengths = constant(site.operand(4))
            if lengths is None or not bool((lengths == steps).all()):
                raise Declined("its sequences have lengths of their own (sequence_lens)")

    @staticmethod
    def _part(site: NodeSite, index: int, axis: int, direction: int) -> ir.Value | None:
        """Return what an input holds for a direction, without the axis of directions; None where there is none."""
        if not site.has(index):
            return None
        shape = site.shape(index)
        cut = site.cut(site.operand(index), axis, direction, direction + 1)
        return site.reshape(cut, [size for place, size in enumerate(shape) if place != axis])

    def _first(self, site: NodeSite, index: int, batch_axis: int, direction: int, shape: tuple[int, int]) -> ir.Value:
        """Return a state before the first step: an input, or zeros."""
        given = self._part(site, index, 1 - batch_axis, direction)
        dtype = site.operand(1).dtype
        assert dtype is not None
        return site.filled(shape, 0, dtype) if given is None else given

    @staticmethod
    def _stacked(site: NodeSite, values: list[ir.Value], shape: Sequence[int]) -> ir.Value:
        return site.reshape(values[0] if len(values) == 1 else site.op("Concat", *values, axis=0), shape)

    @staticmethod
    def _joined(site: NodeSite, values: list[ir.Value], axis: int) -> ir.Value:
        return values[0] if len(values) == 1 else site.op("Concat", *values, axis=axis)


def _functions(site: NodeSite, names: Sequence[str]) -> Iterator[Activation]:
    """Yield activations, each with the next of the numbers that the attributes list for those that take any."""
    left = {name: list(read(site, f"activation_{name}", ()) or ()) for name in ("alpha", "beta")}
    for name in names:
        found = activation(name)
        if found is None:
            raise Declined(f"its activation {name} is none that is known")
        numbers = {key: left[key].pop(0) for key in found.takes if left[key]}
        yield dataclasses.replace(found, numbers={**found.numbers, **numbers})


BODIES: Mapping[OpName, Body] = {
    ("", "LSTM"): Recurrence(lstm_steps, ("Sigmoid", "Tanh", "Tanh"), (5, 6)),
    ("", "GRU"): Recurrence(gru_steps, ("Sigmoid", "Tanh"), (5,)),
    ("", "RNN"): Recurrence(rnn_steps, ("Tanh",), (5,)),
}
