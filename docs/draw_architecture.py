"""Draws docs/architecture.svg: the packages of onnxslim as floors, from what their modules import.

A package stands one floor above the highest that it imports from. Arrows are imports that do not follow from others
(the transitive reduction). ``--check`` draws nothing and fails where the picture is not that of the code.
"""

from __future__ import annotations

import ast
import sys
from html import escape
from pathlib import Path

import networkx as nx

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "architecture.svg"
WIDTH, BOX, HEIGHT, GAP, FLOOR = 720, 130, 38, 24, 76
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
rect { fill: #f6f8fa; stroke: #818b98; rx: 6px } path { fill: none; stroke: #818b98; stroke-width: 1.2 }
@media (prefers-color-scheme: dark) { text { fill: #f0f6fc }
rect { fill: #151b23; stroke: #656c76 } path { stroke: #656c76 } }
"""


def packages() -> dict[str, list[Path]]:
    """Return the modules of each package; single modules (errors, units, ...) are not drawn."""
    folders = [path.parent for path in sorted((ROOT / "onnxslim").glob("*/__init__.py"))]
    return {folder.name: sorted(folder.rglob("*.py")) for folder in (ROOT / "passes", *folders)}


def imported(path: Path) -> set[str]:
    """Return the packages of ours that a file imports from, now or later."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            base = node.module.split(".")
            names |= {base[1]} if base[0] == "onnxslim" and len(base) > 1 else set()
            names |= {alias.name for alias in node.names} if base == ["onnxslim"] else set()
    return names


def dependencies() -> nx.DiGraph:
    """Return the graph of imports between packages."""
    modules = packages()
    graph = nx.DiGraph()
    graph.add_nodes_from(modules)
    for name, paths in modules.items():
        graph.add_edges_from((name, other) for path in paths for other in imported(path) & modules.keys() - {name})
    return graph


def floors(graph: nx.DiGraph) -> list[list[str]]:
    """Return the packages of each floor, the lowest first.

    Raises:
        ValueError: Packages import each other.
    """
    if not nx.is_directed_acyclic_graph(graph):
        raise ValueError(f"packages import each other: {nx.find_cycle(graph)}")
    return [sorted(names) for names in nx.topological_generations(graph.reverse())]


def draw() -> str:
    """Return the picture as SVG."""
    graph = dependencies()
    rows = floors(graph)
    height = FLOOR * len(rows) + GAP
    place: dict[str, tuple[float, float]] = {}
    for number, names in enumerate(rows):
        left = (WIDTH - len(names) * BOX - (len(names) - 1) * GAP) / 2
        for position, name in enumerate(names):
            place[name] = left + position * (BOX + GAP), height - FLOOR * (number + 1) + FLOOR / 2 - HEIGHT / 2
    shapes = []
    for upper, lower in sorted(nx.transitive_reduction(graph).edges):
        (left, top), (right, bottom) = place[upper], place[lower]
        start, end, middle = left + BOX / 2, right + BOX / 2, (top + HEIGHT + bottom) / 2
        curve = f"C{start:g} {middle:g} {end:g} {middle:g} {end:g} {bottom:g}"
        shapes.append(f'<path d="M{start:g} {top + HEIGHT:g} {curve}"/>')
    for name, (left, top) in sorted(place.items()):
        shapes.append(f'<rect x="{left:g}" y="{top:g}" width="{BOX}" height="{HEIGHT}"/>')
        shapes.append(f'<text x="{left + BOX / 2:g}" y="{top + 23:g}" text-anchor="middle">{escape(name)}</text>')
    box = f'viewBox="0 0 {WIDTH} {height}" role="img" aria-label="The packages of onnxslim as floors"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {box}>\n<style>{STYLE}</style>\n' + "\n".join(shapes) + "\n</svg>\n"
    )


def main() -> int:
    """Draw, or with ``--check`` compare. The exit code is 1 where the picture is out of date."""
    current = PICTURE.exists() and PICTURE.read_text(encoding="utf-8") == draw()
    if "--check" in sys.argv:
        print("current" if current else "out of date: run python docs/draw_architecture.py")
        return 0 if current else 1
    PICTURE.write_text(draw(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
