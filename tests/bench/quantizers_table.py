"""Markdown out of the rows that quantizers.py makes: a table for each model, and one of who is ahead by how much."""

from __future__ import annotations

from typing import Any

from quantize_child import OURS, TOOLS
from simplifiers_table import markdown_table

Row = dict[str, Any]


def render(rows: list[Row]) -> str:
    """Return all tables."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    versions = {row["tool"]: row["version"] for row in rows}
    tools = [tool for tool in TOOLS if tool in versions]
    parts = [
        "Tools: " + ", ".join(f"{tool} {versions[tool]}" for tool in tools) + ".",
        "",
        "SQNR of the outputs in dB (the worst where there are several), and how far ours is ahead of the best other "
        "quantizer. **Bold**: the best. (In brackets, and not counted: larger or slower than the original.)",
        "",
        *markdown_table(["model", *tools, "ahead"], [matrix_row(model, rows, tools) for model in models]),
        "",
        "Figures of a task are of the quantized model; the original's stand beside the model's name. Seconds and peak "
        "memory are those of quantizing, imports left out.",
    ]
    for model in models:
        parts += ["", *of_model(model, [row for row in rows if row["model"] == model])]
    return "\n".join(parts)


def matrix_row(model: str, rows: list[Row], tools: list[str]) -> list[str]:
    of_it = {row["tool"]: row for row in rows if row["model"] == model}
    known = {tool: row["sqnr_db"] for tool, row in of_it.items() if row.get("sqnr_db") is not None}
    useful = {tool: sqnr for tool, sqnr in known.items() if pays(of_it[tool])}
    best, others = max(useful.values(), default=None), [sqnr for tool, sqnr in useful.items() if tool not in OURS]
    cells = [model]
    for tool in tools:
        cell = _number(known.get(tool), 1)
        if tool in of_it and not cell:
            cell = "failed" if "failed" in of_it[tool] else "same" if "identical" in _sqnr(of_it[tool]) else "none"
        elif tool in known and tool not in useful:
            cell = f"({cell})"
        cells.append(f"**{cell}**" if tool in useful and known[tool] == best else cell)
    return [*cells, f"{known['ours'] - max(others):+.1f}" if "ours" in known and others else ""]


def pays(row: Row) -> bool:
    """Return whether a quantized model is smaller than the original and, as far as it was timed, not slower."""
    return bool(row["bytes"] < row["before_bytes"] and not (row.get("speed") and row["speed"][2] < 1))


def of_model(model: str, rows: list[Row]) -> list[str]:
    """Return the heading and the table of one model."""
    known = next((row for row in rows if "bytes" in row), {})
    title = f"**{model}**"
    if "before" in known:
        title += f" ({known['figure']} {known['before']:.4f}, {known['samples']} samples)"
    figure = known.get("figure", "figure")
    detects = any("kept" in row for row in rows)
    head = ["quantizer", figure, "agreement", "SQNR, dB", *(["boxes kept"] if detects else [])]
    head += ["times smaller", "times faster", "seconds", "peak MB"]
    body = []
    for row in sorted(rows, key=lambda row: list(TOOLS).index(row["tool"])):
        if "failed" in row:
            body.append([row["tool"], f"failed: {row['failed']}".replace("|", "/")] + [""] * (len(head) - 2))
            continue
        cells = [row["tool"], _number(row.get("after"), 4), _number(row.get("agreement"), 4), _sqnr(row)]
        if detects:
            cells.append(f"{row['kept']} of {row['of']}" if "kept" in row else "")
        speed = row.get("speed")
        cells += [
            f"{row['before_bytes'] / row['bytes']:.2f}",
            f"{speed[0]:.2f} ({speed[1]:.2f} to {speed[2]:.2f})" if speed else "",
            f"{row['seconds']:.0f}",
            f"{row['peak_bytes'] / 1e6:.0f}",
        ]
        body.append(cells)
    return [title, "", *markdown_table(head, body)]


def _sqnr(row: Row) -> str:
    if row.get("sqnr_db") is None:
        return str(row.get("reason") or "")
    parts = {name: sqnr for name, sqnr in row["outputs"].items() if sqnr is not None}
    return _number(row["sqnr_db"], 1) + (
        f" ({'; '.join(f'{name.split()[-1]} {sqnr:.1f}' for name, sqnr in parts.items())})" if len(parts) > 1 else ""
    )


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
