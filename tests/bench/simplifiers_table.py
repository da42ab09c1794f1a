"""Markdown out of the rows that simplifiers.py makes: nodes, speed, memory, and who was wrong."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]
OURS = ("ours", "unchecked")


def write_between(page: pathlib.Path, text: str, mark: str) -> None:
    """Replace what stands on a page between ``<!-- MARK: begin -->`` and ``<!-- MARK: end -->``."""
    begin, finish = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    before, start, rest = page.read_text().partition(begin)
    _, end, after = rest.partition(finish)
    if not (start and end):
        raise SystemExit(f"{page} has no {begin} ... {finish}")
    page.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{finish}{after}")


def render(rows: list[Row]) -> str:
    """Return all tables."""
    table = {(row["model"], row["tool"]): row for row in rows}
    models = list(dict.fromkeys(row["model"] for row in rows))
    order = ("ours", "unchecked", "onnxsim", "onnxslim", "onnxscript", "onnxruntime")
    tools = [tool for tool in order if any(row["tool"] == tool for row in rows)]
    counted = [tool for tool in tools if tool != "unchecked"]  # it leaves the nodes that ours leaves
    versions = {row["tool"]: row["version"] for row in rows if "version" in row}
    parts = [
        "Tools: " + ", ".join(f"{tool} {versions[tool]}" for tool in tools) + ". Nodes count subgraphs and functions, "
        "and no Constant nodes. **Bold**: the fewest. W: wrong. Seconds are medians, imports left out; ours include "
        "its own check against the original, which no other tool makes; `unchecked` is ours without it (`--no-check`).",
        "",
        *markdown_table(["model", "original", *counted], [_nodes(table, model, counted) for model in models]),
        "",
        "Seconds / peak MB / speed of the result against the original (paired, 95 % interval):",
        "",
        *markdown_table(
            ["model", *tools], [[model, *(_costs(table.get((model, tool))) for tool in tools)] for model in models]
        ),
        "",
        *summary(table, models, tools),
    ]
    return "\n".join(parts)


def markdown_table(head: list[str], body: Iterable[list[str]]) -> list[str]:
    """Return the lines of a table."""
    lines = [head, ["---"] * len(head), *body]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def _usable(row: Row | None) -> bool:
    return row is not None and "failed" not in row and "wrong" not in row


def _nodes(table: dict[tuple[str, str], Row], model: str, tools: list[str]) -> list[str]:
    counts = {tool: table[model, tool]["nodes"] for tool in tools if _usable(table.get((model, tool)))}
    fewest = min(counts.values(), default=None)
    cells = [model, str(table[model, "original"]["nodes"])]
    for tool in tools:
        row = table.get((model, tool))
        if row is None:
            cells.append("")
        elif "failed" in row:
            cells.append("failed")
        elif "wrong" in row:
            cells.append(f"{row['nodes']} W" if "nodes" in row else "W")
        else:
            cells.append(f"**{row['nodes']}**" if row["nodes"] == fewest else str(row["nodes"]))
    return cells


def _costs(row: Row | None) -> str:
    if row is None or "failed" in row:
        return ""
    speed = row.get("speed")
    told = f" / {speed[0]:.2f} ({speed[1]:.2f} to {speed[2]:.2f})" if speed else ""
    return f"{row['seconds']:.2f} / {row['peak_bytes'] / 1e6:.0f}{told}"


def _mean(ratios: list[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def summary(table: dict[tuple[str, str], Row], models: list[str], tools: list[str]) -> list[str]:
    """Return what the tables come to: ratios of time and memory, who leaves the fewest nodes, who is wrong."""
    lines = []
    rest = [tool for tool in tools if tool not in OURS]
    for mine, tool in ((mine, tool) for tool in rest for mine in OURS):
        pairs = [(table.get((model, mine)), table.get((model, tool))) for model in models]
        both = [(a, b) for a, b in pairs if a and b and "failed" not in a and "failed" not in b]
        if both:
            together = sum(a["run"] == b["run"] for a, b in both)
            figures = ", ".join(
                f"{_mean([a[key] / b[key] for a, b in both]):.2f}x the {name}"
                for key, name in (("seconds", "seconds"), ("cpu_seconds", "CPU seconds"), ("peak_bytes", "peak memory"))
            )
            lines.append(
                f"- {mine.capitalize()} takes {figures} of {tool} (geometric means over {len(both)} models, "
                f"{together} of them timed in one run)."
            )
    better, equal, worse = [], [], []
    for model in models:
        mine = table.get((model, "ours"))
        others = [table[model, tool]["nodes"] for tool in rest if _usable(table.get((model, tool)))]
        if mine is None or not others:
            continue
        if not _usable(mine) or mine["nodes"] > min(others):
            worse.append(model)
        else:
            (better if mine["nodes"] < min(others) else equal).append(model)
    if better or equal or worse:
        lines.append(
            f"- Nodes against the best of the others whose result is right: ours has fewer on {len(better)} models, "
            f"as many on {len(equal)}, more on {len(worse)}" + (f" ({', '.join(worse)})." if worse else ".")
        )
    for tool in tools:
        rows = [table[model, tool] for model in models if (model, tool) in table]
        wrong = [f"{row['model']} ({row['wrong']})" for row in rows if "wrong" in row]
        failed = [f"{row['model']} ({row['failed']})" for row in rows if "failed" in row]
        slower = [row["model"] for row in rows if row.get("speed") and row["speed"][2] < 1]
        lines.append(
            f"- {tool}: {len(wrong)} wrong{': ' + '; '.join(wrong) if wrong else ''}; "
            f"{len(failed)} failed{': ' + '; '.join(failed) if failed else ''}; "
            f"{len(slower)} slower than the original{': ' + ', '.join(slower) if slower else ''}."
        )
    return lines
