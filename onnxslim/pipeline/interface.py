"""What a pass is, what it is given, and what it answers."""

from __future__ import annotations

import abc
import dataclasses
import enum
from collections.abc import Callable, Hashable, Iterable
from typing import ClassVar, TypeVar

import numpy as np
import onnx_ir as ir

from onnxslim.data import Samples, Subset
from onnxslim.diagnostic import Code
from onnxslim.errors import BadOptionValue
from onnxslim.model import OLDEST_NUMPY_OPSET
from onnxslim.model.nesting import count_nodes
from onnxslim.pipeline.observations import Observations
from onnxslim.pipeline.plan import Finding, PassPlan, Planned, gather
from onnxslim.pipeline.reasons import Reason
from onnxslim.pipeline.rewrite_gate import RewriteGate
from onnxslim.runtime.session import OpenSession, Session
from onnxslim.runtime.target import Target

_T = TypeVar("_T")


class Kind(enum.Enum):
    """What a pass may do to the outputs of a model."""

    EXACT = "exact"
    """The outputs stay the same, but for rounding."""
    LOSSY = "lossy"
    """The outputs change; fidelity and budget decide whether that is kept."""


class Goal(enum.Enum):
    """What a pass must bring to be kept."""

    LATENCY = "latency"
    """It must not make the model slower beyond noise."""
    SIZE = "size"
    """It may, as long as the model gets smaller."""


class NoteKind(str, enum.Enum):
    """What a note tells of its subject."""

    DONE = "done"
    """It was changed."""
    LEFT_ALONE = "left-alone"
    """The pass did not change it."""
    LEFT_OUT = "left-out"
    """The pass changed it, and the model did not hold: the change was taken back."""
    REMARK = "remark"
    """Neither: how something was done, or what was found."""


class NoteCode(Code):
    """Codes of notes that every pass may have; a pass has codes of its own beside them."""

    OLD_OPSET = "opset {0} is older than {1}, from which on elementwise ops broadcast as in numpy"
    NOT_FINITE = "{0}"
    UNMATCHED = "no node, weight or op type of the model is called so"
    RESCALED = "channels of values have factors that the weights behind them take back: their numbers are others"
    NOT_INCLUDED = "not in include"
    EXCLUDED = "in exclude"


@dataclasses.dataclass(frozen=True)
class Note:
    """One line about what a pass did, or left alone."""

    subject: str
    """The node, value, rule or group that it is about."""
    action: str
    """What was done, as a few words: ``32 -> 24 channels``, ``int8``, ``left alone``."""
    reason: str = ""
    """Why; must be said where something was left alone."""
    kind: NoteKind = NoteKind.DONE
    """Whether something was done, left alone, or taken back."""
    code: str = ""
    """The reason as a word that stays the same from version to version."""
    nodes: tuple[str, ...] = ()
    """Names of the nodes that the reason is about, where these are others than the subject."""
    values: tuple[str, ...] = ()
    """Names of the values that the reason is about."""


def left_alone(subject: str, reason: str | Reason, code: str = "", *, action: str = "left alone") -> Note:
    """Return a note on what a pass did not change, and why; a `Reason` has its own code, and what it is about."""
    if isinstance(reason, str):
        return Note(subject, action, reason, NoteKind.LEFT_ALONE, code)
    return Note(subject, action, str(reason), NoteKind.LEFT_ALONE, reason.code.word, reason.nodes, reason.values)


def remark(subject: str, action: str, reason: str = "", code: str = "", *, values: tuple[str, ...] = ()) -> Note:
    """Return a note on how a pass worked, which says of nothing that it was changed."""
    return Note(subject, action, reason, NoteKind.REMARK, code, values=values)


@dataclasses.dataclass(frozen=True)
class LayerChange:
    """What became of one layer: how wide it is, or of what rank, and what it costs."""

    layer: str
    """The node, as the model that came in calls it."""
    op: str
    """Its op type."""
    quantity: str
    """What `before` and `after` count: ``channels``, ``rank``."""
    before: int
    after: int
    macs_before: int
    """Multiply-accumulates, at the sizes of the first sample."""
    macs_after: int


IN_FLOAT = "float"
"""What became of a layer that stays as it is."""


@dataclasses.dataclass(frozen=True)
class LayerSensitivity:
    """What one layer costs where it alone is changed, what that saves, and what became of it."""

    layer: str
    """The node, as the model that came in calls it."""
    op: str
    """Its op type."""
    sqnr_db: float | None
    """Signal to noise where this layer alone is changed, in decibels."""
    measured_on: str
    """Where that noise is: ``outputs`` of the model, ``products`` of the layer alone, or its ``weights``."""
    share: float | None
    """Of the noise of all layers together. What lies between layers counts for each in equal parts."""
    bytes_before: int
    """Its weight; one that several layers share counts at the first."""
    bytes_after: int
    """The same where the layer is changed, whether it was or not."""
    saved_ms: float | None
    """Measured time that it saves."""
    became: str
    """What it is now: ``int8``, ``int4``, ``float``."""
    why: str = ""
    """Why it is not what was asked for."""
    sqnr_reason: str | None = None
    share_reason: str | None = None
    saved_reason: str | None = None


@dataclasses.dataclass(frozen=True)
class Change:
    """What a pass did to the model that it was given."""

    modified: bool
    """False: the model is as it was, and `notes` say why."""
    notes: tuple[Note, ...] = ()
    layers: tuple[LayerChange, ...] = ()
    """Layers that got narrower, or of a lower rank."""
    sensitivity: tuple[LayerSensitivity, ...] = ()
    """What each layer costs and saves, in the order of the graph."""


class Progress:
    """Told how far a pass is. This one keeps it to itself; the command line draws a bar."""

    def __call__(self, what: str, done: int, total: int | None) -> None:
        """Report that `done` of `total` steps of `what` are finished (total None: not known)."""


@dataclasses.dataclass(frozen=True)
class Context:
    """What a pass is given beside the model. A pass never loads, saves, prints or benchmarks: it asks the context."""

    original: ir.Model
    """The model as it was opened: the teacher. Never modified."""
    samples: Samples
    """Calibration samples; `samples.synthetic` says whether they mean anything."""
    target: Target
    """Where the result will run: execution provider, instruction set, threads."""
    generator: np.random.Generator
    """The one source of random numbers, made of the seed and the name of the pass, anew for each try."""
    seed: int = 0
    """What decides which samples are drawn, and what each pass draws."""
    max_drop: float | None = None
    """The budget: how much accuracy (or agreement, without labels) may be lost, as a fraction."""
    goal: Goal = Goal.LATENCY
    """What the run is for."""
    timed: bool = False
    """Whether the run times models, and keeps what is faster."""
    verify: bool = False
    """Check every rewrite where it is made, on random data."""
    progress: Progress = dataclasses.field(default_factory=Progress)
    open_session: OpenSession = dataclasses.field(default=Session.of)
    """Opens a model on the target, for passes that must look at its values."""
    gate: RewriteGate = dataclasses.field(default_factory=RewriteGate)
    """Asked before each rewrite by passes whose rewrites can be left out one by one."""
    subsets: list[Subset] = dataclasses.field(default_factory=list)
    """Which parts of the samples were used, and what for; `draw` adds to it, for the report."""
    observations: Observations = dataclasses.field(default_factory=Observations)
    """What a pass found out about the model that it is given, for its next try at another strength."""
    behind: tuple[Pass, ...] = ()
    """The passes that will run behind this one: a pass that trains on its way does so as they are asked to."""

    def observed(self, key: Hashable, observe: Callable[[], _T]) -> _T:
        """Return what `observe` returns, or returned when the same pass was tried on the same model before.

        For what does not depend on the strength and takes long: moments of activations, what cutting a layer costs.
        Random numbers are drawn afterwards as if it had been observed anew, so that a try gives the same model whether
        it is the first or the third.

        Args:
            key: Names the observation, and what it depends on beside the model: a method that was fallen back to.
            observe: Makes it. The result must not be changed afterwards, nor refer to the clone that the pass changes.
        """
        return self.observations.recall(key, observe, self.generator)

    def beside(self, key: Hashable) -> Context:
        """Return a context for another form of the model, whose observations are kept apart, for other tries as well.

        Args:
            key: Names the form.
        """
        return dataclasses.replace(self, observations=self.observed(key, Observations))

    def draw(self, count: int, purpose: str) -> Samples:
        """Return `count` of the calibration samples, drawn over the whole source as `Samples.draw` does; all, if fewer.

        The same count gives the same samples, whoever asks and however often: nothing is taken from `generator`.

        Args:
            count: How many.
            purpose: Who uses them, and what for, for the report: ``quant: calibration``.
        """
        drawn = self.samples.draw(count, np.random.default_rng(self.seed))
        subset = Subset(purpose, drawn.count, self.samples.count)
        if subset not in self.subsets and not self.samples.synthetic:
            self.subsets.append(subset)
        return drawn


@dataclasses.dataclass(frozen=True)
class Pass(abc.ABC):
    """One thing that the compiler can do to a model.

    A subclass is a frozen dataclass. Its fields are its options, each annotated as ``Annotated[type, "help"]``; types
    are bool, int, float, str, an `enum.Enum`, or ``tuple[str, ...]``. This one declaration gives the command line, the
    recipe key, the help text and the reference page. It is found by its entry point ``<name>`` in the group
    ``onnxslim.passes``.
    """

    name: ClassVar[str]
    """The word after ``-p``; also the name of the entry point."""
    kind: ClassVar[Kind]
    """Whether the outputs may change."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Passes that must run before this one; they are added to the schedule."""
    after: ClassVar[tuple[str, ...]] = ()
    """Passes that run before this one where both are asked for."""
    oldest_opset: ClassVar[int] = OLDEST_NUMPY_OPSET
    """Models of an older operator set are left alone."""
    speeds_up: ClassVar[bool] = True
    """Whether it is to make the model faster. Of one that is not, only a clear slowdown counts against it."""

    recovers: ClassVar[bool] = False
    """Whether it wins back what lossy passes before it have lost. Under a budget they are judged together with it."""

    tells_layers: ClassVar[bool] = False
    """Whether its change says what each layer costs and saves (`Change.sensitivity`)."""

    @property
    def judged_as(self) -> Kind:
        """The kind that this very run is held to: `kind`, unless its options promise more."""
        return self.kind

    def untimed(self, provider: str) -> Reason | None:
        """Return why it is kept however slow it is on `provider`; None: it must not be slower."""
        return None

    @property
    def files_read(self) -> tuple[str, ...]:
        """Files that the options name and that it reads: no result may be written over them."""
        return ()

    @property
    def pursues(self) -> Goal | None:
        """What this very run is for, where its options say so; None: what the run of all passes is for."""
        return None

    def milder(self, strength: float) -> Pass | None:
        """Return this pass with options that make it `strength` strong; None where it has one form only.

        The stronger, the more it saves and loses. Under a budget the pipeline looks for the strongest form that holds
        (`onnxslim.pipeline.strength`). What is found out about the model on the way, and holds for every strength,
        belongs into `Context.observed`: each try gets a new clone of the same model.

        Args:
            strength: Above 0, where nothing would be done, and at most 1: what the options ask for, which is never
                exceeded; where they leave it open, as much as may ever make sense.
        """
        return None

    @property
    def opening(self) -> float:
        """The strength that is tried first under a budget: 1 where the options say how much is to be saved."""
        return 1.0

    def check_shares(self, *names: str) -> None:
        """Raise BadOptionValue where an option, unless it is None, is no share between 0 and 1, both excluded."""
        self._check(names, lambda value: 0 < value < 1, "a share between 0 and 1, both excluded")

    def check_counts(self, *names: str) -> None:
        """Raise BadOptionValue where an option, unless it is None, is less than 1."""
        self._check(names, lambda value: value >= 1, "1 or more")

    def _check(self, names: Iterable[str], holds: Callable[[float], bool], allowed: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and not holds(value):
                raise BadOptionValue(f"{name} is {value}", where=self.name, hint=f"{name} is {allowed}")

    @abc.abstractmethod
    def run(self, model: ir.Model, context: Context) -> Change:
        """Change `model` in place and say what was done.

        The model is in canonical form (see `onnxslim.model`) and is a clone: if `run` raises, or if what it did does
        not hold, the clone is thrown away.
        """

    def plan(self, model: ir.Model, context: Context) -> PassPlan:
        """Say what `run` would do to `model`, and what it would leave alone and why.

        Here it is run, and its notes are told. A pass that knows more, or can tell without samples, says it itself.

        Args:
            model: A clone in canonical form; it is changed as `run` would change it.
            context: As for `run`.
        """
        before = count_nodes(model)
        lines = tuple(map(_planned, self.run(model, context).notes))
        return PassPlan((before, count_nodes(model)), lines)


def _planned(note: Note) -> Planned:
    """Return a note as a line of a plan."""
    if note.kind in (NoteKind.LEFT_ALONE, NoteKind.LEFT_OUT):
        finding = Finding(note.reason, note.subject, note.reason, note.code, note.nodes, note.values)
        return Planned(note.subject, 0, note.action, gather([finding] if note.reason else []))
    sites = int(note.kind is NoteKind.DONE)
    return Planned(note.subject, sites, ": ".join(filter(None, (note.action, note.reason))))
