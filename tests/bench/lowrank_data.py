"""Makes the samples that lowrank_table.py is quoted with.

    python tests/bench/lowrank_data.py text tokenizer.json out
    python tests/bench/lowrank_data.py docstrings tokenizer.json out
    python tests/bench/lowrank_data.py mosaic cifar10_train_10k.npz cifar10_test.npz out

``text`` writes text_calib.npz and text_test.npz: the help topics of Python in pieces of the WordPiece vocabulary of
TOKENIZER (a `tokenizer.json` of an uncased BERT), 62 tokens between [CLS] and [SEP]; the first half of the topics
calibrates, pieces of the second half measure. ``docstrings`` writes doc_calib.npz and doc_test.npz, in the same form:
the docstrings of Python's library, NumPy, SciPy, onnx and onnx_ir, of which a tenth of the files measure and the others
calibrate and train; lines that were seen before are left out. ``mosaic`` writes vit_calib.npz and vit_test.npz: images
of 224 x 224, each made of 49 pictures of CIFAR-10 at their own size, so that patches hold what photographs hold and not
noise.
"""

from __future__ import annotations

import ast
import json
import pathlib
import pydoc_data.topics
import re
import sys
import sysconfig
import unicodedata
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

LENGTH = 64
SHORT = 40
"""Letters of a line that may stand in several files."""
PACKAGES = ("numpy", "scipy", "onnx", "onnx_ir")
OTHERS = {"site-packages", "test", "tests", "idle_test"}
"""Folders that are left out."""
MOST = {"calib": 24_000, "test": 256}
"""Texts of docstrings."""
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


def samples(told: str, vocabulary: Mapping[str, int]) -> npt.NDArray[np.int64]:
    """Return texts of LENGTH pieces, shape [texts, LENGTH]."""
    ids = [each for word in words(told) for each in pieces(word, vocabulary)]
    rows = np.array(ids[: len(ids) // (LENGTH - 2) * (LENGTH - 2)]).reshape(-1, LENGTH - 2)
    first, last = (np.full((len(rows), 1), vocabulary[name]) for name in ("[CLS]", "[SEP]"))
    return np.concatenate([first, rows, last], axis=1).astype(np.int64)


def docstrings_of(path: pathlib.Path) -> list[str]:
    """Return the lines of the docstrings of a file of Python; none of what is no Python."""
    try:
        tree = ast.parse(path.read_text(errors="replace"))
    except (SyntaxError, ValueError):
        return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds))
    return [line for each in found if each for line in each.splitlines()]


def docstrings(tokenizer: str, folder: str) -> None:
    vocabulary = json.loads(pathlib.Path(tokenizer).read_text())["model"]["vocab"]
    generator, seen = np.random.default_rng(0), set[str]()
    told: dict[str, list[str]] = {"calib": [], "test": []}
    installed = pathlib.Path(sysconfig.get_paths()["purelib"])
    for root in (pathlib.Path(sysconfig.get_paths()["stdlib"]), *(installed / name for name in PACKAGES)):
        files = sorted(each for each in root.rglob("*.py") if not OTHERS & {*each.relative_to(root).parts})
        for path, measures in zip(files, generator.random(len(files)) < 0.1, strict=True):
            lines = [line for line in docstrings_of(path) if len(line) <= SHORT or line not in seen]
            seen.update(lines)
            told["test" if measures else "calib"] += lines
    for name, lines in told.items():
        whole = samples("\n".join(lines), vocabulary)
        chosen = whole[generator.permutation(len(whole))[: MOST[name]]]
        np.savez(pathlib.Path(folder) / f"doc_{name}.npz", input_ids=chosen, attention_mask=np.ones_like(chosen))


def text(tokenizer: str, folder: str) -> None:
    vocabulary = json.loads(pathlib.Path(tokenizer).read_text())["model"]["vocab"]
    whole = samples(topics(), vocabulary)
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
    {"text": text, "docstrings": docstrings, "mosaic": mosaic}[sys.argv[1]](*sys.argv[2:])
