"""Fits weights in closed form to what a model gave before something was taken out of it.

Layer after layer, in the order in which they run, the inputs that a layer now gets are regressed on the outputs that
it used to give: ridge regression of the difference, towards the weights that it has. Layers are fitted one after the
other, each on the inputs that the layers fitted before it give, so that errors do not add up. Three things make the
most of that:

- Where a layer ends a branch of a residual block, it is fitted to the sum that the block used to give without what the
  other branch gives now: errors of the shortcut are corrected there, and do not run through the whole stage.
- Where a rectifier follows, what is negative and shall be is right, however negative: only the rest is fitted.
- How much the present weights count is chosen by samples that were set aside.

Sources: He, Zhang, Sun, "Channel Pruning for Accelerating Very Deep Neural Networks" (arXiv 1707.06168), section 3.2,
for the regression; Zhang et al., "Accelerating Very Deep Convolutional Networks" (arXiv 1505.06798), sections 3.2 and
3.3, for the rectifier and the asymmetric error. The ridge towards the present weights and the sum of the block are
ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.bias import only_use
from onnxslim.analysis.contraction import Contraction
from onnxslim.arrays import Indices, Singles
from onnxslim.data import Samples
from onnxslim.fit.normalisation import CutNormalisation, refit_affine
from onnxslim.fit.ridge import RidgeRegression, Solution, predict
from onnxslim.model.edit import Editor, overwrite
from onnxslim.observe.batches import held_batches
from onnxslim.observe.rows import choose_places, correspond, input_rows, output_rows, place_count
from onnxslim.observe.stream import Stream
from onnxslim.ops.binding import dimensions
from onnxslim.ops.traits import Trait, has
from onnxslim.runtime.session import OpenSession

SAMPLES = 512
"""Samples that are enough."""
FEWEST = 32
"""Fewer samples than this say too little about a layer."""
BUDGET = 4e12
"""Multiply-accumulates that may be spent on running the models: some minutes on two cores."""
PRODUCTS = 2e9
"""Multiply-accumulates that the normal equations of one layer may take before places of convolutions are left out;
neighbours say nearly the same."""
ROWS_PER_COLUMN = 32
"""Rows for each unknown of a layer that are used in any case, where there are as many."""
HELD = 2e8
"""Bytes of rows that are held of one layer."""
STREAMED = 1.5e9
"""Bytes of values that are held of one model while it is fitted."""
ROUNDING = 1e-5
"""Of the largest output: what is missing by no more than this is rounding, and no reason to change a weight."""
ROUNDS = 2
"""How often a layer before a rectifier is fitted again, to what matters behind it."""
COLUMNS = 4608
"""Contractions with more weights per output channel are left as they are: their normal equations take over 170 MB."""


@dataclasses.dataclass(frozen=True)
class Fit:
    """A contraction of the cut model, and which channels of its output it kept."""

    contraction: Contraction
    output_axis: int
    kept: Indices


@dataclasses.dataclass(frozen=True)
class FitTarget:
    """What a contraction is fitted to: a value of the model before, less a value of the model as it is now."""

    name: str
    less: str | None
    rectified: bool
    """Whether a rectifier alone reads it."""


def enough(count: int, macs: int, alive_bytes: int = 0) -> int:
    """Return how many samples to use, 0 where the budget does not reach for enough of them.

    Args:
        count: Samples that there are.
        macs: Of the model, for one sample.
        alive_bytes: Bytes of values of the model that are alive at once, for one sample.
    """
    most = min(SAMPLES, int(BUDGET / max(2 * macs, 1)), int(STREAMED / max(alive_bytes, 1)))
    return 0 if min(most, count) < FEWEST else most


def fits(contraction: Contraction) -> bool:
    """Whether `refit` can fit this contraction.

    Its output is a sum over windows or rows of its data, and its weight and bias are its own. What reads a graph input
    is right as it is.
    """
    if not (contraction.plain and contraction.regular and len(contraction.weight.uses()) == 1):
        return False
    if contraction.data.producer() is None or (contraction.bias is not None and not contraction.bias.free):
        return False
    return contraction.columns <= COLUMNS and bool(contraction.weight.dtype == ir.DataType.FLOAT)


def refit(
    model: ir.Model,
    before: ir.Model,
    chosen: Sequence[Fit],
    samples: Samples,
    generator: np.random.Generator,
    open_session: OpenSession,
    report: Callable[[int, int], None],
    normalisations: Sequence[CutNormalisation] = (),
) -> None:
    """Fit the weights of contractions of `model`, in place.

    Args:
        model: The model that something was taken out of.
        before: The same model before; values of the same name mean the same.
        chosen: What to fit; `fits` holds for each.
        samples: Calibration samples; read once.
        generator: Chooses the places of convolutions that rows are taken of.
        open_session: Opens a model on the target.
        report: Told (done, total) after each.
        normalisations: Those whose scale and bias are refitted as well; `has_own_affine` holds for each.

    Raises:
        RunError: A model does not run on the samples.
    """
    editor = Editor(model)
    batches = held_batches(before, samples)
    now, then = Stream(model, batches, open_session), Stream(before, batches, open_session)
    place = {node: index for index, node in enumerate(now.order)}
    made = {value.name or "": index for index, node in enumerate(then.order) for value in node.outputs}
    steps: list[tuple[int, Fit | CutNormalisation, FitTarget]] = []
    for fit in chosen:
        start = place[fit.contraction.node]
        steps.append((start, fit, target_of(fit.contraction, set(now.order[:start]), made)))
    steps += [
        (place[norm.node] + 1, norm, FitTarget(norm.node.outputs[0].name or "", None, False))
        for norm in normalisations
        if norm.node.outputs[0].name in made
    ]
    steps.sort(key=lambda step: step[0])
    for done, (start, step, target) in enumerate(steps):
        needed = {later.name for _, _, later in steps[done:]}
        now.advance(start, {target.name} if isinstance(step, CutNormalisation) else ())
        then.advance(made[target.name] + 1, needed)
        if isinstance(step, CutNormalisation):
            refit_affine(step, now[target.name], then[target.name])
        else:
            data, less = now[step.contraction.data.name or ""], None if target.less is None else now[target.less]
            _fit(editor, step, data, then[target.name], less, target.rectified, samples.count, generator)
        report(done + 1, len(steps))


def _fit(
    editor: Editor,
    fit: Fit,
    data: Sequence[Singles],
    wanted: Sequence[Singles],
    less: Sequence[Singles] | None,
    rectified: bool,
    count: int,
    generator: np.random.Generator,
) -> None:
    contraction, axis = fit.contraction, fit.output_axis
    weights = contraction.blocks()
    groups, width, outputs = weights.shape
    bias = contraction.bias
    vector = np.zeros(contraction.outputs) if bias is None or bias.vector is None else bias.vector
    present = Solution(weights, vector.reshape(groups, outputs))
    most = max(PRODUCTS / (groups * width * width), ROWS_PER_COLUMN * width)
    most = int(min(most, HELD / (4 * groups * (width + 2 * outputs))))
    inputs: list[Singles] = []
    sums: list[Singles] = []
    offsets: list[Singles] = []
    for index, batch in enumerate(data):
        kept = np.take(wanted[index], fit.kept, axis=axis)
        if not correspond(contraction, batch, kept) or (less is not None and less[index].shape != kept.shape):
            continue  # which places there are depends on what a layer before gives: these are others
        share = most // count if contraction.kernel else most * len(batch) // max(count, 1)
        places = choose_places(place_count(contraction, batch), share, generator)
        inputs.append(input_rows(contraction, batch, places))
        sums.append(output_rows(contraction, kept, axis, places))
        offset = predict(inputs[-1], present)
        offsets.append(offset if less is None else offset + output_rows(contraction, less[index], axis, places))
    missing = [total - offset for total, offset in zip(sums, offsets, strict=True)]
    # Nothing is missing either where no place corresponds to one of before.
    size = max((float(np.abs(rows).max(initial=0)) for rows in sums), default=0.0)
    if all(float(np.abs(rows).max(initial=0)) <= ROUNDING * size for rows in missing):
        return
    regression = RidgeRegression(inputs, intercept=bias is not None)
    chosen = regression.strength(missing)
    if not np.isfinite(chosen):
        return
    change = regression.solve(missing, chosen)
    for _ in range(ROUNDS if rectified else 0):
        missing = [
            np.where(total > 0, total, np.minimum(offset + predict(piece, change), 0)) - offset
            for piece, total, offset in zip(inputs, sums, offsets, strict=True)
        ]
        change = regression.solve(missing, chosen)
    if np.isfinite(change.weights).all() and np.isfinite(change.bias).all():
        overwrite(contraction.weight, contraction.from_blocks(present.weights + change.weights))
        if bias is not None:
            bias.write(editor, (present.bias + change.bias).ravel())


def target_of(contraction: Contraction, earlier: Collection[ir.Node], made: Collection[str]) -> FitTarget:
    """Return what a contraction is fitted to.

    Args:
        contraction: Of the model as it is now.
        earlier: The nodes that run before it.
        made: The names of what the model before made.
    """
    output, residual = contraction.biased_output, contraction.residual
    if residual is None:
        return FitTarget(output.name or "", None, _rectified(output))
    total, other = residual
    producer = other.producer()
    if producer is not None and producer not in earlier:
        return FitTarget(output.name or "", None, False)
    full = len(dimensions(other) or ()) in (0, len(dimensions(output) or ()))
    if full and total.name in made and dimensions(total) is not None and dimensions(total) == dimensions(output):
        return FitTarget(total.name or "", other.name, _rectified(total))
    return FitTarget(output.name or "", None, _rectified(output))


def _rectified(value: ir.Value) -> bool:
    use = only_use(value)
    return use is not None and has(use[0], Trait.RECTIFIES)
