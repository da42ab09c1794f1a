"""The errors that onnxslim raises on purpose.

    OnnxslimError                what is wrong, where, and a hint; exit code 1
    ├── UsageError               the request cannot be understood; exit code 2
    │   ├── UnknownPass          ``-p nosuch``
    │   ├── UnknownOption        ``-p prune:nosuch=1``
    │   ├── BadOptionValue       ``-p prune:ratio=often``, ``--provider tpu``
    │   ├── RecipeError          a recipe that is no TOML, or has keys that nobody knows
    │   └── ScheduleError        the declared orders contradict each other
    ├── ModelError               the model file
    │   ├── ModelNotFound        no such file
    │   ├── ModelUnreadable      empty, truncated, or not ONNX at all
    │   ├── ModelUnsupported     an opset or IR version outside the range that we handle
    │   └── ExternalDataError    weights beside the model: missing, too short, or outside its folder
    ├── DataError                the samples: missing, unreadable, or not fitting the model's inputs
    │   └── ValuesNotFinite      NaN or infinity where a pass learns from values
    ├── RuleError                a rewrite rule or an axis signature that does not read or does not check
    ├── NotDifferentiable        an op between trainable weights and outputs has no gradient
    ├── PassFailed               a pass raised; names the pass and those that ran before it
    ├── RunError                 ONNX Runtime refused the model, or failed while it ran
    ├── ProviderUnavailable      the execution provider asked for is not on this machine
    ├── ExtensionError           a pass, metric, source or provider of another distribution that cannot be used
    ├── OutputError              the result cannot be written where it was asked for
    └── BudgetMissed             what was kept does not meet the budget

Anything else that escapes is a bug in onnxslim, and is reported as one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

from onnxslim.printable import printable


class OnnxslimError(Exception):
    """Base of all errors raised on purpose.

    Args:
        what: What is wrong, as one sentence without a full stop.
        where: The file, pass, rule or node that it is about.
        hint: What the user can do about it.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: object = None, hint: str | None = None) -> None:
        super().__init__(printable(what))
        self.what = printable(what)
        self.where = None if where is None else printable(str(where))
        self.hint = None if hint is None else printable(hint)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        hint = f"\n\nhint: {self.hint}" if self.hint else ""
        return f"{place}{self.what}{hint}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the beginning of a hint, "did you mean x? ", with the nearest of the words that are known; or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]}? " if close else ""


class UsageError(OnnxslimError):
    """The request cannot be understood."""

    exit_code = 2


class UnknownPass(UsageError):
    """No pass has this name."""


class UnknownOption(UsageError):
    """The pass or command has no such option."""


class BadOptionValue(UsageError):
    """The option exists, its value makes no sense."""


class RecipeError(UsageError):
    """A recipe that cannot be read."""


class ScheduleError(UsageError):
    """The declared orders of the passes contradict each other."""


class ModelError(OnnxslimError):
    """Something is wrong with the model file."""


class ModelNotFound(ModelError):
    """There is no such file."""


class ModelUnreadable(ModelError):
    """The file is empty, truncated, or not an ONNX model."""


class ModelUnsupported(ModelError):
    """The model is ONNX, of an opset or IR version that we do not handle."""


class ExternalDataError(ModelError):
    """The weights beside the model are missing, too short, or outside its folder."""


class DataError(OnnxslimError):
    """The samples are missing, unreadable, or do not fit the model's inputs."""


class ValuesNotFinite(DataError):
    """A value that a pass learns from is NaN, infinite, or too large, on some sample."""


class RuleError(OnnxslimError):
    """A rewrite rule or an axis signature does not read, or does not check."""


class NotDifferentiable(OnnxslimError):
    """An op between trained weights and outputs has no gradient, or none that is known before the model runs."""


class PassFailed(OnnxslimError):
    """A pass raised; the message names the pass and those that ran before it."""


class RunError(OnnxslimError):
    """ONNX Runtime refused the model, or failed while it ran."""


class ProviderUnavailable(OnnxslimError):
    """The execution provider that was asked for is not on this machine."""


class ExtensionError(OnnxslimError):
    """A pass, metric, source or provider of another distribution cannot be used."""


class OutputError(OnnxslimError):
    """The result cannot be written where it was asked for."""


class BudgetMissed(OnnxslimError):
    """What was kept does not meet the budget."""
