"""Fidelity: figures worked out by hand, and outputs that are identical, broken, or no numbers at all."""

import json
import math
import pathlib
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from fidelities import measure_fidelity
from sample_models import from_text

from onnxslim.data import open_samples
from onnxslim.errors import RunError
from onnxslim.model import save_model
from onnxslim.quality.fidelity import (
    CEILING_DB,
    IDENTICAL,
    add_run,
    cosine,
    sqnr_db,
    start_tallies,
    summarize,
)
from onnxslim.quality.metric import Slice
from onnxslim.runtime.session import Session, TensorSpec

INPUT = TensorSpec("x", np.dtype(np.float32), ("N", 4))
REAL = """
<ir_version: 10, opset_import: ["": 17]>
m (float[N, 4] x, float[4, 4] w) => (float[N, 4] {n}) {{ {n} = MatMul (x, w) }}
"""
LOGITS = np.array([[0, 1, 2, 3], [3, 2, 1, 0], [0, 5, 0, 0], [1, 1, 9, 1]], np.float32)


class Player:
    """Stands for a session that answers with what `answer` makes of x."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.outputs = tuple(TensorSpec(name, None, ()) for name in answers)

    def run(self, feeds: Mapping[str, np.ndarray], outputs: list[str]) -> dict[str, Any]:
        return {name: self.answers[name](feeds["x"]) for name in outputs}


def compare(one: Player, other: Player, rows: np.ndarray = LOGITS, size: int | None = None):
    samples = open_samples({"x": rows}, (INPUT,))
    return measure_fidelity(one, other, samples, generator=np.random.default_rng(0), size=size)


def same(x: np.ndarray) -> np.ndarray:
    return x


@pytest.mark.parametrize("size", [None, 3, 4])
def test_an_argmax_that_may_mean_nothing_is_not_taken(size: int | None) -> None:
    fidelity = compare(Player(y=same), Player(y=lambda x: np.where(x == 9, -9, x)), size=size)
    assert fidelity["agreement"] is None
    assert fidelity["max_abs_error"] == 18.0
    assert fidelity.reason is None


@pytest.mark.parametrize("size", [None, 4])
def test_sqnr_and_cosine_are_what_they_are_defined_as(size: int | None) -> None:
    noise = np.random.default_rng(1).normal(0, 0.1, LOGITS.shape).astype(np.float32)
    table = {row.tobytes(): row + extra for row, extra in zip(LOGITS, noise, strict=True)}
    noisy = Player(y=lambda x: np.stack([table[row.tobytes()] for row in x]))
    fidelity = compare(Player(y=same), noisy, size=size)
    given = np.stack(list(table.values()))
    wanted_db = 10 * math.log10((LOGITS**2).sum() / ((LOGITS - given) ** 2).sum())
    assert fidelity["sqnr_db"].value == pytest.approx(wanted_db, rel=1e-5)
    assert fidelity["sqnr_db"].low < wanted_db < fidelity["sqnr_db"].high
    product = (LOGITS * given).sum() / np.linalg.norm(LOGITS) / np.linalg.norm(given)
    assert fidelity["cosine"].value == pytest.approx(product, rel=1e-6)
    assert fidelity.parts[0].name == "y"


def test_identical_outputs_have_no_finite_sqnr() -> None:
    fidelity = compare(Player(y=same), Player(y=same))
    assert (fidelity["sqnr_db"], fidelity.reason) == (None, IDENTICAL)
    assert (fidelity["cosine"].value, fidelity["max_abs_error"]) == (1.0, 0.0)


def test_samples_without_noise_do_not_make_the_interval_infinite() -> None:
    fidelity = compare(Player(y=same), Player(y=lambda x: x + 0.5 * (x == 9)))
    assert fidelity["sqnr_db"].high <= CEILING_DB
    assert fidelity["sqnr_db"].value == pytest.approx(10 * math.log10((LOGITS**2).sum() / 0.25))


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_disagrees_and_is_reported(broken: float) -> None:
    fidelity = compare(Player(y=same), Player(y=lambda x: np.where(x == 9, np.float32(broken), x)))
    assert (fidelity["sqnr_db"], fidelity["cosine"], fidelity["max_abs_error"]) == (None, None, None)
    assert "NaN or infinite in 1 of 4 samples" in fidelity.reason


def test_infinities_that_both_have_are_no_difference() -> None:
    def masked(x: np.ndarray) -> np.ndarray:
        return np.where(x == 0, -np.inf, x)

    assert compare(Player(y=masked), Player(y=masked)).reason == IDENTICAL
    noisy = compare(Player(y=masked), Player(y=lambda x: masked(x) + np.float32(0.1)))
    assert noisy["max_abs_error"] == pytest.approx(0.1, rel=1e-5)


def test_another_shape_disagrees() -> None:
    fidelity = compare(Player(y=same), Player(y=lambda x: x[:, :3]))
    assert (fidelity["sqnr_db"], fidelity.reason) == (None, "y has another shape")


def test_an_output_that_was_zero_has_no_sqnr() -> None:
    fidelity = compare(Player(y=np.zeros_like), Player(y=np.ones_like))
    assert (fidelity["sqnr_db"], fidelity["max_abs_error"]) == (None, 1.0)
    assert "all zeros" in fidelity.reason


def test_the_worst_output_stands_for_the_model() -> None:
    good, bad = (lambda x: x + np.float32(0.001)), (lambda x: x * np.float32(0.5))
    fidelity = compare(Player(a=same, b=same, c=same), Player(a=same, b=bad, c=good))
    assert fidelity["sqnr_db"] == fidelity.parts[1]["sqnr_db"]
    assert fidelity["max_abs_error"] == fidelity.parts[1]["max_abs_error"] == 4.5
    assert fidelity.parts[0].reason == IDENTICAL
    assert fidelity["cosine"].value == pytest.approx(fidelity.parts[2]["cosine"].value, abs=1e-6)


def test_integers_strings_sequences_and_maps_are_compared_for_equality() -> None:
    def best(x: np.ndarray) -> np.ndarray:
        return x.argmax(1)

    def maps(x: np.ndarray) -> list[dict[int, float]]:
        return [{0: float(row[0]), 1: float(row[1])} for row in x]

    def arrays(x: np.ndarray) -> list[np.ndarray]:
        return [x, x]

    one = Player(best=best, maps=maps, arrays=arrays)
    other = Player(
        best=lambda x: np.where(x.argmax(1) == 3, 0, x.argmax(1)),
        maps=lambda x: [{0: float(row[0]), 1: float(row[1]) + (row[1] == 5)} for row in x],
        arrays=lambda x: [x, x[:, :1]],
    )
    fidelity = compare(one, other)
    assert [output["agreement"].value for output in fidelity.parts] == [0.75, 0.75, 0.0]
    assert fidelity["agreement"].value == 0.75
    assert (fidelity["sqnr_db"], fidelity["max_abs_error"]) == (None, None)
    assert "best is not of floats" in fidelity.reason
    same_again = compare(one, one)
    assert [output["agreement"].value for output in same_again.parts] == [1.0, 1.0, 1.0]
    other_shape = compare(one, Player(best=lambda x: best(x)[:, None], maps=lambda x: [{}], arrays=lambda x: [x]))
    assert [output["agreement"].value for output in other_shape.parts] == [0.0, 0.0, 0.0]


def test_samples_may_lie_along_the_second_axis() -> None:
    def time_first(x: np.ndarray) -> np.ndarray:
        return np.stack([x, x, -x])  # [time, batch, classes]

    fidelity = compare(Player(y=time_first), Player(y=lambda x: np.stack([x, x, x])), size=4)
    assert fidelity["sqnr_db"].value == pytest.approx(10 * math.log10(3 / 4))


def test_slices_are_compared_each_for_itself() -> None:
    parts = Slice("y", "large", -1, 0, 1), Slice("y", "small", -1, 1, 4), Slice("z", "elsewhere", -1, 0, 1)
    tallies = start_tallies(["y"], parts)
    scale = np.float32([100, 1, 1, 1])
    add_run(tallies, {"y": LOGITS * scale}, {"y": (LOGITS + np.float32([0, 1, 1, 1])) * scale}, 4)
    (output,) = summarize(list(tallies.values()), np.random.default_rng(0)).parts
    large, small = output.parts
    assert (large.name, large.reason, small.name) == ("large", IDENTICAL, "small")
    assert small["sqnr_db"].value == pytest.approx(10 * math.log10((LOGITS[:, 1:] ** 2).sum() / 12))
    assert output["sqnr_db"].value > 25 > small["sqnr_db"].value


def test_sums_at_their_limits() -> None:
    assert sqnr_db(np.array([[1.0, 0.0, 1.0, 1.0]])) == CEILING_DB
    assert sqnr_db(np.array([[0.0, 0.0, 0.0, 0.0]])) == CEILING_DB
    assert sqnr_db(np.array([[0.0, 1.0, 1.0, 0.0]])) == -CEILING_DB
    assert cosine(np.array([[0.0, 1.0, 1.0, 0.0]])) == 0.0


def test_real_sessions_are_compared() -> None:
    weights = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    one = Session.of(from_text(REAL.format(n="y"), w=weights))
    other = Session.of(from_text(REAL.format(n="y"), w=np.round(weights, 1)))
    samples = open_samples({"x": LOGITS}, one.inputs)
    fidelity = measure_fidelity(one, other, samples, generator=np.random.default_rng(0))
    assert 15 < fidelity["sqnr_db"].value < 50  # rounding to 0.1 leaves 0.03 of noise on weights of size 1
    renamed = Session.of(from_text(REAL.format(n="z"), w=weights))
    with pytest.raises(RunError, match="no output 'y'"):
        measure_fidelity(one, renamed, samples, generator=np.random.default_rng(0))


ADDED = """
import json, sys
import onnxslim.quality.fidelity as fidelity

fidelity.FIGURES += (
    fidelity.FidelityFigure(
        "mean_noise", "mean noise", lambda tally, _: float(tally.rows[:, 1].mean()), max, "an energy", kind=float
    ),
)
from onnxslim.cli.entry import main

main(sys.argv[1:])
"""


def test_one_entry_adds_a_figure_everywhere(tmp_path: pathlib.Path) -> None:
    weights = np.eye(4, dtype=np.float32)
    for name, scale in (("one", 1.0), ("other", 1.5)):
        save_model(from_text(REAL.format(n="y"), w=weights * np.float32(scale)), tmp_path / f"{name}.onnx")
    np.savez(tmp_path / "data.npz", x=LOGITS)
    paths = [str(tmp_path / name) for name in ("one.onnx", "other.onnx")]
    command = ["compare", *paths, "--data", str(tmp_path / "data.npz"), "--no-measure"]
    page = tmp_path / "page.html"
    wanted = (LOGITS**2).sum() / 4 / len(LOGITS)
    found = json.loads(subprocess.check_output([sys.executable, "-c", ADDED, *command, "--json"]))
    assert list(found["fidelity"])[:5] == ["agreement", "sqnr_db", "cosine", "max_abs_error", "mean_noise"]
    assert found["fidelity"]["mean_noise"] == found["outputs"][0]["fidelity"]["mean_noise"] == pytest.approx(wanted)
    told = subprocess.check_output([sys.executable, "-c", ADDED, *command, "--report", str(page)], text=True)
    assert "mean noise" in told
    assert f"{wanted:.3g}" in told
    assert f'data-label="mean noise">{wanted:.3g}<' in page.read_text(encoding="utf-8")
