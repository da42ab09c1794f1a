"""Runs a model whose results are its next inputs: weights stay on the device, in two buffers that swap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxslim.arrays import Array
from onnxslim.runtime.session import Session, runtime_errors


class ResidentState:
    """Tensors on the device that a session reads and replaces from run to run.

    Args:
        session: The model.
        state: The first value of each of its inputs that are kept.
        successors: The output that replaces each of them; those that have none stay as they are.
    """

    def __init__(self, session: Session, state: Mapping[str, Array], successors: Mapping[str, str]) -> None:
        self._session = session
        self._successors = dict(successors)
        self._now = {name: session.place(array) for name, array in state.items()}
        self._next = {name: session.place(np.zeros_like(state[name])) for name in successors}

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str], *, advance: bool = True) -> dict[str, Any]:
        """Run once on a batch, and return outputs by name.

        Args:
            feeds: All other inputs.
            outputs: Which outputs are returned.
            advance: Whether the state becomes the next one.

        Raises:
            RunError: ONNX Runtime failed.
        """
        with runtime_errors():
            values = {name: self._session.place(array) for name, array in feeds.items()}
            successors = self._successors if advance else {}
            binding = self._session.bind(
                {**self._now, **values}, {output: self._next[name] for name, output in successors.items()}, outputs
            )
            results = binding()
        if advance:
            for name in successors:
                self._now[name], self._next[name] = self._next[name], self._now[name]
        return dict(zip(outputs, results, strict=True))

    def read(self, names: Sequence[str] | None = None) -> dict[str, Array]:
        """Return copies of tensors of the state, by name; None: of all."""
        wanted = list(self._now) if names is None else names
        return {name: np.array(self._now[name].numpy()) for name in wanted}

    def write(self, state: Mapping[str, Array]) -> None:
        """Replace tensors of the state."""
        for name, array in state.items():
            self._now[name] = self._session.place(array)

    def share(self, session: Session, names: Sequence[str]) -> ResidentState:
        """Return the present values of some tensors as the state of another session, which replaces none of them."""
        other = ResidentState(session, {}, {})
        other._now = {name: self._now[name] for name in names}
        return other
