"""A student of a classifier of CIFAR-10, trained by onnxslim and by PyTorch: from the teacher, from labels, from both.

    python -m venv out/envs/torch && out/envs/torch/bin/pip install torch onnx numpy
    python tests/bench/students.py ZOO --torch out/envs/torch/bin/python --epochs 30

The teacher is ResNet-56. The students are ResNet-20, a third of its size, with weights that are drawn once for both,
and the separable student that `distill:student=separable` makes of the teacher. Both get the same images (those that
onnxslim sets aside are left out for PyTorch, too), first weights, epochs, batch, AdamW, rate with warm-up and cosine,
flips and shifts, and loss: the divergence from the teacher at a temperature, and cross-entropy against labels. PyTorch
keeps the last weights, onnxslim those that are best on what it set aside. Prints a Markdown table: accuracy on all test
images, and the seconds of the training.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import subprocess
import tempfile
import time
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxslim.passes.distill import Distill
from onnxslim.passes.distill.separable import separable_student
from onnxslim.passes.simplify import Simplify
from zoo_images import Images, Labels, cifar

from onnxslim.analysis.cost import measure_cost
from onnxslim.analysis.specialize import infer_and_fold, specialize_shapes
from onnxslim.commands.train import train_model
from onnxslim.commands.training_request import FirstWeights, TrainingRequest
from onnxslim.data import Samples, open_samples
from onnxslim.model import open_model
from onnxslim.model.edit import overwrite
from onnxslim.pipeline.interface import Context
from onnxslim.pipeline.opset import upgraded
from onnxslim.pipeline.selection import EVERYTHING
from onnxslim.runtime.session import Session
from onnxslim.runtime.target import detect_target
from onnxslim.train.batches import in_order
from onnxslim.train.initialization import drawn_weights
from onnxslim.train.optimizer import OptimizerKind
from onnxslim.train.terms import OutputLoss

HERE = pathlib.Path(__file__).parent
OPSET = 18
"""The oldest operator set that gradients are declared for."""
WARMUP, HELD_OUT = 0.05, 0.1
AT_ONCE = 500
FROM = {"teacher": 0.0, "both": 0.5, "labels": 1.0}
"""What a student is trained from, and the share of the labels in the loss."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """What both are told."""

    epochs: int
    batch: int
    rate: float
    temperature: float
    alpha: float
    warmup: float = WARMUP


@dataclasses.dataclass(frozen=True)
class Work:
    """A teacher, images, and where files lie."""

    teacher: pathlib.Path
    images: Images
    labels: Labels
    test: tuple[Images, Labels]
    folder: pathlib.Path
    threads: int

    def context(self, model: ir.Model) -> Context:
        """Return what a pass is given."""
        target = detect_target("cpu", self.threads)
        samples = self.samples(model)
        return Context(
            model, samples, target, np.random.default_rng(0), open_session=lambda each: Session.of(each, target)
        )

    def samples(self, model: ir.Model) -> Samples:
        """Return the images that are trained on."""
        name = str(model.graph.inputs[0].name)
        return open_samples({name: self.images, "labels": self.labels}, Session.of(model).inputs)

    def accuracy(self, model: ir.Model | pathlib.Path) -> float:
        """Return how often a model is right on the test images."""
        session = Session.of(model, detect_target("cpu", self.threads))
        (given,), (images, labels) = session.inputs, self.test
        guesses = [
            next(iter(session.run({given.name: images[at : at + AT_ONCE]}).values())).argmax(1)
            for at in range(0, len(images), AT_ONCE)
        ]
        return float((np.concatenate(guesses) == labels).mean())


def plain(path: pathlib.Path, work: Work) -> ir.Model:
    """Return a model without BatchNormalizations, at the operator set of a training."""
    model = open_model(path)
    Simplify().run(model, work.context(open_model(path)))
    raised = upgraded(model, OPSET)
    assert isinstance(raised, ir.Model), raised
    return raised


def student_of(kind: str, zoo: pathlib.Path, work: Work) -> ir.Model:
    """Return a student before it is trained."""
    if kind == "separable":
        return separable_student(plain(work.teacher, work), 1, EVERYTHING, work.context(open_model(work.teacher)))[0]
    model = upgraded(open_model(zoo / "onnx" / f"{kind}.onnx"), OPSET)
    assert isinstance(model, ir.Model), model
    infer_and_fold(model)  # PyTorch shall not compute sizes
    for name, array in drawn_weights(model.graph, np.random.default_rng(0)).items():
        overwrite(model.graph.initializers[name], array)
    return model


def ours(kind: str, setting: Setting, work: Work) -> tuple[float, float]:
    """Return the accuracy of a student that onnxslim trains, and the seconds that it takes."""
    path, out = work.folder / "student.onnx", work.folder / "ours.onnx"
    started = time.monotonic()
    if setting.alpha == 1:
        request = TrainingRequest(
            setting.epochs,
            setting.batch,
            setting.rate,
            OptimizerKind.ADAMW,
            warmup=setting.warmup,
            augment=("flip", "shift"),
            weights=FirstWeights.KEEP,
            held_out=HELD_OUT,
        )
        name = str(open_model(path).graph.inputs[0].name)
        data = {name: work.images, "labels": work.labels}
        told = train_model(path, out, request, data=data, provider="cpu", threads=work.threads)
        return work.accuracy(out), told.seconds
    options = Distill(
        student="separable" if kind == "separable" else str(path),
        epochs=setting.epochs,
        batch=setting.batch,
        rate=setting.rate,
        warmup=setting.warmup,
        loss=OutputLoss.KL,
        temperature=setting.temperature,
        alpha=setting.alpha,
        augment=("flip", "shift"),
        held_out=HELD_OUT,
    )
    model = plain(work.teacher, work)
    change = options.run(model, work.context(open_model(work.teacher)))
    assert change.modified, change.notes
    return work.accuracy(model), time.monotonic() - started


def theirs(setting: Setting, work: Work, python: str) -> tuple[float, float]:
    """Return the same of PyTorch."""
    (work.folder / "settings.json").write_text(json.dumps(dataclasses.asdict(setting)))
    child = str(HERE / "students_torch.py")
    done = subprocess.run(
        [python, child, str(work.folder), str(work.threads)], stdout=subprocess.PIPE, text=True, check=True
    )
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told["accuracy"], told["seconds"]


def prepared(work: Work) -> None:
    """Write the teacher and the images for PyTorch: without those that onnxslim sets aside."""
    teacher = plain(work.teacher, work)
    ir.save(teacher, work.folder / "teacher.onnx")  # constants stay initializers
    _, training = work.samples(teacher).split(HELD_OUT, np.random.default_rng(0))
    batches = list(in_order(training, training.count))
    (images,) = batches[0].feeds.values()
    labels = batches[0].labels
    assert labels is not None
    np.savez(work.folder / "train.npz", x=images, labels=labels)
    np.savez(work.folder / "test.npz", x=work.test[0], labels=work.test[1])


def cost_of(model: ir.Model, images: Images) -> str:
    """Return parameters in thousands and MACs in millions."""
    cost = measure_cost(specialize_shapes(model, {str(model.graph.inputs[0].name): images[:1].shape}))
    return f"{cost.parameters / 1e3:.0f} | {cost.macs / 1e6:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=pathlib.Path, help="a folder with onnx/ and data/")
    parser.add_argument("--torch", required=True, help="the Python of an environment with torch, onnx and numpy")
    parser.add_argument("--teacher", default="cifar10_resnet56")
    parser.add_argument("--students", nargs="+", default=["cifar10_resnet20", "separable"])
    parser.add_argument("--from", nargs="+", default=list(FROM), choices=list(FROM), dest="sources")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--temperature", type=float, default=4.0)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--test-images", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    images, labels = (each[: options.images] for each in cifar(options.zoo, "cifar10_train_10k"))
    test_images, test_labels = (each[: options.test_images] for each in cifar(options.zoo, "cifar10_test"))
    with tempfile.TemporaryDirectory() as temporary:
        path = options.zoo / "onnx" / f"{options.teacher}.onnx"
        work = Work(path, images, labels, (test_images, test_labels), pathlib.Path(temporary), options.threads)
        prepared(work)
        print("| student | from | k parameters | M MACs | top-1 %, ours | torch | apart | s, ours | torch |")
        print("| --- " * 9 + "|")
        print(
            f"| {options.teacher} | | {cost_of(plain(path, work), images)} | {100 * work.accuracy(path):.2f} | | | | |"
        )
        for kind in options.students:
            student = student_of(kind, options.zoo, work)
            size = cost_of(student, images)
            ir.save(student, work.folder / "student.onnx")
            for source in options.sources:
                setting = Setting(options.epochs, options.batch, options.rate, options.temperature, FROM[source])
                own, own_seconds = ours(kind, setting, work)
                other, seconds = theirs(setting, work, options.torch)
                figures = f"{100 * own:.2f} | {100 * other:.2f} | {100 * (own - other):+.2f}"
                print(f"| {kind} | {source} | {size} | {figures} | {own_seconds:.0f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
