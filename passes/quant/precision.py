"""Decides which layers of a plan stay in float: for their error, their time, or their bytes."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.pipeline.interface import Note, remark
from onnxslim.pipeline.reasons import Reason

from .codes import QuantCode
from .cost import PlanCosts
from .mixed import CostLimits, RoundingError, best_within, cheapest_below, fastest, left_after, reasons
from .plan import QuantPlan, layers_of

SHARES = (1.0, 0.5, 0.25)
"""Shares of `float_time` that choices are made for: what a choice really takes is only known once it is measured."""
MORE = (2.0, 4.0)
"""Multiples of it that are measured as well, for what they may bring."""
CONVERSIONS = (2.0, 4.0)
"""How much dearer conversions are taken to be: what lies between a model in float and one in int8 is only reckoned."""

WORTH = 1 / 8
"""The share of the error of the fastest choice to which each further `float_time` must bring it, so that the choice
does not hang on the clock where errors differ much: 9 dB."""

SOLVED = 1e-6
"""How far the solver may miss what is demanded."""
TOGETHER = 1_000_000_000
"""Bytes of the weights of quantized models that are open at once."""


class Times(enum.Enum):
    """Where the times of layers come from."""

    AUTO = "auto"
    """Measured where the run times models, and the result is written for the provider that it runs on."""
    MEASURED = "measured"
    ESTIMATED = "estimated"


@dataclasses.dataclass(frozen=True)
class Demands:
    """What the options of the pass ask of the layers together."""

    error: float = 1.0
    """Share of the error that may be left."""
    float_time: float = 0.0
    """Share of the time of the fastest choice that may be added for less error."""
    latency: float | None = None
    """Share of the time in float that a run may take; it takes the place of `float_time`, as `size` does."""
    size: float | None = None
    """Share of the bytes of float weights that weights may take."""
    enough: float = 0.0
    """Share of the error of everything in int8 below which less of it is worth no time."""

    @property
    def spent(self) -> float:
        """`float_time`; none where the error of everything in int8 is small enough."""
        return 0.0 if self.enough >= 1 else self.float_time

    @property
    def need_errors(self) -> bool:
        """Whether it matters what error layers bring."""
        return self.error < 1 or self.float_time > 0 or self.budgeted

    @property
    def budgeted(self) -> bool:
        """Whether a budget is given."""
        return self.latency is not None or self.size is not None


def choose(errors: Sequence[RoundingError], costs: PlanCosts, demands: Demands, int8: frozenset[str]) -> frozenset[str]:
    """Return the layers to leave in float.

    What is measured may be slower in int8, and is then left in float; estimates are no evidence of that.

    Args:
        errors: That rounding brings; they add up.
        costs: Of the layers.
        demands: What is asked for. Where nothing keeps a budget, the fastest choice is taken for `latency`, and
            everything is int8 for `size`.
        int8: Layers that are int8 in any case, but for the sake of `demands.error`.
    """
    everything = frozenset(costs.layers)
    nothing = frozenset[str]()
    least = (fastest(costs, CostLimits(int8=int8)) if costs.measured else None) or nothing
    if demands.budgeted:
        time = costs.time(everything) * demands.latency if demands.latency is not None else math.inf
        size = costs.size(everything) * demands.size if demands.size is not None else math.inf
        chosen = best_within(errors, costs, CostLimits(time, size, int8))
        if chosen is None:
            chosen = least if costs.size(least) <= size else nothing
    else:
        limit = costs.time(least) * (1 + demands.spent)
        chosen = best_within(errors, costs, CostLimits(limit, int8=int8)) if demands.spent else None
        chosen = least if chosen is None else chosen
    if left_after(chosen, errors) > demands.error:
        chosen = cheapest_below(errors, costs, demands.error) or chosen
    return chosen


def candidates(
    errors: Sequence[RoundingError],
    costs: PlanCosts,
    demands: Demands,
    int8: frozenset[str],
    estimated: PlanCosts | None = None,
) -> list[frozenset[str]]:
    """Return sets of layers to leave in float, of which measurements tell the best: see `choose`, and `best_of`.

    They are chosen by what is measured of the layers, and by estimates, where there are some. The last one leaves none.
    Of large models there are two.
    """
    most_first = [dataclasses.replace(demands, float_time=demands.float_time * share) for share in SHARES]
    fastest_one = dataclasses.replace(demands, float_time=0.0)
    tries = [(costs, demands)]
    if not demands.budgeted:
        tries += [(estimated, asked) for asked in most_first if estimated is not None]
        tries += [(costs, dataclasses.replace(demands, float_time=demands.float_time * times)) for times in MORE]
    tries += [(costs, asked) for asked in most_first[1:]]
    tries.append((costs, fastest_one))
    tries += [(costs.dearer(factor), asked) for factor in CONVERSIONS for asked in (demands, fastest_one)]
    found = dict.fromkeys(choose(errors, reckoned, asked, int8) for reckoned, asked in tries)
    everything = frozenset[str]()
    found.pop(everything, None)
    most = max(2, TOGETHER // max(costs.size(everything), 1))
    return [*list(found)[: most - 1], everything]


def best_of(left: Sequence[float], times: Sequence[float], in_float: float, demands: Demands) -> int | None:
    """Return the place of the best of several models that leave different layers in float; None: none is faster.

    Args:
        left: The error that is left in each, as a share of that with everything in int8.
        times: The milliseconds that each takes; infinite where it does not run.
        in_float: The milliseconds of the model in float.
        demands: What is asked for. Of those that keep it the one with the least error counts; where none keeps the
            error, the one with the least, and where none keeps the time, the fastest.

    Unless there is a budget, the time is kept within `float_time` of the fastest: once, and once more for each time
    that the error is `WORTH` of what it was, as often as `MORE` says. Of those whose error is small enough, it is the
    fastest.
    """
    most = demands.error + SOLVED if demands.error < 1 else math.inf
    kept = [index for index, share in enumerate(left) if share <= most] or [int(np.argmin(left))]
    kept = [index for index in kept if times[index] < in_float]
    if not kept:
        return None
    first = min(kept, key=times.__getitem__)
    if not demands.budgeted:
        left = [max(share, demands.enough) for share in left]

    def limit(index: int) -> float:
        if demands.budgeted:
            return in_float * (1 if demands.latency is None else demands.latency)
        less = math.log(max(left[index], SOLVED) / max(left[first], SOLVED)) / math.log(WORTH)
        return times[first] * (1 + demands.float_time * min(1 + max(less, 0.0), MORE[-1]))

    within = [index for index in kept if times[index] <= limit(index)]
    if not within:
        return first
    return min(within, key=lambda index: (left[index], times[index]))


@dataclasses.dataclass(frozen=True)
class PlanFigures:
    """What is known of the layers of a plan."""

    plan: QuantPlan
    errors: Sequence[RoundingError]
    costs: PlanCosts
    macs: Mapping[str, int]
    """Multiply-accumulates of nodes, by the first value that each makes."""
    estimated: PlanCosts | None = None
    """What the layers cost by estimate, where `costs` are measured."""


@dataclasses.dataclass(frozen=True)
class MixedPlan:
    """A plan that leaves layers in float."""

    plan: QuantPlan
    notes: tuple[Note, ...] = ()
    against: Reason | None = None
    """Why nothing is quantized."""


@dataclasses.dataclass(frozen=True)
class PlanTrial:
    """Makes plans, and tries them."""

    replan: Callable[[Mapping[ir.Node, Reason]], QuantPlan]
    """Makes the plan that leaves nodes in float, for these reasons."""
    race: Callable[[Sequence[QuantPlan]], list[float]]
    """Returns the milliseconds of the model in float, and of copies that are quantized by these plans."""
    judge: Callable[[Sequence[QuantPlan]], list[float]]
    """Returns the energy of the error of the outputs of copies that are quantized by these plans, as a share of theirs;
    NaN for all where one does not run."""


def mixed_plan(figures: PlanFigures, demands: Demands, int8: frozenset[str], trial: PlanTrial) -> MixedPlan:
    """Return a plan with the layers in float that cost the outputs too much, or are slower in int8.

    Times and errors are reckoned from parts, so that several choices are written and measured; where times are
    estimates, the one that is reckoned best counts. `int8` is as for `choose`.
    """
    errors, costs = figures.errors, figures.costs
    if not costs.measured:
        chosen = choose(errors, costs, demands, int8)
        return MixedPlan(_without(figures, chosen, trial), _unkept(figures, chosen, demands))
    trials = _Trials(figures, trial)
    sets = candidates(errors, costs, demands, int8, figures.estimated)
    trials.measure(sets)
    everything, slower = frozenset[str](), fastest(costs, CostLimits(int8=int8)) or frozenset()
    if trials.takes(slower) > trials.takes(everything):  # what is reckoned to be slower in int8 is not
        trials.measure(candidates(errors, costs, demands, int8 | slower, figures.estimated))
    if not math.isfinite(trials.in_float):
        return MixedPlan(trials.plan(sets[0]), _unkept(figures, sets[0], demands))
    measured = list(trials.times)
    shares = trials.shares(measured)
    best = best_of(shares, list(trials.times.values()), trials.in_float, demands)
    if best is None:
        least = min(trials.times.values(), default=math.inf)
        return MixedPlan(trials.plan(sets[0]), against=Reason(QuantCode.NOT_FASTER, (least, trials.in_float)))
    chosen = measured[best]
    time = trials.takes(chosen)
    told = f"measured in turns: {trials.in_float:.3g} ms in float"
    if chosen:
        all_int8 = f"{trials.takes(everything):.3g} ms with everything in int8 that can be"
        told += f", {all_int8}, of whose error {shares[best]:.0%} is left"
    note = remark("model", f"{time:.3g} ms", told)
    return MixedPlan(trials.plan(chosen), (note, *_unkept(figures, chosen, demands, time / trials.in_float)))


class _Trials:
    """Sets of layers in float, whose plans were written and measured."""

    def __init__(self, figures: PlanFigures, trial: PlanTrial) -> None:
        self._figures, self._trial = figures, trial
        self._plans: dict[frozenset[str], QuantPlan] = {}
        self.in_float = math.inf
        """The milliseconds of the model in float."""
        self.times: dict[frozenset[str], float] = {}
        """Those of the sets that leave something in int8 that pays."""

    def plan(self, layers: frozenset[str]) -> QuantPlan:
        """Return the plan that leaves some layers in float."""
        if layers not in self._plans:
            self._plans[layers] = _without(self._figures, layers, self._trial)
        return self._plans[layers]

    def takes(self, layers: frozenset[str]) -> float:
        """Return the milliseconds of one run, those in float where nothing is left that pays; NaN: not measured."""
        if layers in self._plans and not self._plans[layers].pays:
            return self.in_float
        return self.times.get(layers, math.nan)

    def measure(self, sets: Sequence[frozenset[str]]) -> None:
        """Measure what was not; the times of another race are brought to the pace of the first one by the choice that
        is the fastest so far, which runs in both."""
        paying = [layers for layers in sets if layers not in self.times and self.plan(layers).pays]
        if not paying:
            return
        fastest_one = min(self.times, key=self.times.__getitem__, default=None)
        again = [] if fastest_one is None else [fastest_one]
        in_float, *times = self._trial.race([self.plan(layers) for layers in [*again, *paying]])
        if fastest_one is None:
            self.in_float, pace = in_float, 1.0
        else:
            before, now = self.times[fastest_one], times.pop(0)
            pace = before / now if math.isfinite(before) and math.isfinite(now) else math.inf
        self.times |= {layers: time * pace for layers, time in zip(paying, times, strict=True)}

    def shares(self, measured: Sequence[frozenset[str]]) -> list[float]:
        """Return the error that sets leave, as a share of that with everything in int8.

        It is measured where it is asked for, and all of them run; what layers bring by themselves only roughly adds up.
        """
        reckoned = [left_after(layers, self._figures.errors) for layers in measured]
        if len(measured) < 2 or not any(share < 1 for share in reckoned):
            return reckoned
        judged = list(dict.fromkeys([frozenset[str](), *measured]))
        errors = dict(zip(judged, self._trial.judge([self.plan(layers) for layers in judged]), strict=True))
        whole = errors[frozenset()]
        known = whole > 0 and all(map(math.isfinite, errors.values()))
        return [errors[layers] / whole for layers in measured] if known else reckoned


def _without(figures: PlanFigures, layers: frozenset[str], trial: PlanTrial) -> QuantPlan:
    """Return a plan in which some layers stay in float, each with the reason."""
    if not layers:
        return figures.plan
    sites = layers_of(figures.plan)
    work = {key: sum(figures.macs.get(site.key, 0) for site in own) for key, own in sites.items()}
    found: dict[ir.Node, Reason] = {}
    for key, reason in reasons(layers, figures.errors, work, figures.costs).items():
        of_layer = Reason(QuantCode.OF_FLOAT_LAYER, (key,), (key,))
        found |= {site.node: reason if site.is_contraction else of_layer for site in sites[key]}
        # A Relu that a kernel takes in would be quantized by itself, where it may be, and its result be rounded again.
        found |= {site.clamp: of_layer for site in sites[key] if site.clamp is not None}
    return trial.replan(found)


def _unkept(
    figures: PlanFigures, chosen: frozenset[str], demands: Demands, time: float | None = None
) -> tuple[Note, ...]:
    """Return notes on budgets that are not kept; `time` is the share of the time in float, where it is measured."""
    costs, everything = figures.costs, frozenset(figures.costs.layers)
    shares = {
        "latency": (demands.latency, costs.time(chosen) / costs.time(everything) if time is None else time),
        "size": (demands.size, costs.size(chosen) / max(costs.size(everything), 1)),
    }
    return tuple(
        remark("model", f"{share:.2f} of its {word} in float", str(missed), missed.code.word)
        for word, (asked, share) in shares.items()
        if asked is not None and share > asked and (missed := Reason(QuantCode.BUDGET_MISSED, (word, asked)))
    )
