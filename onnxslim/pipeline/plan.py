"""What a pass would do to a model, and what it would leave alone and why: the answer of `Pass.plan`."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable
from typing import Annotated


@dataclasses.dataclass(frozen=True)
class Obstacle:
    """Why something was left alone, in words that name no node, so that equal reasons can be counted."""

    reason: Annotated[str, "why, in words that are the same wherever it is the same reason"]
    count: Annotated[int, "at how many places"]
    example: Annotated[str, "one of these places: a node, a value, a group"]
    detail: Annotated[str, "what was found at the example"]


@dataclasses.dataclass(frozen=True)
class Planned:
    """One thing that the pass can do: a rule, a step, or a place that it works on."""

    subject: Annotated[str, "the rule, step, node or group that it is about"]
    sites: Annotated[int, "at how many places it would be done; 0: nowhere"]
    action: Annotated[str, "what would be done there"] = ""
    obstacles: Annotated[tuple[Obstacle, ...], "why it is not done elsewhere, the most frequent first"] = ()


@dataclasses.dataclass(frozen=True)
class PassPlan:
    """What a pass would do to one model."""

    nodes: Annotated[tuple[int, int], "nodes before and after, subgraphs included"]
    lines: Annotated[tuple[Planned, ...], "what would be done most often first, then what is done nowhere"] = ()


def gather(places: Iterable[tuple[str, str, str]]) -> tuple[Obstacle, ...]:
    """Count equal reasons, the most frequent first; in the order of `places` where they are equally frequent.

    Args:
        places: (reason, place, detail); the first place is the example.
    """
    counts: collections.Counter[str] = collections.Counter()
    first: dict[str, tuple[str, str]] = {}
    for reason, place, detail in places:
        counts[reason] += 1
        first.setdefault(reason, (place, detail))
    return tuple(Obstacle(reason, count, *first[reason]) for reason, count in counts.most_common())


def ordered(lines: Iterable[Planned]) -> tuple[Planned, ...]:
    """Sort: what is done most often first; among what is done nowhere, what fails most often first."""
    return tuple(sorted(lines, key=lambda line: (-line.sites, -sum(each.count for each in line.obstacles))))
