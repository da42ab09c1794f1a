"""Nothing by itself: the child of `students.py` that trains a student with PyTorch, in an environment that has it.

    python students_torch.py FOLDER THREADS

Trains the plain graph of FOLDER/student.onnx, with BatchNormalizations, towards that of FOLDER/teacher.onnx and labels,
as FOLDER/settings.json says, on FOLDER/train.npz, and prints a line of JSON: how often it is right on FOLDER/test.npz
with its last weights, and the seconds of the training.
"""

from __future__ import annotations

import json
import math
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as functional
from training_torch import OPS, told

FARTHEST = 4
"""Pixels by which images are shifted at most."""
MOST = 500
"""Images of a run without gradients."""
Run = Callable[..., torch.Tensor]


def network(path: pathlib.Path) -> tuple[Run, list[torch.Tensor]]:
    """Return a function of a batch (and whether it is trained on), and the weights that are trained."""
    graph = onnx.load(path).graph
    constants = {each.name: torch.tensor(onnx.numpy_helper.to_array(each)) for each in graph.initializer}
    statistics = {name for node in graph.node if node.op_type == "BatchNormalization" for name in node.input[3:5]}
    trained = [
        tensor.requires_grad_()
        for name, tensor in constants.items()
        if tensor.is_floating_point() and tensor.ndim and name not in statistics
    ]

    def normalized(x: torch.Tensor, node: onnx.NodeProto, attributes: Mapping[str, Any], training: bool) -> Any:
        scale, shift, mean, variance = (constants[name] for name in node.input[1:])
        momentum, epsilon = 1 - attributes.get("momentum", 0.9), attributes.get("epsilon", 1e-5)
        return functional.batch_norm(x, mean, variance, scale, shift, training, momentum, epsilon)

    nodes = [(node, {a.name: told(onnx.helper.get_attribute_value(a)) for a in node.attribute}) for node in graph.node]

    def run(x: torch.Tensor, *, training: bool = False) -> torch.Tensor:
        values = {**constants, graph.input[0].name: x}
        for node, attributes in nodes:
            if node.op_type == "BatchNormalization":
                made = normalized(values[node.input[0]], node, attributes, training)
            else:
                made = OPS[node.op_type]([values[name] for name in node.input if name], attributes)
            values[node.output[0]] = made
        return values[graph.output[0].name]

    return run, trained


def changed(x: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """Return images that are flipped, half of them, and shifted."""
    count, _, height, width = x.shape
    flipped = torch.tensor(random.random(count) < 0.5)[:, None, None, None]
    x = functional.pad(torch.where(flipped, x.flip(3), x), [FARTHEST] * 4, mode="replicate")
    places = random.integers(0, 2 * FARTHEST + 1, (count, 2))
    return torch.stack([image[:, y : y + height, z : z + width] for image, (y, z) in zip(x, places, strict=True)])


def rate(step: int, steps: int, settings: Mapping[str, Any]) -> float:
    """Return the learning rate: a linear warm-up, then half a cosine down to a hundredth."""
    rising = max(1, round(settings["warmup"] * steps))
    if step < rising:
        return float(settings["rate"]) * (step + 1) / rising
    done = (step - rising) / max(1, steps - rising)
    return float(settings["rate"]) * (0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, done))) / 2)


def loss_of(made: torch.Tensor, wanted: torch.Tensor | None, labels: torch.Tensor, settings: Mapping[str, Any]) -> Any:
    """Return the divergence from the teacher, and the cross-entropy against labels, by their shares."""
    alpha, heat = settings["alpha"], settings["temperature"]
    total: Any = 0.0
    if wanted is not None:
        soft, target = (functional.log_softmax(each / heat, 1) for each in (made, wanted))
        total = (1 - alpha) * heat**2 * functional.kl_div(soft, target, reduction="batchmean", log_target=True)
    return total + (alpha * functional.cross_entropy(made, labels) if alpha else 0.0)


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    torch.set_num_threads(int(sys.argv[2]))
    torch.manual_seed(0)
    settings = json.loads((folder / "settings.json").read_text())
    student, weights = network(folder / "student.onnx")
    teacher = network(folder / "teacher.onnx")[0] if settings["alpha"] < 1 else None
    stored = {part: np.load(folder / f"{part}.npz") for part in ("train", "test")}
    x, y = torch.tensor(stored["train"]["x"]), torch.tensor(stored["train"]["labels"])
    optimizer = torch.optim.AdamW(weights, lr=settings["rate"], weight_decay=0.0)
    batch, random = settings["batch"], np.random.default_rng(0)
    per_epoch = len(x) // batch
    steps, done = settings["epochs"] * per_epoch, 0
    started = time.monotonic()
    for _ in range(settings["epochs"]):
        order = random.permutation(len(x))
        for number in range(per_epoch):
            chosen = order[number * batch : (number + 1) * batch]
            images = changed(x[chosen], random)
            wanted = None
            if teacher is not None:
                with torch.no_grad():
                    wanted = teacher(images)
            for group in optimizer.param_groups:
                group["lr"] = rate(done, steps, settings)
            optimizer.zero_grad()
            loss_of(student(images, training=True), wanted, y[chosen], settings).backward()
            optimizer.step()
            done += 1
    seconds = time.monotonic() - started
    right = 0
    with torch.no_grad():
        for at in range(0, len(stored["test"]["x"]), MOST):
            images = torch.tensor(stored["test"]["x"][at : at + MOST])
            right += int((student(images).argmax(1).numpy() == stored["test"]["labels"][at : at + MOST]).sum())
    print(json.dumps({"accuracy": right / len(stored["test"]["x"]), "seconds": seconds}))


if __name__ == "__main__":
    main()
