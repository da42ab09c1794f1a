"""Metrics of the user's own, ``module:function``: a function that scores outputs against labels, or a whole metric."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from onnxslim.data.function import foreign_code, import_function
from onnxslim.errors import BadOptionValue, OnnxslimError
from onnxslim.quality.evidence import Evidence
from onnxslim.quality.metric import Array, Figure, Metric, Outputs, Recognition, Rows

Score = Callable[[dict[str, Any], npt.NDArray[Any]], npt.NDArray[Any]]
"""Maps the outputs of one run (arrays by name) and its labels to one score for each sample, shape [N]."""


@dataclasses.dataclass(frozen=True)
class Custom(Metric):
    """A function of the user's: the higher its score, the better. The loss is the fall of the mean score."""

    score: Score
    text: str
    """How it was named: ``module:function``."""

    name: ClassVar[str] = "custom"
    needs_labels: ClassVar[bool] = True

    @classmethod
    def recognise(cls, evidence: Evidence) -> Recognition | None:
        """Return nothing: it is never chosen by itself."""
        return None

    def rows(self, reference: Outputs, candidate: Outputs, labels: Array | None, count: int) -> Rows:
        """Return the scores of both models, shape [count, 2]; what is no number counts as 0.

        Raises:
            BadOptionValue: The function raises, or does not give one number for each sample.
        """
        assert labels is not None, "it is only chosen for samples with labels"
        scores = [self._scores(outputs, labels, count) for outputs in (reference, candidate)]
        return np.stack(scores, axis=1)

    def row(self, reference: Outputs, candidate: Outputs | None, label: Array | None) -> Sequence[float]:
        """Not used: a function scores whole runs."""
        raise AssertionError

    def _scores(self, outputs: Outputs, labels: Array, count: int) -> npt.NDArray[np.float64]:
        with _errors_told():
            given = np.asarray(self.score(dict(outputs), labels), np.float64).reshape(-1)
        if len(given) not in (count, len(labels)):
            raise BadOptionValue(
                f"the metric gave {len(given)} scores for {count} samples",
                where="--metric",
                hint="return one score for each sample",
            )
        return np.nan_to_num(given, nan=0.0, posinf=0.0, neginf=0.0)

    def figures(self, rows: Rows) -> dict[str, Figure]:
        """Return the mean score."""
        return {"score": Figure(float(rows[:, 0].mean()), float(rows[:, 1].mean()))}

    def is_share(self, figure: str, rows: Rows) -> bool:
        """Scores of right and wrong are."""
        return bool(np.isin(rows, (0.0, 1.0)).all())

    def lost(self, labelled: bool) -> str:
        """Return the name of the function."""
        return self.text


def load_metric(text: str) -> Metric | type[Metric]:
    """Return the metric that ``module:function`` names: a function of outputs and labels, or a subclass of Metric.

    Raises:
        BadOptionValue: There is no such function.
    """
    found: Any = import_function(text, "--metric")
    if inspect.isclass(found) and issubclass(found, Metric):
        return found
    return Custom(found, text)


@contextlib.contextmanager
def guarded(metric: Metric | type[Metric]) -> Iterator[None]:
    """Run what a metric does; one of the user's own may print, exit and raise, and is told so.

    Raises:
        BadOptionValue: A metric of the user's raised something that is no error of ours, or called ``sys.exit``.
    """
    kind = metric if isinstance(metric, type) else type(metric)
    if kind.__module__.startswith("onnxslim."):
        yield
        return
    with foreign_code(f"--metric {kind.__module__}:{kind.__qualname__}"), _errors_told():
        yield


@contextlib.contextmanager
def _errors_told() -> Iterator[None]:
    """Turn an exception of the user's metric into an error of ours."""
    try:
        yield
    except OnnxslimError:
        raise
    except Exception as error:
        raise BadOptionValue(
            f"the metric raised {type(error).__name__}: {error}",
            where="--metric",
            hint="call it by itself to see where that comes from",
        ) from error
