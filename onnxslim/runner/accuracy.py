"""How often a model is right, on samples with labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from onnxslim.data import Samples
from onnxslim.data.function import import_function
from onnxslim.errors import BadOptionValue, DataError
from onnxslim.runner.session import Session
from onnxslim.runner.statistics import Interval, bootstrap, wilson

Metric = Callable[[dict[str, Any], npt.NDArray[Any]], npt.NDArray[Any]]
"""Maps the outputs of one run (arrays by name) and its labels to one score for each sample, shape [N]."""


def top1(outputs: Mapping[str, Any], labels: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return 1 for each sample whose largest logit is the one of its label, else 0.

    Looks at the first float output of shape [N, C] (or [N, C, 1, 1]) with C >= 2; without one at the first output of N
    integers, which holds the classes themselves. NaN among the logits is never right.

    Args:
        outputs: Arrays by name.
        labels: Class numbers, shape [N] or [N, 1].

    Raises:
        DataError: The labels are no class numbers, or no output holds classes.
    """
    wanted = np.asarray(labels).reshape(-1) if np.ndim(labels) <= 2 and np.size(labels) == len(labels) else None
    if wanted is None or wanted.dtype.kind not in "iu":
        raise DataError(
            f"labels of shape {list(np.shape(labels))} and type {np.asarray(labels).dtype} are no class numbers",
            where="labels",
            hint="give integers, one for each sample, or a metric of your own: --metric module:function",
        )
    arrays = [array for array in outputs.values() if isinstance(array, np.ndarray)]
    for array in arrays:
        if (
            array.dtype.kind == "f"
            and array.ndim >= 2
            and array.shape[1] >= 2
            and array.size == len(wanted) * array.shape[1]
        ):
            logits = array.reshape(len(wanted), -1)
            return np.where(np.isnan(logits).any(1), 0.0, logits.argmax(1) == wanted)
    for array in arrays:
        if array.dtype.kind in "iu" and array.size == len(wanted):
            return np.where(array.reshape(-1) == wanted, 1.0, 0.0)
    raise DataError(
        "no output holds classes, of shape [N, C]",
        where="labels",
        hint="give a metric of your own: --metric module:function",
    )


def load_metric(text: str) -> Metric:
    """Return the metric that ``module:function`` names: (outputs by name, labels) -> one score for each sample.

    Raises:
        BadOptionValue: There is no such function.
    """
    return cast(Metric, import_function(text, "--metric"))


def measure_accuracy(
    session: Session,
    samples: Samples,
    metric: Metric = top1,
    *,
    generator: np.random.Generator | None = None,
    size: int | None = None,
) -> Interval:
    """Return the mean score over all samples, with its 95 % interval: Wilson's if all are 0 or 1, else a bootstrap.

    Args:
        session: The model.
        samples: With labels.
        metric: How a sample is scored.
        generator: For the bootstrap; None: always the same draws.
        size: Samples in a run; None: 1.

    Raises:
        DataError: There are no labels or no samples.
        BadOptionValue: The metric raises, or does not give one number for each sample.
        RunError: The model does not run.
    """
    if not samples.labelled:
        raise DataError("there are no labels", where=samples.source, hint="put them into an array named 'labels'")
    scores: list[npt.NDArray[np.float64]] = []
    for batch in samples.batches(size):
        assert batch.labels is not None, "samples that are labelled give labels with every batch"
        outputs = session.run(batch.feeds)
        try:
            given = np.asarray(metric(outputs, batch.labels), np.float64).reshape(-1)
        except DataError:
            raise
        except Exception as error:  # the user's function, any exception
            raise BadOptionValue(f"the metric raised {type(error).__name__}: {error}", where="--metric") from error
        if len(given) not in (batch.count, len(batch.labels)):
            raise BadOptionValue(f"the metric gave {len(given)} scores for {batch.count} samples", where="--metric")
        scores.append(given)
    if not scores:
        raise DataError("there is not a single sample", where=samples.source)
    every = np.concatenate(scores)
    if np.isin(every, (0.0, 1.0)).all():
        return wilson(float(every.sum()), len(every))
    return bootstrap(every, lambda rows: float(rows.mean()), generator or np.random.default_rng(0))
