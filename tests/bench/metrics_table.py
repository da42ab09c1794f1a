"""Which metric is chosen for each real model, and by what: a Markdown table.

    python tests/bench/metrics_table.py FOLDER ... > table.md

Folders are searched for ``*.onnx``: those that the zoo's ``get.py`` and ``thin.py`` fill, and the trained nets. Models
that read captchas, text or sound get such (PyPI's `captcha` draws them); the others samples that are made up, which are
not flagged as such, so that their values count as those of a user's data would.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from captcha.image import ImageCaptcha
from PIL import Image, ImageDraw, ImageFont

from onnxslim.data import Samples, open_samples, synthetic_samples
from onnxslim.model import open_model
from onnxslim.quality.choosing import MetricRequest, choose_metric
from onnxslim.quality.measure import measure_quality
from onnxslim.runtime.session import Session

COUNT = 8
LETTERS = "ABCDEFGHJKLMNPRSTUVWXY3456789"
Array = npt.NDArray[np.float32]


def captchas(width: int, height: int) -> Iterator[Image.Image]:
    generator = np.random.default_rng(0)
    for _ in range(COUNT):
        text = "".join(generator.choice(list(LETTERS), 5))
        yield ImageCaptcha(width, height).generate_image(text)


def lines(width: int, height: int) -> Iterator[Image.Image]:
    generator = np.random.default_rng(0)
    for _ in range(COUNT):
        image = Image.new("RGB", (width, height), "white")
        text = "".join(generator.choice(list(LETTERS), 8))
        ImageDraw.Draw(image).text((8, height // 6), text, fill="black", font=ImageFont.load_default(height * 0.6))
        yield image


def normalised(image: Image.Image, mean: float = 0.5, deviation: float = 0.5) -> Array:
    """Return an image as [1, C, H, W]."""
    values = np.asarray(image, np.float32) / 255
    values = values[:, :, None] if values.ndim == 2 else values
    return ((values - mean) / deviation).transpose(2, 0, 1)[None].astype(np.float32)


def page() -> Iterator[Array]:
    for line in lines(320, 48):
        image = Image.new("RGB", (320, 320), "white")
        for top in (30, 130, 230):
            image.paste(line, (0, top))
        yield normalised(image, 0.45, 0.225)


def detector_inputs() -> Iterator[Array]:
    for image in captchas(416, 200):
        whole = Image.new("RGB", (416, 416), (114, 114, 114))
        whole.paste(image)
        yield np.asarray(whole, np.float32)[:, :, ::-1].transpose(2, 0, 1)[None].copy()


def sound(length: int, rate: int = 16000) -> Iterator[Array]:
    generator = np.random.default_rng(0)
    for index in range(COUNT):
        time = np.arange(length) / rate
        pitch = 110 * 2 ** generator.uniform(0, 2)
        wave = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 8)) * (index % 2)
        yield (0.3 * wave + generator.normal(0, 0.003, length)).astype(np.float32)[None]


REAL: dict[str, Callable[[], Iterator[Array]]] = {
    "ddddocr": lambda: (normalised(image.convert("L").resize((160, 64))) for image in captchas(160, 60)),
    "ddddocr_det": detector_inputs,
    "ppocr_rec": lambda: map(normalised, lines(320, 48)),
    "ppocr_cls": lambda: map(normalised, lines(192, 48)),
    "ppocr_det": page,
    "basic_pitch": lambda: (wave[..., None] for wave in sound(43844, 22050)),
}
"""Inputs that look like what the model was made for, for those with one input."""


def samples_for(name: str, session: Session, path: pathlib.Path) -> Samples:
    if name not in REAL:
        made = synthetic_samples(open_model(path), COUNT, session=session)
        return Samples(made._origin, "made up", synthetic=False)
    arrays = {session.inputs[0].name: np.concatenate(list(REAL[name]()))}
    return open_samples(arrays, session.inputs)


def main(*folders: str) -> None:
    print("| model | outputs | metric | chosen because |\n| --- | --- | --- | --- |")
    for path in sorted(path for folder in folders for path in pathlib.Path(folder).glob("*.onnx")):
        session = Session.of(path)
        samples = samples_for(path.stem, session, path)
        chosen = choose_metric(MetricRequest(), session, open_model(path), samples)
        quality = measure_quality(chosen, session, session, samples.draw(2), generator=np.random.default_rng(0))
        assert quality.loss.value == 0, f"{path.stem}: a model lost {quality.loss.value} against itself"
        outputs = ", ".join(f"`{each.name}` {list(each.shape)}" for each in session.outputs).replace("|", r"\|")
        print(f"| {path.stem} | {outputs} | {chosen.metric.name} | {chosen.reason} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
