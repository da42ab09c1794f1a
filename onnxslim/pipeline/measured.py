"""A model as it stands between two passes, and what is the same from the first pass of a run to the last."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import weakref
from collections.abc import Callable
from typing import Any

import onnx_ir as ir

from onnxslim.data import Samples
from onnxslim.pipeline.request import Request
from onnxslim.quality.measure import Quality
from onnxslim.runtime.session import Session


class MeasuredModel:
    """A model as it stands between two passes, with a session on it and what was measured of it so far."""

    def __init__(self, model: ir.Model, open_session: Callable[[], Session], path: pathlib.Path | None = None) -> None:
        self.model = model
        self.path = path
        """The file that it was read from, if it is the model of a file."""
        self._open = open_session
        self.probe_outputs: dict[int, dict[str, Any] | None] = {}
        """What it made of each probe, by its number; None where it did not run."""
        self.quality: Quality | None = None

    @functools.cached_property
    def session(self) -> Session:
        """A session on the model, opened when it is first asked for.

        Raises:
            RunError: ONNX Runtime refuses the model.
        """
        return self._open()

    def close(self) -> None:
        """Give the memory of the session back; it is opened anew where it is asked for again."""
        for name in ("session", "plain_session"):
            self.__dict__.pop(name, None)

    @functools.cached_property
    def plain_session(self) -> Session:
        """A session that runs the nodes as they are written: it rounds otherwise."""
        return Session.of(self.model, self.session.target, optimize=False)


@dataclasses.dataclass(frozen=True)
class Run:
    """What is the same from the first pass of a run to the last."""

    request: Request
    original: MeasuredModel
    """The model that came in, and what everything is compared with."""
    calibration: Samples
    """What passes calibrate and fit with."""
    validation: Samples
    """What measures: no pass sees it, unless it is synthetic."""
    open_session: Callable[[ir.Model | pathlib.Path], Session] = Session.of
    """Opens a model on the target to compare it."""
    low_memory: bool = False
    """Never hold two models open at once only to compare them: their weights fill the memory."""
    large: bool = False
    """Open no model that a lossy pass does not ask for while it runs: it opens several of its own, as large."""
    models: weakref.WeakSet[MeasuredModel] = dataclasses.field(default_factory=weakref.WeakSet)
    """What passes made of the original, as long as it is needed."""

    def close_models(self) -> None:
        """Close the original and all that passes made of it; what is asked for again is opened anew."""
        for model in (self.original, *self.models):
            model.close()

    @property
    def comparable(self) -> bool:
        """Whether something can be said about quality: models are run, and on samples that mean something."""
        return self.request.check and not self.validation.synthetic
