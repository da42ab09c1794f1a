"""A minimum cut of a graph with unit sources: which nodes lie on the side of the sources."""

from __future__ import annotations

import collections
from collections.abc import Hashable


class UnitFlow:
    """A maximum flow where each edge from the source has room for one: augmenting paths are found one by one."""

    SINK = "sink"

    def __init__(self) -> None:
        self.starts: list[Hashable] = []
        self.reached: set[Hashable] = set()
        """After `run`: the side of the source in the smallest minimum cut."""
        self._room: dict[Hashable, dict[Hashable, int]] = collections.defaultdict(dict)

    def edge(self, begin: Hashable, end: Hashable, room: int) -> None:
        """Add an edge."""
        self._room[begin][end] = self._room[begin].get(end, 0) + room
        self._room[end].setdefault(begin, 0)

    def run(self) -> int:
        """Return how many starts have no path to the sink.

        What a search reached without success is left out from then on: no later path leads out of it.
        """
        return sum(not self._augment(start) for start in self.starts)

    def _augment(self, start: Hashable) -> bool:
        if start in self.reached:
            return False
        before: dict[Hashable, Hashable] = {start: start}
        queue = collections.deque([start])
        while queue:
            current = queue.popleft()
            for successor, room in self._room[current].items():
                if room <= 0 or successor in before or successor in self.reached:
                    continue
                before[successor] = current
                if successor == self.SINK:
                    self._push(successor, before)
                    return True
                queue.append(successor)
        self.reached.update(before)
        return False

    def _push(self, end: Hashable, before: dict[Hashable, Hashable]) -> None:
        while before[end] != end:
            self._room[before[end]][end] -= 1
            self._room[end][before[end]] += 1
            end = before[end]
