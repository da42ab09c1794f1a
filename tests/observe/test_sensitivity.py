"""The error of the outputs of a changed model is one number."""

from __future__ import annotations

import detector
import numpy as np
import pytest
from peak_memory import peak_bytes
from text_maps import text_map

from onnxslim.observe.sensitivity import OutputDeviation, output_weights
from onnxslim.runtime.session import Session


def run(factor, dtype=np.float32):
    return lambda feeds: {"y": (feeds["x"] * np.asarray(factor)).astype(dtype), "n": feeds["x"].astype(np.int64)}


RUNS = [{"x": np.ones((count, 4), np.float32)} for count in (8, 1)]


def test_the_error_is_a_share_of_the_output() -> None:
    error = OutputDeviation(run(2), RUNS)
    assert error(run(3)) == pytest.approx(0.25)
    assert error(run(2)) == 0


def test_what_is_not_finite_is_worse_than_all_that_is() -> None:
    assert OutputDeviation(run(2), RUNS)(run(np.inf)) > 1e3
    assert OutputDeviation(run(np.nan), RUNS)(run(2)) == 0, "there is nothing to compare with"


def test_an_output_of_another_shape_is_lost() -> None:
    assert OutputDeviation(run(2), RUNS)(lambda feeds: {"y": feeds["x"][:, :2]}) == 1
    assert OutputDeviation(run(2), RUNS)(lambda feeds: {}) == 1


def test_outputs_count_alike_however_large_they_are() -> None:
    def both(large, small):
        return lambda feeds: {"large": 1e4 * large * feeds["x"], "small": small * feeds["x"], "zero": 0 * feeds["x"]}

    error = OutputDeviation(both(1, 1), RUNS)
    assert error(both(2, 1)) == pytest.approx(error(both(1, 2)))


def test_more_samples_than_run_tell_the_parts() -> None:
    def made(factor):
        return lambda feeds: {"y": text_map(int(feeds["at"])) + np.float32(factor)}

    runs, others = [{"at": np.array(0)}], [{"at": np.array(at)} for at in range(6)]
    assert OutputDeviation(made(0), runs)(made(1e-3)) > 10, "what is almost nothing counts as much as the text"
    assert OutputDeviation(made(0), runs, others)(made(1e-3)) < 1e-4


def test_rows_that_are_no_samples_are_looked_at_together() -> None:
    """What suppression leaves of one image, a box that begins at the border among it."""
    boxes = np.array([[0.2, 300, 0.9], [200, 400, 0.3], [50, 60, 0.7]], np.float32)

    def of_images(wrong):
        return lambda feeds: {"y": boxes[: int(feeds["x"].sum())] + np.float32([0, 0, wrong])}

    images = [{"x": np.full((1, 1), count, np.float32)} for count in (3, 2)]
    error = OutputDeviation(of_images(0), images)
    assert error(of_images(0.5)) > 0.1, "scores are quantities of their own"


def test_what_tells_samples_apart_is_told() -> None:
    drawn = np.random.default_rng(0).normal(size=(512, 4)).astype(np.float32)
    runs, counts = [{"x": part} for part in np.split(drawn, [200, 500])], [200, 300, 12]

    def varying(made, counts=counts):
        return OutputDeviation(lambda feeds: made(feeds["x"]), runs, counts=counts).varying

    both = varying(lambda x: {"far off": x + 10, "around zero": 5 * x, "quantities": x * [1, 1, 100, 100]})
    assert both == pytest.approx(1 / 101, rel=0.2), "the least of all outputs"
    assert varying(lambda x: {"y": 5 * x}) == pytest.approx(1, abs=0.01)
    assert varying(lambda x: {"y": 0 * x}) == 0
    assert varying(lambda x: {"y": x.sum(axis=0)}) == 0, "samples are no rows"
    assert varying(lambda x: {"y": 5 * x}, [1, 1, 1]) == 0, "rows are no samples"
    assert varying(lambda x: {"y": 5 * x}, ()) == 0
    few = OutputDeviation(lambda feeds: {"y": feeds["x"]}, [{"x": drawn[:8]}], counts=[8])
    assert few.varying == 0, "too few tell"


def test_outputs_of_one_run_at_a_time_are_held_beside_the_reference() -> None:
    runs = [{"x": np.ones((100, 1000), np.float32)} for _ in range(20)]
    error = OutputDeviation(run(2), runs)
    one = runs[0]["x"].nbytes
    assert peak_bytes(lambda: error(run(3))) < 12 * one
    assert error(run(3)) == pytest.approx(0.25)


def test_the_weighted_energy_of_an_error_is_what_the_deviation_says() -> None:
    output = Session.of(detector.detector()).run({"images": detector.photos(4)})["output"]
    random = np.random.default_rng(0)
    wrong = output * random.uniform(0.9, 1.1, output.shape).astype(output.dtype)
    made = [{"output": output[at : at + 1], "other": 3 * output[at : at + 1], "n": np.arange(3)} for at in range(4)]
    changed = [{**each, "output": wrong[at : at + 1]} for at, each in enumerate(made)]
    runs = [{"at": np.array(at)} for at in range(4)]
    wanted = OutputDeviation(lambda feeds: made[int(feeds["at"])], runs)(lambda feeds: changed[int(feeds["at"])])
    weights = output_weights(made)
    found = sum(
        float((weights[name] * np.square(each[name] - right[name], dtype=np.float64)).sum())
        for each, right in zip(changed, made, strict=True)
        for name in weights
    )
    assert set(weights) == {"output", "other"}
    assert found == pytest.approx(wanted, rel=1e-4)


def test_outputs_without_a_weight_are_those_that_count_for_nothing() -> None:
    one = {"zero": np.zeros((1, 2)), "inf": np.full((1, 2), np.inf), "grows": np.ones((1, 2)), "scalar": np.float32(2)}
    weights = output_weights([one, {**one, "grows": np.ones((1, 3))}])
    assert {name: float(array) for name, array in weights.items()} == {"scalar": 1 / 8}
