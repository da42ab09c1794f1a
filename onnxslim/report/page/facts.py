"""What several pages say: warnings, and how they came about."""

from __future__ import annotations

from collections.abc import Sequence

from onnxslim.diagnostic import Diagnostic
from onnxslim.pipeline.records import Reproduction
from onnxslim.report.figures import target_words
from onnxslim.report.page.visible import shortened
from onnxslim.runtime.target import Target

TOP_WARNINGS = 40
LONGEST = 300
"""Letters of a name, option or reason that are shown: a page of hostile names must stay small."""


def provenance(target: Target, seed: int | None, made: Reproduction | None) -> list[tuple[str, str]]:
    """Return names and facts."""
    facts = [] if seed is None else [("seed", str(seed))]
    facts.append(("target", target_words(target)))
    if made is not None:
        facts.append(("versions", ", ".join(f"{name} {version}" for name, version in made.versions.items())))
    return facts


def warnings_view(diagnostics: Sequence[Diagnostic]) -> list[Diagnostic]:
    """Return warnings as they are shown: the first of them, and not too long."""
    return [
        Diagnostic(diagnostic.code, shortened(diagnostic.message, 3 * LONGEST), shortened(diagnostic.hint, 3 * LONGEST))
        for diagnostic in diagnostics[:TOP_WARNINGS]
    ]
