"""Simplifies models with the rules in other orders, and compares: rule_orders.py [--orders N] MODEL ...

The result must have the same nodes, joined in the same way, whatever order the rules come in (`canonical_form`). Prints
one line for each model; where an order matters, the lines of the canonical form that differ.
"""

from __future__ import annotations

import argparse
import collections
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import onnx_ir as ir
from canonical_form import canonical_form
from rule_order import simplify_in_order

from onnxslim.model import open_model


def simplified(model: ir.Model, order: int) -> tuple[int, str]:
    """Return how many nodes are left, and the canonical form; order 0 is that of the files."""
    clone = model.clone()
    clone.graph.meta.update(model.graph.meta)
    simplify_in_order(clone, order)
    return sum(1 for _ in clone.graph.all_nodes()), canonical_form(clone)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=pathlib.Path)
    parser.add_argument("--orders", type=int, default=4)
    arguments = parser.parse_args()
    differing = 0
    for path in arguments.models:
        model = open_model(path)
        results = [simplified(model, order) for order in range(arguments.orders + 1)]
        nodes = [count for count, _ in results]
        same = len({form for _, form in results}) == 1
        differing += not same
        print(f"{path.name}: {'the same' if same else 'DIFFERENT'} in {arguments.orders + 1} orders, nodes {nodes}")
        first = collections.Counter(results[0][1].splitlines())
        for order, (_, form) in enumerate(results):
            other = collections.Counter(form.splitlines())
            for sign, lines in (("-", first - other), ("+", other - first)):
                for line in list(lines)[:6]:
                    print(f"    order {order} {sign} {line[:200]}")
        sys.stdout.flush()
    return differing


if __name__ == "__main__":
    sys.exit(main())
