"""Metrics of the user, ``module:function``: a function that scores outputs against labels, or a metric class."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from onnxslim.arrays import Array
from onnxslim.data.function import import_function
from onnxslim.errors import BadOptionValue, OnnxslimError
from onnxslim.foreign_code import foreign_code, is_ours
from onnxslim.quality.evidence import Evidence
from onnxslim.quality.metric import Figure, Metric, Outputs, Recognition, Rows

Score = Callable[[dict[str, Any], npt.NDArray[Any]], npt.NDArray[Any]]
"""Maps the outputs of one run (arrays by name) and its labels to one score per sample, shape [N]."""


@dataclasses.dataclass(frozen=True)
class Custom(Metric):
    """A scoring function of the user; higher is better. The loss is the fall of the mean score."""

    score: Score
    text: str
    """Its name, ``module:function``."""

    name: ClassVar[str] = "custom"
    needs_labels: ClassVar[bool] = True

    @classmethod
    def recognise(cls, evidence: Evidence) -> Recognition | None:
        """Return None, since it is never chosen automatically."""
        return None

    def rows(self, reference: Outputs, candidate: Outputs, labels: Array | None, count: int) -> Rows:
        """Return the scores of both models, shape [count, 2]; NaN and infinity count as 0.

        Raises:
            BadOptionValue: The function raises an exception, or does not return one number per sample.
        """
        assert labels is not None, "it is only chosen for samples with labels"
        scores = [self._scores(outputs, labels, count) for outputs in (reference, candidate)]
        return np.stack(scores, axis=1)

    def row(self, reference: Outputs, candidate: Outputs | None, label: Array | None) -> Sequence[float]:
        """Raise an error, since the function scores whole runs."""
        raise AssertionError

    def _scores(self, outputs: Outputs, labels: Array, count: int) -> npt.NDArray[np.float64]:
        with _user_errors():
            scores = np.asarray(self.score(dict(outputs), labels), np.float64).reshape(-1)
        if len(scores) not in (count, len(labels)):
            what = f"the metric gave {len(scores)} scores for {count} samples"
            raise BadOptionValue(what, where="--metric", hint="return one score for each sample")
        return np.nan_to_num(scores, nan=0.0, posinf=0.0, neginf=0.0)

    def figures(self, rows: Rows) -> dict[str, Figure]:
        """Return the mean score."""
        return {"score": Figure(float(rows[:, 0].mean()), float(rows[:, 1].mean()))}

    def is_share(self, figure: str, rows: Rows) -> bool:
        """Return whether all scores are 0 or 1."""
        return bool(np.isin(rows, (0.0, 1.0)).all())

    def lost(self, labelled: bool) -> str:
        """Return the name of the function."""
        return self.text


def load_metric(text: str) -> Metric | type[Metric]:
    """Return the metric named by ``module:function``: a function of outputs and labels, or a subclass of Metric.

    Raises:
        BadOptionValue: The function does not exist.
    """
    found: Any = import_function(text, "--metric")
    if inspect.isclass(found) and issubclass(found, Metric):
        return found
    return Custom(found, text)


@contextlib.contextmanager
def guarded(metric: Metric | type[Metric]) -> Iterator[None]:
    """Run code of a metric in the body; output, exits and exceptions of a user's metric are caught.

    Raises:
        BadOptionValue: A user's metric raised an exception that is not one of onnxslim, or called ``sys.exit``.
    """
    kind = metric if isinstance(metric, type) else type(metric)
    if is_ours(kind):
        yield
        return
    with foreign_code(f"--metric {kind.__module__}:{kind.__qualname__}"), _user_errors():
        yield


@contextlib.contextmanager
def _user_errors() -> Iterator[None]:
    """Turn an exception of the user's metric into a BadOptionValue."""
    try:
        yield
    except OnnxslimError:
        raise
    except Exception as error:
        what = f"the metric raised {type(error).__name__}: {error}"
        raise BadOptionValue(what, where="--metric", hint="call it by itself to see where that comes from") from error
