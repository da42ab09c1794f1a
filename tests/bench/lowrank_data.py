"""Makes the samples that lowrank_table.py is quoted with.

    python tests/bench/lowrank_data.py text tokenizer.json out
    python tests/bench/lowrank_data.py mosaic cifar10_train_10k.npz cifar10_test.npz out

``text`` writes text_calib.npz and text_test.npz: the help topics of Python in pieces of the WordPiece vocabulary of
TOKENIZER (a `tokenizer.json` of an uncased BERT), 62 tokens between [CLS] and [SEP]; the first half of the topics
calibrates, pieces of the second half measure. ``mosaic`` writes vit_calib.npz and vit_test.npz: images of 224 x 224,
each made of 49 pictures of CIFAR-10 at their own size, so that patches hold what photographs hold and not noise.
"""

from __future__ import annotations

import json
import pathlib
import pydoc_data.topics
import re
import sys
import unicodedata
from collections.abc import Mapping

import numpy as np

LENGTH = 64
MEAN, DEVIATION = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


def words(text: str) -> list[str]:
    plain = unicodedata.normalize("NFD", re.sub(r"[*`:=\-]{2,}", " ", text).lower())
    return re.findall(r"[a-z0-9]+|[^\sa-z0-9]", "".join(each for each in plain if unicodedata.category(each) != "Mn"))


def pieces(word: str, vocabulary: Mapping[str, int]) -> list[int]:
    """Return the longest pieces that make up a word, greedily, as WordPiece does."""
    found, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        end = next((end for end in range(len(word), start, -1) if prefix + word[start:end] in vocabulary), None)
        if end is None:
            return [vocabulary["[UNK]"]]
        found.append(vocabulary[prefix + word[start:end]])
        start = end
    return found


def topics() -> str:
    """Return the help topics of Python."""
    return "\n".join(pydoc_data.topics.topics.values())


def text(tokenizer: str, folder: str) -> None:
    vocabulary = json.loads(pathlib.Path(tokenizer).read_text())["model"]["vocab"]
    ids = [each for word in words(topics()) for each in pieces(word, vocabulary)]
    rows = np.array(ids[: len(ids) // (LENGTH - 2) * (LENGTH - 2)]).reshape(-1, LENGTH - 2)
    edges = (np.full((len(rows), 1), vocabulary[name]) for name in ("[CLS]", "[SEP]"))
    first, last = edges
    whole = np.concatenate([first, rows, last], axis=1).astype(np.int64)
    generator, half = np.random.default_rng(0), len(whole) // 2
    for name, part, most in (("calib", whole[:half], half), ("test", whole[half:], 128)):
        chosen = part[generator.permutation(len(part))[:most]]
        np.savez(pathlib.Path(folder) / f"text_{name}.npz", input_ids=chosen, attention_mask=np.ones_like(chosen))


def mosaic(train: str, test: str, folder: str) -> None:
    for name, path, count in (("calib", train, 64), ("test", test, 16)):
        with np.load(path) as file:
            images = (file["x"][: count * 49].astype(np.float32) / 255 - MEAN) / DEVIATION
        tiles = images.reshape(count, 7, 7, 32, 32, 3).transpose(0, 5, 1, 3, 2, 4)
        np.savez(pathlib.Path(folder) / f"vit_{name}.npz", x=tiles.reshape(count, 3, 224, 224))


if __name__ == "__main__":
    {"text": text, "mosaic": mosaic}[sys.argv[1]](*sys.argv[2:])
