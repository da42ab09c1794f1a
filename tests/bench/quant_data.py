"""Makes what quantizers are fitted and judged on: for each float model of the zoo, samples that fit it.

    python tests/bench/quant_data.py ZOO out/zoo/real out/zoo/thin out/quant_data [--names 'ppocr*']

writes NAME_calib.npz and NAME_test.npz, arrays named as the model's inputs and `labels` where there are any; files that
are there are kept. Nothing that calibrates is in what measures: other images, texts, fonts, photographs, files and
seeds. Runs in an environment of its own, which `make bench-quant` sets up, and knows nothing of onnxslim.

What a model was trained on decides what it gets: photographs (CIFAR-10, Fashion-MNIST), text rendered in many fonts on
plain and photographed ground, captchas drawn by `captcha`, its spoken letters among noise, chords and melodies, brain
waves (pink noise with spindles and seizures), the bytes of files that lie about, the help texts of Python. Models whose
weights were drawn by chance (``thin``) get mosaics of photographs, or tokens by chance.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import json
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import quant_pictures as pictures
import quant_signals as signals
from lowrank_data import LENGTH, pieces, topics, words
from zoo_images import CIFAR_DEVIATION, CIFAR_MEAN, cifar, fashion, large, small

Arrays = Mapping[str, npt.NDArray[np.generic]]
COUNTS = {"calib": 256, "test": 256}
FEWER = {"calib": 64, "test": 64}
"""Counts for models whose samples are large."""


@dataclasses.dataclass(frozen=True)
class Folders:
    """Where the zoo lies, whose data is read, and where the models lie."""

    zoo: pathlib.Path
    models: pathlib.Path


Maker = Callable[[Folders, str, str, np.random.Generator], Arrays]
"""From the folders, the name of a model, the part (``calib`` or ``test``) and random numbers."""


def input_names(folders: Folders, name: str) -> list[str]:
    model = onnx.load(folders.models / f"{name}.onnx", load_external_data=False)
    constants = {each.name for each in model.graph.initializer}
    return [each.name for each in model.graph.input if each.name not in constants]


def cifar_images(folders: Folders, name: str, part: str, generator: np.random.Generator) -> Arrays:
    images, labels = cifar(folders.zoo, "cifar10_train_10k" if part == "calib" else "cifar10_test")
    order = generator.permutation(len(labels))[: COUNTS["calib"] if part == "calib" else None]
    return {"input": images[order], "labels": labels[order]}


def fashion_images(folders: Folders, name: str, part: str, generator: np.random.Generator) -> Arrays:
    images, labels = fashion(folders.zoo, "train" if part == "calib" else "t10k")
    order = generator.permutation(len(labels))[: COUNTS["calib"] if part == "calib" else None]
    return {"image": (large if name == "resnet18" else small)(images[order]), "labels": labels[order]}


def tiles(folders: Folders, part: str, generator: np.random.Generator) -> pictures.Pixels:
    with np.load(folders.zoo / "data" / f"cifar10_{'train_10k' if part == 'calib' else 'test'}.npz") as file:
        images: pictures.Pixels = file["x"]
    return images[generator.permutation(len(images))]


def mosaics(folders: Folders, name: str, part: str, generator: np.random.Generator) -> Arrays:
    edge = 128 if name.startswith("unet") else 224
    made = pictures.mosaics(tiles(folders, part, generator), edge, FEWER[part])
    scaled = (made / np.float32(255) - CIFAR_MEAN) / CIFAR_DEVIATION
    return {input_names(folders, name)[0]: scaled.transpose(0, 3, 1, 2)}


def text_lines(folders: Folders, name: str, part: str, generator: np.random.Generator) -> Arrays:
    lines = [pictures.line(part, generator) for _ in range(COUNTS[part])]
    if name == "ppocr_rec":
        return {"x": np.stack([pictures.strip(each, 48, 320) for each in lines])}
    turned = generator.integers(0, 2, len(lines))
    strips = [pictures.strip(each.rotate(180 * int(turn)), 48, 192) for each, turn in zip(lines, turned, strict=True)]
    return {"x": np.stack(strips), "labels": turned}


def pages(folders: Folders, name: str, part: str, generator: np.random.Generator) -> Arrays:
    made = [pictures.strip(pictures.page(part, (640, 480), generator), 480, 640) for _ in range(FEWER[part])]
    return {"x": np.stack(made)}


def captchas(folders: Folders, name: str, part: str, generator: np.random.Generator) -> Arrays:
    seed = int(generator.integers(1 << 30))
    if name == "ddddocr_det":
        sizes = [(160, 60), (240, 90), (200, 120), (300, 150)]
        made = list(pictures.captchas(part, FEWER[part] // 4, seed, sizes))
        made += [pictures.click_captcha(part, (344, 200), generator) for _ in range(FEWER[part] - len(made))]
        chosen = [made[at] for at in generator.permutation(len(made))]
        return {"images": np.stack([pictures.letterbox(each, 416) for each in chosen])}
    drawn = pictures.captchas(part, COUNTS[part], seed, [(160, 60)])
    grey = [np.asarray(each.resize((170, 64)).convert("L"), np.float32)[None] / 255 for each in drawn]
    return {"input1": np.stack(grey)}


def people(folders: Folders, name: str, part: str, generator: np.random.Generator) -> Arrays:
    """Photographs with people, and mosaics of pictures of animals and vehicles, from 0 to 1, 320 x 320."""
    count = COUNTS[part] // 2
    shown = pictures.crops(pictures.photographs(part, people=True), (320, 320), count * 3 // 4, generator)
    others = pictures.crops(pictures.photographs(part), (320, 320), count // 8, generator)
    pasted = pictures.mosaics(tiles(folders, part, generator), 320, count - count * 3 // 4 - count // 8)
    images = np.stack([*(np.asarray(each) for each in (*shown, *others)), *pasted])[generator.permutation(count)]
    return {"images": (images / np.float32(255)).transpose(0, 3, 1, 2)}


def music(folders: Folders, name: str, part: str, generator: np.random.Generator) -> Arrays:
    made = [signals.music(43844 / 22050, 22050, generator)[:, None] for _ in range(FEWER[part])]
    return {"serving_default_input_2:0": np.stack(made)}


def speech(folders: Folders, name: str, part: str, generator: np.random.Generator) -> Arrays:
    """Frames with the state in which they find the model, one of eight for `silero_vad`, or a second at once."""
    session = onnxruntime.InferenceSession(folders.models / f"{name}.onnx", providers=["CPUExecutionProvider"])
    rows: list[dict[str, npt.NDArray[np.generic]]] = []
    rate = np.array(16_000, np.int64)
    while len(rows) < COUNTS[part]:
        sound = signals.frames(signals.speech(part, 12.0, generator))
        if name == "silero_vad":
            state = np.zeros((2, 1, 128), np.float32)
            for at, frame in enumerate(sound):
                feeds = {"input": frame[None], "state": state, "sr": rate}
                if at % 8 == 3:
                    rows.append(feeds)
                state = session.run(["stateN"], feeds)[0]
        else:
            hidden, cell = np.zeros((2, 1, 1, 128), np.float32)
            for at in range(0, len(sound) - 31, 31):
                feeds = {"input": sound[at : at + 31], "h": hidden, "c": cell}
                rows.append(feeds)
                hidden, cell = session.run(["hn", "cn"], feeds)
    chosen = [rows[at] for at in generator.permutation(len(rows))[: COUNTS[part]]]
    return {key: rate if key == "sr" else np.stack([row[key] for row in chosen]) for key in chosen[0]}


def seizures(folders: Folders, name: str, part: str, generator: np.random.Generator) -> Arrays:
    waves = [signals.brain_waves(60, 256, generator) for _ in range(COUNTS[part] // 2)]
    return {"x": np.stack([signals.seizure_spectrogram(each, 256) for each in waves])}


def spindles(folders: Folders, name: str, part: str, generator: np.random.Generator) -> Arrays:
    waves = np.stack([signals.brain_waves(30, 250, generator) for _ in range(FEWER[part])])
    return {
        "raw_signal": signals.standard(waves)[:, None],
        "spectrogram": np.stack([signals.scalogram(each) for each in waves]),
    }


def file_kinds(folders: Folders, name: str, part: str, generator: np.random.Generator) -> Arrays:
    contents = list(signals.files(np.random.default_rng(0)))
    half = contents[0::2] if part == "calib" else contents[1::2]
    chosen = generator.permutation(len(half))[: COUNTS[part]]
    return {"bytes": np.stack([signals.file_bytes(half[at]) for at in chosen])}


def texts(folders: Folders, name: str, part: str, generator: np.random.Generator) -> Arrays:
    with zipfile.ZipFile(pictures.inside("all_minilm_l6_v2/model.zip")) as file:
        vocabulary = json.loads(file.read("tokenizer.json"))["model"]["vocab"]  # that of an uncased BERT
    ids = [each for word in words(topics()) for each in pieces(word, vocabulary)]
    rows = np.array(ids[: len(ids) // (LENGTH - 2) * (LENGTH - 2)]).reshape(-1, LENGTH - 2)
    edges = [np.full((len(rows), 1), vocabulary[edge]) for edge in ("[CLS]", "[SEP]")]
    whole = np.concatenate([edges[0], rows, edges[1]], axis=1).astype(np.int64)
    half = whole[: len(whole) // 2] if part == "calib" else whole[len(whole) // 2 :]
    chosen = half[generator.permutation(len(half))[: COUNTS[part]]]
    return {"input_ids": chosen, "attention_mask": np.ones_like(chosen)}


def tokens(folders: Folders, name: str, part: str, generator: np.random.Generator) -> Arrays:
    names = input_names(folders, name)
    ids = generator.integers(0, 5000, (COUNTS[part], 64))
    return {key: ids if at == 0 else np.ones_like(ids) for at, key in enumerate(names)}


def sequences(folders: Folders, name: str, part: str, generator: np.random.Generator) -> Arrays:
    steps = generator.normal(size=(COUNTS[part], 50, 40)).cumsum(axis=1)
    return {input_names(folders, name)[0]: signals.standard(steps.swapaxes(1, 2)).swapaxes(1, 2)}


MAKERS: Mapping[str, Maker] = {
    "cifar10_resnet*": cifar_images,
    "resnet8": fashion_images,
    "resnet18": fashion_images,
    "ppocr_det": pages,
    "ppocr_*": text_lines,
    "ddddocr*": captchas,
    "yolov8n": people,
    "basic_pitch": music,
    "silero_*": speech,
    "eeg_lstm": seizures,
    "eeg_unet": spindles,
    "magika": file_kinds,
    "minilm_l3": texts,
    "bert_small.*": tokens,
    "gpt2_small.*": tokens,
    "lstm.*": sequences,
    "*.dynamo": mosaics,
    "*.ts": mosaics,
}
"""What makes the samples of a model: the first pattern that its name fits."""


def maker(name: str) -> Maker | None:
    return next((make for pattern, make in MAKERS.items() if fnmatch.fnmatch(name, pattern)), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=pathlib.Path, help="a folder with data/, as make bench describes it")
    parser.add_argument("models", nargs="+", type=pathlib.Path, help="models, or folders of them")
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--names", default="*", help="only models of this name (* and ? match)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    paths = [path for each in options.models for path in (each.glob("*.onnx") if each.is_dir() else (each,))]
    for path in sorted(paths, key=lambda path: (path.stat().st_size, path.stem)):
        make = maker(path.stem)
        if make is None or not fnmatch.fnmatch(path.stem, options.names):
            continue
        for part in ("calib", "test"):
            out = options.out / f"{path.stem}_{part}.npz"
            if out.exists():
                continue
            generator = np.random.default_rng(zlib.crc32(out.stem.encode()))
            made = make(Folders(options.zoo, path.parent), path.stem, part, generator)
            fresh = out.with_suffix(".tmp.npz")
            np.savez(fresh, **{key: np.ascontiguousarray(each) for key, each in made.items()})
            fresh.replace(out)
            print(out.name, {key: (each.dtype.name, each.shape) for key, each in made.items()}, flush=True)


if __name__ == "__main__":
    main()
