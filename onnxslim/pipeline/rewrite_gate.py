"""Numbers the rewrites of one run of a pass, and leaves out those that were found guilty: bisection rests on it.

In the manner of LLVM's ``opt-bisect-limit``: a pass that asks before each rewrite can be run up to the n-th only, and
again without some. Its rewrites must come in the same order each time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, order=True)
class RewriteSite:
    """One rewrite: what was applied, and where."""

    rule: str
    """The name of a rule, or of a step in Python."""
    place: str | None
    """The value that the rewrite makes, or the round of a step; None: anywhere."""

    def __str__(self) -> str:
        return self.rule if self.place is None else f"{self.rule} at {self.place}"


class RewriteGate:
    """Asked before each rewrite; writes down, in order, what it allowed."""

    def __init__(self, *, limit: int | None = None, banned: Mapping[RewriteSite, object] | None = None) -> None:
        """Allow `limit` rewrites (None: all), and none at the sites `banned`, each with the reason."""
        self._limit = limit
        self._banned = dict(banned or {})
        self.sites: list[RewriteSite] = []
        """The rewrites that were allowed, in their order."""

    def check(self, rule: str, place: str) -> str | None:
        """Ask whether a rewrite may happen: None lets it, a text is the reason why not.

        A rewrite that was let happen must be made at once: the last one is taken to be what raised, if the pass does.
        """
        site = RewriteSite(rule, place)
        why = self._banned.get(site) or self._banned.get(RewriteSite(rule, None))
        if why is not None:
            return str(why)
        if self._limit is not None and len(self.sites) >= self._limit:
            return "beyond the limit of this run"
        self.sites.append(site)
        return None
