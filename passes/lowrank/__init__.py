"""Low rank: layers are split into factors that hold fewer parameters, where that is faster on the target."""

from __future__ import annotations

import dataclasses
import enum
from typing import Annotated, ClassVar

import onnx_ir as ir

from onnxslim.analysis.gemm import spread
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.errors import BadOptionValue
from onnxslim.model.constants import constant
from onnxslim.ops.parameters import attribute
from onnxslim.pipeline.interface import Change, Context, Goal, Kind, LayerChange, Note, Pass, left_alone
from onnxslim.pipeline.reasons import Reason
from onnxslim.pipeline.selection import Exclude, Include, Selection

from .allocation import RankRule, RankTarget, SplitSettings, Weighing
from .codes import LowrankCode
from .embedding import split_tables
from .factors import Factorization
from .fusing import fuse
from .layer import SMALLEST, find_layers
from .splitting import Splitting

ENERGY = 0.99
"""The default share of the energy of each output that is retained."""
LEAST, OPENING = 0.96, 0.99
"""Under a budget, where nobody says how much: the smallest energy that is ever tried, and the first."""


class SplitGoal(enum.Enum):
    """The purpose of splits."""

    AUTO = "auto"
    """That of the run: `--goal`."""
    LATENCY = "latency"
    """Only those that were measured to be faster."""
    SIZE = "size"
    """All that hold fewer parameters."""


@dataclasses.dataclass(frozen=True)
class Lowrank(Pass):
    """Split layers into factors of low rank, chosen for what the layers see, where the factors are faster."""

    name: ClassVar[str] = "lowrank"
    kind: ClassVar[Kind] = Kind.LOSSY
    needs: ClassVar[tuple[str, ...]] = ("simplify",)
    after: ClassVar[tuple[str, ...]] = ("dequantize", "prune")

    energy: Annotated[
        float | None,
        "share of the energy of its output that each layer retains where it alone is split; default 0.99",
    ] = None
    params: Annotated[
        float | None,
        "share of the parameters of all layers, and of all tables, to remove where it costs least",
    ] = None
    rank: Annotated[float | None, "share of the full rank that each layer keeps"] = None
    breakeven: Annotated[bool, "keep the largest rank that saves anything"] = False
    align: Annotated[int, "keep ranks multiples of this"] = 16
    smallest: Annotated[int, "split only weights and tables of at least so many numbers"] = SMALLEST
    kinds: Annotated[
        tuple[str, ...], "splits that are allowed: matrix, tucker, spatial, separable, embedding (all these), pivot"
    ] = ()
    include: Include = ()
    exclude: Exclude = ()
    pays: Annotated[SplitGoal, "what a split must bring: latency, measured on the target, or size"] = SplitGoal.AUTO
    whiten: Annotated[bool, "choose factors for what the layers see on the samples, not for their weights alone"] = True
    sensitivity: Annotated[bool, "measure how much the error of each layer counts, for params"] = True
    weighing: Annotated[
        Weighing,
        "how errors of a layer count: local, by what the next products make of them; gradients, by what the outputs do",
    ] = Weighing.LOCAL
    recover: Annotated[bool, "fit layers that stay whole, too, to make up for the errors of those before"] = False

    def __post_init__(self) -> None:
        asked = [name for name in ("energy", "params", "rank") if getattr(self, name) is not None]
        if len(asked) + self.breakeven > 1:
            raise BadOptionValue(
                f"{' and '.join([*asked, *['breakeven'] * self.breakeven])} are given at once",
                where="lowrank",
                hint="ranks are chosen by one of energy, params, rank and breakeven",
            )
        if self.weighing is Weighing.GRADIENTS and not self.whiten:
            raise BadOptionValue(
                "weighing is gradients, and whiten is false: by the weights alone all errors count alike",
                where="lowrank",
                hint="leave out one of them",
            )
        self.check_shares("energy", "params", "rank")
        self.check_counts("align", "smallest")
        known = [form.value for form in Factorization]
        for word in self.kinds:
            if word not in known:
                raise BadOptionValue(
                    f"there is no kind {word!r}", where="lowrank", hint=f"kinds are {', '.join(known)}"
                )

    @property
    def target(self) -> RankTarget:
        """The rule that chooses ranks, and its amount."""
        if self.params is not None:
            return RankTarget(RankRule.PARAMS, self.params)
        if self.rank is not None:
            return RankTarget(RankRule.RANK, self.rank)
        if self.breakeven:
            return RankTarget(RankRule.BREAK_EVEN)
        return RankTarget(RankRule.ENERGY, ENERGY if self.energy is None else self.energy)

    def milder(self, strength: float) -> Pass | None:
        """Lose a smaller share of the energy, or of the ranks, or of the parameters."""
        if self.breakeven:
            return None
        if self.params is not None:
            return dataclasses.replace(self, params=self.params * strength)
        if self.rank is not None:
            return dataclasses.replace(self, rank=1 - (1 - self.rank) * strength)
        energy = LEAST if self.energy is None else self.energy
        return dataclasses.replace(self, energy=1 - (1 - energy) * strength)

    @property
    def opening(self) -> float:
        """An energy of 0.99 where no rank rule is given."""
        asked = self.energy is not None or self.target.rule is not RankRule.ENERGY
        return 1.0 if asked else (1 - OPENING) / (1 - LEAST)

    def settings(self, goal: Goal) -> SplitSettings:
        """Return the settings of a run with this goal."""
        kinds = self.kinds or tuple(form.value for form in Factorization if form is not Factorization.PIVOT)
        forms = tuple(form for form in Factorization if form.value in kinds)
        size = self.pays is SplitGoal.SIZE or (self.pays is SplitGoal.AUTO and goal is Goal.SIZE)
        return SplitSettings(
            self.target,
            forms,
            self.align,
            whiten=self.whiten,
            recover=self.recover,
            size=size,
            sensitivity=self.sensitivity,
            smallest=self.smallest,
            weighing=self.weighing,
        )

    def run(self, model: ir.Model, context: Context) -> Change:
        """Split layers of `model` in place.

        Raises:
            RunError: The model does not run on the calibration samples.
        """
        infer_shapes(model)
        selection = Selection(self.include, self.exclude, model, context.original)
        spread(model, lambda node: _spreads(node) and not selection.against(node))
        fused = fuse(model, selection)
        if fused:
            infer_shapes(model)
        layers, left = find_layers(model, selection, self.smallest)
        notes = [*selection.unmatched(), *fused, *left]
        first: list[Note] = []
        changes: tuple[LayerChange, ...] = ()
        settings, reason = self.settings(context.goal), Reason(LowrankCode.NO_LAYER)
        if layers:
            work = Splitting(settings, model, layers, context)
            chosen, reasons = work.choose(work.options())
            notes += work.notes
            reason = next(iter(work.broken.values()), Reason(LowrankCode.NOTHING_PAYS))
            notes += [left_alone(layer.name, why) for layer, why in zip(layers, reasons, strict=True) if why]
            pairs = zip(layers, chosen, strict=True)
            picked = [(layer, candidate) for layer, candidate in pairs if candidate is not None]
            if picked:
                before = sum(layer.parameters for layer in layers)
                gone = sum(layer.parameters - candidate.parameters for layer, candidate in picked)
                removed = f"{gone / before:.1%} of the parameters of {len(layers)} layers removed"
                missed = self.params is not None and gone < round(self.params * before)
                short = f"{self.params:.1%} was asked for: the splits that will do remove no more" if missed else ""
                first.append(Note("model", removed, short))
                first += work.split(picked)
                changes = tuple(work.changes)
        if Factorization.EMBEDDING in settings.forms:
            done, whole, tables = split_tables(model, selection, settings, context)
            first += done
            changes += tables
            notes += whole
        if not first and not fused:
            return Change(False, (left_alone("model", reason), *notes))
        infer_shapes(model)
        return Change(True, (*first, *notes), changes)


def _spreads(gemm: ir.Node) -> bool:
    """Whether a Gemm can be split once its scales and its summand are nodes of their own."""
    return constant(gemm.inputs[1]) is not None and not attribute(gemm, "transA")
