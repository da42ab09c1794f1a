"""Simplifies a model with the rules in another order than that of the files."""

from __future__ import annotations

import random
from unittest import mock

import onnx_ir as ir
from onnxslim.passes.simplify import Simplify, rounds
from story import make_context

from onnxslim.data import Samples
from onnxslim.rewrite.reader import load_rules
from onnxslim.rewrite.rule import Rule


def simplify_in_order(model: ir.Model, order: int) -> None:
    """Simplify `model` in place. Order 0 is that of the files; every other number is an order drawn by chance."""
    books: list[list[Rule]] = []

    def loaded(package: str, opset: int, ops: frozenset[str] | None = None) -> list[Rule]:
        rules = list(load_rules(package, opset, ops))
        if order:
            random.Random(order).shuffle(rules)
        books.append(rules)
        return rules

    samples = Samples(None, "none")  # type: ignore[arg-type]  # simplify draws none
    with mock.patch.object(rounds, "load_rules", loaded):
        Simplify().run(model, make_context(model, samples))
    assert any(books), "the rules came from elsewhere, so their order was not changed"
