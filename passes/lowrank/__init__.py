"""Low rank: layers are split into factors that hold fewer parameters, where that is faster on the target."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim.errors import BadOptionValue
from onnxslim.graph.cost import measure_cost
from onnxslim.graph.shapes import infer_shapes
from onnxslim.graph.sizes import at_sizes
from onnxslim.pipeline.interface import Change, Context, Goal, Kind, Note, Pass
from onnxslim.train.observation import truncated
from onnxslim.train.refit import BUDGET, FEWEST, SAMPLES

from .allocation import Rule, Wish, choose
from .candidates import Candidate, Extent, candidates
from .factors import Form, Moments, Problem, split
from .layer import Layer, find_layers
from .timing import Stopwatch
from .watching import Seen, portions, watch
from .writing import write

DAMPING = 1e-3
"""White noise that is added to what a layer gets, relative to the mean square of an input: see `Moments.damped`."""
ENERGY = 0.99
"""What is retained of each output where nothing else is asked for."""


class Target(enum.Enum):
    """What splits are made for."""

    AUTO = "auto"
    """What the run is for: `--goal`."""
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
    after: ClassVar[tuple[str, ...]] = ("prune",)

    energy: Annotated[float | None, "share of the energy of its output that each layer retains; default 0.99"] = None
    params: Annotated[float | None, "share of the parameters of all layers to remove, where it costs least"] = None
    rank: Annotated[float | None, "share of the full rank that each layer keeps"] = None
    breakeven: Annotated[bool, "keep the largest rank that saves anything"] = False
    align: Annotated[int, "keep ranks multiples of this"] = 16
    kinds: Annotated[tuple[str, ...], "splits that are allowed: matrix, tucker, spatial, separable, embedding"] = ()
    include: Annotated[tuple[str, ...], "split only layers whose node or weight has one of these names (* and ?)"] = ()
    exclude: Annotated[tuple[str, ...], "leave layers alone whose node or weight has one of these names"] = ()
    pays: Annotated[Target, "what a split must bring: latency, measured on the target, or size"] = Target.AUTO
    whiten: Annotated[bool, "choose factors for what the layers see on the samples, not for their weights alone"] = True
    recover: Annotated[bool, "fit each layer to make up for the errors of those before it"] = True

    def __post_init__(self) -> None:
        asked = [name for name in ("energy", "params", "rank") if getattr(self, name) is not None]
        if len(asked) + self.breakeven > 1:
            raise BadOptionValue(
                f"{' and '.join([*asked, *['breakeven'] * self.breakeven])} are given at once",
                where="lowrank",
                hint="ranks are chosen by one of energy, params, rank and breakeven",
            )
        for name in asked:
            value = getattr(self, name)
            if not 0 < value < 1:
                raise BadOptionValue(
                    f"{name} is {value}", where="lowrank", hint=f"{name} is a share between 0 and 1, both excluded"
                )
        if self.align < 1:
            raise BadOptionValue(f"align is {self.align}", where="lowrank", hint="align is a rank, 1 or more")
        known = [form.value for form in Form]
        for word in self.kinds:
            if word not in known:
                raise BadOptionValue(
                    f"there is no kind {word!r}", where="lowrank", hint=f"kinds are {', '.join(known)}"
                )

    @property
    def wish(self) -> Wish:
        """What is asked for."""
        if self.params is not None:
            return Wish(Rule.PARAMS, self.params)
        if self.rank is not None:
            return Wish(Rule.RANK, self.rank)
        if self.breakeven:
            return Wish(Rule.BREAK_EVEN)
        return Wish(Rule.ENERGY, ENERGY if self.energy is None else self.energy)

    @property
    def forms(self) -> tuple[Form, ...]:
        """The splits that are allowed."""
        return tuple(form for form in Form if not self.kinds or form.value in self.kinds)

    def run(self, model: ir.Model, context: Context) -> Change:
        """Split layers of `model` in place.

        Raises:
            RunError: The model does not run on the calibration samples.
        """
        infer_shapes(model)
        layers, left = find_layers(model, self.include, self.exclude)
        notes = [Note(name, "left alone", reason) for name, reason in left]
        if not layers:
            return Change(False, (Note("model", "left alone", "no layer can be split"), *notes))
        work = _Work(self, model, layers, context)
        options = work.options()
        chosen, reasons = work.choose(options)
        notes += work.notes
        notes += [Note(layer.name, "left alone", why) for layer, why in zip(layers, reasons, strict=True) if why]
        picked = [(layer, each) for layer, each in zip(layers, chosen, strict=True) if each is not None]
        if not picked:
            return Change(False, (Note("model", "left alone", "no split of a layer pays"), *notes))
        done = work.split(picked)
        infer_shapes(model)
        before = sum(layer.parameters for layer in layers)
        gone = sum(layer.parameters - each.parameters for layer, each in picked)
        first = Note("model", f"{gone / before:.1%} of the parameters of {len(layers)} layers removed")
        return Change(True, (first, *done, *notes))


class _Work:
    """One run of the pass on one model."""

    def __init__(self, options: Lowrank, model: ir.Model, layers: Sequence[Layer], context: Context) -> None:
        self._options, self._model, self._layers, self._context = options, model, layers, context
        self.notes: list[Note] = []
        self._learns = options.whiten and not context.samples.synthetic
        if context.samples.synthetic:
            reason = "samples that were made up say nothing about activations"
            self.notes.append(Note("ranks", "by the weights alone", reason))
        self._size = options.pays is Target.SIZE or (options.pays is Target.AUTO and context.goal is Goal.SIZE)
        first = context.samples.first()
        names = {site.data.name or "" for layer in layers for site in layer.sites}
        names |= {site.node.outputs[0].name or "" for layer in layers for site in layer.sites}
        self._shapes = {name: np.shape(array) for name, array in first.items()}
        sized = at_sizes(model, self._shapes)
        self._macs = measure_cost(sized).macs
        inner = sorted(names - set(first))
        session = context.open_session(truncated(model, inner))
        used = {spec.name for spec in session.inputs}
        values = session.run({name: array for name, array in first.items() if name in used})
        self._shapes.update({name: array.shape for name, array in values.items()})
        available = context.samples.count
        self._count = SAMPLES if available is None else min(SAMPLES, available)
        # The share of a run that one portion of the layers takes is about a half, before and after.
        self._stages = max(1, int(BUDGET / max(self._count * self._macs, 1)))
        while self._stages < 2 and self._count > FEWEST:
            self._count = max(FEWEST, self._count // 2)
            self._stages = max(1, int(BUDGET / max(self._count * self._macs, 1)))
        self._samples = context.samples.take(self._count)

    def _extent(self, layer: Layer) -> Extent:
        if not layer.kernel:
            return Extent(1, 1, 1)
        site = layer.sites[0]
        data, result = self._shapes[site.data.name or ""], self._shapes[site.node.outputs[0].name or ""]
        between = [*result[2:3], *data[3:]]
        return Extent(int(np.prod(data[2:])), int(np.prod(result[2:])), int(np.prod(between)))

    def _problem(self, layer: Layer, seen: Seen | None) -> Problem:
        weight = layer.matrix()
        if seen is None:
            return Problem(Moments.plain(weight), layer.kernel)
        return Problem(seen.moments(layer).damped(weight, DAMPING), layer.kernel)

    def options(self) -> list[list[Candidate]]:
        """Return for each layer what it may be split into."""
        result: list[list[Candidate]] = []
        for portion in portions(self._layers, len(self._layers)):
            seen = self._watch(portion, None)
            for layer in portion:
                extent = self._extent(layer)
                problem = self._problem(layer, seen.get(layer.name))
                own = candidates(
                    layer,
                    problem,
                    self._options.forms,
                    self._options.align,
                    extent,
                    exact=self._learns,
                    more_macs=self._size,
                )
                result.append(own)
                self._context.progress("lowrank: spectra", len(result), len(self._layers))
        return result

    def choose(self, options: Sequence[Sequence[Candidate]]) -> tuple[list[Candidate | None], list[str]]:
        """Return the split of each layer, and why it has none."""
        wish = self._options.wish
        stopwatch = Stopwatch(self._context, self._model, self._shapes)
        allowed = [list(own) for own in options]
        slow = [""] * len(options)
        while True:
            chosen = choose(self._layers, allowed, wish)
            if self._size:
                break
            ratios = stopwatch.ratios(self._layers, chosen)
            slower = [at for at, ratio in enumerate(ratios) if ratio is not None and ratio < stopwatch.margin]
            if not slower:
                break
            for at in slower:
                each = chosen[at]
                assert each is not None
                slow[at] = f"not faster: {ratios[at]:.2f}x at {describe(self._layers[at], each)}"
                # A larger split of the same form takes longer still; one that is hardly smaller is not worth the time.
                allowed[at] = [
                    other
                    for other in allowed[at]
                    if other.form is not each.form or other.parameters < 0.9 * each.parameters
                ]
        self.notes += stopwatch.notes
        reasons = [
            "" if each is not None else why or _reason(own, wish)
            for each, why, own in zip(chosen, slow, options, strict=True)
        ]
        return chosen, reasons

    def split(self, picked: Sequence[tuple[Layer, Candidate]]) -> list[Note]:
        """Split layers one portion after the other, each for what it gets now."""
        notes: list[Note] = []
        wanted = {layer.name: each for layer, each in picked}
        stages = self._stages if self._options.recover and self._learns else 1
        longest = -(-len(picked) // stages)
        feeds_back = self._options.recover and self._learns
        before = self._model.clone() if self._learns else None
        for portion in portions((layer for layer, _ in picked), longest):
            seen = self._watch(portion, before if notes and feeds_back else None, before if not feeds_back else None)
            for layer in portion:
                each = wanted[layer.name]
                problem = self._problem(layer, seen.get(layer.name))
                made = split(problem, each.form, each.ranks)
                write(self._model.graph, layer, made, _biases(layer, seen.get(layer.name), made.dense))
                lost = problem.moments.loss(made.dense)
                notes.append(Note(layer.name, describe(layer, each), f"{1 - lost:.2%} of its output retained"))
                self._context.progress("lowrank: splits", len(notes), len(picked))
        if self._learns:
            fed = f", in {min(stages, len(picked))} steps" if stages > 1 else ""
            notes.append(Note("factors", f"fitted on {self._count} samples{fed}"))
        return notes

    def _watch(self, portion: Sequence[Layer], before: ir.Model | None, now: ir.Model | None = None) -> dict[str, Seen]:
        if not self._learns:
            return {}
        context = self._context
        return watch(
            now or self._model, before, portion, self._samples, self._count, context.generator, context.open_session
        )


def _biases(layer: Layer, seen: Seen | None, dense: np.ndarray) -> list[np.ndarray | None]:
    """Return what the bias of each site is to be, such that the mean of the output is right."""
    if seen is None:
        return [None] * len(layer.sites)
    result: list[np.ndarray | None] = []
    for site, (inputs, outputs) in zip(layer.sites, seen.means(), strict=True):
        if site.bias is None:
            result.append(None)
            continue
        bias = outputs - inputs @ dense
        result.append(bias if site.bias.own else bias + site.bias.held(layer.outputs))
    return result


def describe(layer: Layer, candidate: Candidate) -> str:
    """Return a split in words: its form, its ranks, the parameters before and after."""
    ranks = "x".join(str(rank) for rank in candidate.ranks)
    return f"{candidate.form.value} of rank {ranks}: {layer.parameters} -> {candidate.parameters} parameters"


def _reason(own: Sequence[Candidate], wish: Wish) -> str:
    if not own:
        return "no split saves parameters"
    if wish.rule is Rule.ENERGY:
        least = min(each.error for each in own)
        return f"no split that saves parameters retains {wish.amount:.1%} of its output (at most {1 - least:.1%})"
    return "the budget is met without it"
