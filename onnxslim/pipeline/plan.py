"""What a pass would do to a model, and what it would leave alone and why: the answer of `Pass.plan`."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable
from typing import Annotated, NamedTuple


@dataclasses.dataclass(frozen=True)
class Obstacle:
    """Why something was left alone, in words that name no node, so that equal reasons can be counted."""

    reason: Annotated[str, "why, in words that are the same wherever it is the same reason"]
    count: Annotated[int, "at how many places"]
    example: Annotated[str, "one of these places: a node, a value, a group"]
    detail: Annotated[str, "what was found at the example"]
    code: Annotated[str, "the reason as a word that stays the same from version to version; empty: there is none"] = ""
    nodes: Annotated[tuple[str, ...], "names of the nodes that the detail is about"] = ()
    values: Annotated[tuple[str, ...], "names of the values that the detail is about"] = ()


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


class Finding(NamedTuple):
    """Why one place is left alone; the fields are those of `Obstacle`."""

    reason: str
    place: str
    detail: str
    code: str = ""
    nodes: tuple[str, ...] = ()
    values: tuple[str, ...] = ()


def gather(findings: Iterable[Finding]) -> tuple[Obstacle, ...]:
    """Count equal reasons, the most frequent first, the earlier where they are equally frequent.

    The first finding of a reason is its example.
    """
    counts: collections.Counter[str] = collections.Counter()
    first: dict[str, Finding] = {}
    for finding in findings:
        counts[finding.reason] += 1
        first.setdefault(finding.reason, finding)
    return tuple(Obstacle(reason, count, *first[reason][1:]) for reason, count in counts.most_common())


def ordered(lines: Iterable[Planned]) -> tuple[Planned, ...]:
    """Sort: what is done most often first; among what is done nowhere, what fails most often first."""
    return tuple(sorted(lines, key=lambda line: (-line.sites, -sum(obstacle.count for obstacle in line.obstacles))))
