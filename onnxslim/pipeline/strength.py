"""Chooses the strength that is tried next: a bracketed search for the strongest form of a pass that a budget allows.

The loss is taken to rise as a power of the strength, through the tries that lie nearest to where the budget would be
used up; the bracket of what holds and what does not keeps the search safe where it rises otherwise.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

MOST_TRIES = 5
"""Tries of one pass at most."""
NEAR = 0.7
"""Where this part of what may be lost is used up, a stronger try would gain little, and is not made."""
AIM = 0.85
"""The part of what may be lost that a try is to use up: with less room, every second one would miss by chance."""
STEEPNESS = 3.0
"""The power by which the loss rises with the strength, while one try is all that is known. Channels of ResNet-8, -18,
-20 and -56: 2 to 5."""
STEEPNESSES = (1.0, 6.0)
"""What two tries may say about it."""
NARROW = 0.93
"""A bracket whose ends are as near to each other as this is not cut again."""
WEAKEST = 0.05
"""Where a try as weak as this does not hold, the pass is given up."""
LARGEST_STEP, LARGEST_FALL = 2.0, 6.0
"""A try is at most so many times as strong as the strongest that holds, or so many times weaker than what does not."""
RETREAT = 0.5
"""Two tries that do not hold, while none does, leave the next one this part of their strength at most, three its
square, and so on: where the loss is noisy, as that of a few boxes is, no law says how much weaker is enough."""
INSET = 0.15
"""A try within the bracket stays away from its ends by this part of it."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """What a try at one strength gave."""

    strength: float
    loss: float | None
    """What is lost against the original in all, as it counts against the budget; None where that is not known."""
    holds: bool


def next_strength(trials: Sequence[Trial], spent: float, limit: float, opening: float, most: int) -> float | None:
    """Return the strength to try next, None where the search has come to its end.

    Args:
        trials: What was tried, in any order.
        spent: What was lost before the pass.
        limit: What may be lost after it.
        opening: Where to begin.
        most: Tries that may be made.
    """
    if not trials:
        return opening
    low = strongest(trials)
    bottom = 0.0 if low is None else low.strength
    failed = [trial for trial in trials if not trial.holds and trial.strength > bottom]
    high = min(failed, key=lambda trial: trial.strength, default=None)
    top = 1.0 if high is None else high.strength
    if len(trials) >= most or bottom >= 1.0 or (low is None and top <= WEAKEST) or bottom >= NARROW * top:
        return None
    room = limit - spent
    if low is not None and low.loss is not None and room > 0 and low.loss - spent >= NEAR * room:
        return None
    wished = _predicted(trials, bottom, spent, AIM * room)
    if wished is None:
        wished = math.sqrt(max(bottom, top / 4) * top)
    if high is None:
        return min(1.0, max(bottom * (1 + INSET), min(wished, bottom * LARGEST_STEP)))
    if low is None:
        wished = min(wished, top * math.pow(RETREAT, len(failed) - 1))
    least = top / LARGEST_FALL if low is None else bottom + INSET * (top - bottom)
    return max(least, min(wished, top - INSET * (top - bottom)))


def strongest(trials: Sequence[Trial]) -> Trial | None:
    """Return the strongest of the tries that hold."""
    return max((trial for trial in trials if trial.holds), key=lambda trial: trial.strength, default=None)


def _predicted(trials: Sequence[Trial], bottom: float, spent: float, aim: float) -> float | None:
    """Return the strength at which `aim` would be lost beyond what was spent, by a power law through the two tries
    that lie next to it; None where no try says anything."""
    if aim <= 0:
        return None
    floor = 0.02 * aim  # what is lost by less than that, or gained, is noise
    known = sorted((trial.strength, max(trial.loss - spent, floor)) for trial in trials if trial.loss is not None)
    weaker = [point for point in known if point[0] <= bottom][-2:]
    stronger = [point for point in known if point[0] > bottom][:2]
    near = (weaker[-1], stronger[0]) if weaker and stronger else tuple(weaker or stronger)
    if not near:
        return None
    power = STEEPNESS
    if len(near) == 2:
        slope = math.log(near[1][1] / near[0][1]) / math.log(near[1][0] / near[0][0])
        power = min(max(slope, STEEPNESSES[0]), STEEPNESSES[1])
    strength, loss = min(near, key=lambda point: abs(math.log(point[1] / aim)))
    return strength * math.pow(aim / loss, 1 / power)
