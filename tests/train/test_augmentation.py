"""Augmentations do what their names say, drawn anew for each image and alike for one seed."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim.errors import BadOptionValue, UsageError
from onnxslim.runtime.session import Session
from onnxslim.train.augmentation import AUGMENTATIONS, Augmentation, augmentation_model, check_labels_stay

IMAGES = np.random.default_rng(0).standard_normal((16, 3, 8, 12)).astype(np.float32)


def applied(*names: str, seed: int = 0) -> np.ndarray:
    changed = Augmentation(names, "x", Session.of)({"x": IMAGES}, np.random.default_rng(seed))["x"]
    assert changed.shape == IMAGES.shape
    assert changed.dtype == np.float32
    return changed


def test_an_image_is_mirrored_or_not() -> None:
    kinds = {
        "same" if np.array_equal(new, old) else "mirrored" if np.array_equal(new, old[..., ::-1]) else "other"
        for new, old in zip(applied("flip"), IMAGES, strict=True)
    }
    assert kinds == {"same", "mirrored"}


def test_an_image_is_shifted_by_whole_pixels_and_its_border_repeated() -> None:
    moves = set()
    for new, old in zip(applied("shift"), IMAGES, strict=True):
        padded = np.pad(old, ((0, 0), (1, 1), (1, 1)), mode="edge")
        fits = [(y, x) for y in range(3) for x in range(3) if np.allclose(padded[:, y : y + 8, x : x + 12], new)]
        assert fits
        moves.add(fits[0])
    assert len(moves) > 3


def test_a_rectangle_is_hidden_behind_the_mean() -> None:
    for new, old in zip(applied("cutout"), IMAGES, strict=True):
        hidden = (new != old).any(axis=0)
        rows, columns = np.flatnonzero(hidden.any(1)), np.flatnonzero(hidden.any(0))
        assert 0 < len(rows) <= 2
        assert 0 < len(columns) <= 3
        assert hidden[np.ix_(rows, columns)].all()
        np.testing.assert_allclose(new[:, hidden], np.repeat(old.mean((1, 2))[:, None], hidden.sum(), 1), atol=1e-6)


def test_noise_is_a_share_of_the_deviation() -> None:
    assert np.std(applied("noise") - IMAGES) == pytest.approx(0.05 * np.std(IMAGES), rel=0.1)


def test_images_are_mixed_with_others_of_the_batch() -> None:
    assert np.allclose(applied("mixup").mean(), IMAGES.mean(), atol=0.3)
    lowest, highest = IMAGES.min(), IMAGES.max()
    assert lowest <= applied("mixup").min() <= applied("mixup").max() <= highest


def test_one_seed_gives_one_result_and_all_go_together() -> None:
    names = list(AUGMENTATIONS)
    np.testing.assert_array_equal(applied(*names), applied(*reversed(names)))
    assert not np.array_equal(applied(*names), applied(*names, seed=1))


def test_the_model_is_made_of_the_functions_alone() -> None:
    model = augmentation_model(["flip", "noise"])
    assert not model.functions
    assert [value.name for value in model.graph.inputs] == ["x", "flip_chosen", "noise_drawn"]


def test_a_name_that_nobody_knows_is_refused() -> None:
    with pytest.raises(UsageError, match="no augmentation 'flipp'") as caught:
        Augmentation(["flipp"], "x", Session.of)
    assert "flip" in str(caught.value.hint)


@pytest.mark.parametrize(("names", "rank", "wrong"), [(("mixup",), 1, "mixup"), (("noise", "flip"), 3, "flip")])
def test_labels_that_an_augmentation_makes_untrue_are_told(names: tuple[str, ...], rank: int, wrong: str) -> None:
    check_labels_stay(("flip", "shift", "cutout", "noise"), 1)
    check_labels_stay(("noise",), 3)
    with pytest.raises(BadOptionValue, match=f"after {wrong} labels are not true"):
        check_labels_stay(names, rank)
