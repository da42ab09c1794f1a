"""Equations of Einsum as axis signatures."""

from __future__ import annotations

import pytest

from onnxslim.ops.einsum import einsum_row

OP = ("", "Einsum")


@pytest.mark.parametrize(
    ("equation", "count", "outputs", "macs"),
    [
        ("bij,jk->bik", 2, "bik", 1),
        ("bij, jk", 2, "bik", 1),
        ("...ij,jk->...ik", 2, ("...", "i", "k"), 1),
        ("ij->j", 1, "j", 0),
        ("i,j->ij", 2, "ij", 0),
        ("ab,bc,cd->ad", 3, "ad", 2),
    ],
)
def test_letters_are_factors(equation: str, count: int, outputs: str, macs: int) -> None:
    row = einsum_row(OP, equation, count)
    assert row is not None
    assert [dimension.factors[0] for dimension in row.outputs[0].dimensions] == list(outputs)
    assert len(row.macs) == macs
    assert row.fixed == frozenset()


def test_a_diagonal_keeps_its_order() -> None:
    row = einsum_row(OP, "ii,ij->j", 2)
    assert row is not None
    assert row.fixed == {"i"}


@pytest.mark.parametrize(("equation", "count"), [("ij,jk->ik", 3), ("i1->i", 1), ("ij->ik", 1), (None, 1)])
def test_what_does_not_read_has_no_row(equation: str | None, count: int) -> None:
    assert einsum_row(OP, equation, count) is None
