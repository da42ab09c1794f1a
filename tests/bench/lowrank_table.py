"""Splits whitened by what layers see beside plain SVD, at equal ranks: lowrank_table.py SHARE MODEL DATA VAL [KIND ...]

    python tests/bench/lowrank_table.py 0.3 minilm_l3.onnx text_calib.npz text_test.npz matrix
    python tests/bench/lowrank_table.py --latency 0.3 minilm_l3.onnx text_calib.npz text_test.npz matrix

`lowrank` chooses ranks until SHARE of the parameters of the layers is gone; then the same layers are split at the same
ranks by the weights alone, whitened, and whitened with recovery. SQNR is that of each output on VAL, which nothing was
fitted to. With ``--latency`` ranks are chosen among splits that were measured to be faster, and the paired latency of
the whole model is printed; without it nothing is timed. ``--no-recovery`` leaves that row out,
``--no-sensitivity`` lets the errors of all layers count alike, ``--gradients`` weighs errors by gradients of the
outputs; with ``--equal`` each layer loses SHARE of its parameters, and no spectra are needed. ``--features`` measures
what the last layer reads: the head of a model without training may give zeros. ``--distill=OPTIONS`` adds a row: the
whitened factors, trained by the pass `distill` with these options (``epochs=10:batch=16:exclude=Gather``) on DATA.
Prints a Markdown table.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnxslim.passes.lowrank.allocation import RankRule, RankTarget, SplitSettings, Weighing
from onnxslim.passes.lowrank.candidates import Positions, SplitCandidate, nearest, shapes
from onnxslim.passes.lowrank.candidates import forms as possible
from onnxslim.passes.lowrank.factors import Factorization
from onnxslim.passes.lowrank.layer import find_layers
from onnxslim.passes.lowrank.splitting import Splitting

import onnxslim
from onnxslim.analysis.cost import measure_cost
from onnxslim.analysis.linear_layer import LinearLayer
from onnxslim.data import open_samples
from onnxslim.observe.probe import truncated
from onnxslim.pipeline.interface import Context
from onnxslim.pipeline.options import parse_passes
from onnxslim.quality.fidelity import add_run, start_tallies, summarize
from onnxslim.runtime.session import Session
from onnxslim.runtime.target import detect_target
from onnxslim.runtime.timing import compare_latency


def main(share: float, path: str, data: str, val: str, kinds: list[str], flags: list[str]) -> None:
    latency = "latency" in flags
    base = onnxslim.optimize(path, "simplify", measure=False).model
    if "features" in flags:
        base = truncated(base, [find_layers(base)[0][-1].uses[0].data.name or ""])
    target = detect_target("cpu")
    original = Session.of(base, target)
    samples, held_out = open_samples(data, original.inputs), open_samples(val, original.inputs)
    forms = tuple(form for form in Factorization if form.value in kinds) or tuple(Factorization)
    settings = SplitSettings(
        RankTarget(RankRule.PARAMS, share),
        forms,
        16,
        size=not latency,
        sensitivity="no-sensitivity" not in flags,
        weighing=Weighing.GRADIENTS if "gradients" in flags else Weighing.LOCAL,
    )

    def splitting(model: ir.Model, each: SplitSettings) -> Splitting:
        context = Context(base, samples, target, np.random.default_rng(0))
        return Splitting(each, model, find_layers(model)[0], context)

    def open_session(each: ir.Model) -> Session:
        return Session.of(each, target)

    layers = find_layers(base)[0]
    work = splitting(base.clone(), settings)
    print(f"chosen on {work.count} samples;", end=" ")
    chosen, reasons = equal(layers, forms, share) if "equal" in flags else work.choose(work.options())
    picked = {layer.name: each for layer, each in zip(layers, chosen, strict=True) if each is not None}
    whole = sum(layer.parameters for layer in layers)
    gone = sum(layer.parameters - picked[layer.name].parameters for layer in layers if layer.name in picked)
    print(
        f"{len(layers)} layers of {whole} parameters, {len(picked)} split, {gone / whole:.1%} of the parameters gone;"
    )
    slower = [str(why) for why in reasons if str(why).startswith("not faster")]
    print(f"{len(slower)} left alone because they are not faster: {'; '.join(slower)}\n")
    print("| split | parameters | MACs | SQNR of each output, dB | times faster | s |")
    print("| --- | --- | --- | --- | --- | --- |")
    training = next((flag.removeprefix("distill=") for flag in flags if flag.startswith("distill=")), "")
    rows = [
        ("weights alone (plain SVD)", dataclasses.replace(settings, whiten=False)),
        ("whitened", dataclasses.replace(settings, recover=False)),
        ("whitened, with recovery", settings),
    ]
    if "no-recovery" in flags:
        del rows[2]
    if training:
        rows.append((f"whitened, distilled: {training}", rows[1][1]))
    for name, each in rows:
        model = base.clone()
        started = time.perf_counter()
        work = splitting(model, each)
        work.split([(layer, picked[layer.name]) for layer in work.layers if layer.name in picked])
        if "distilled" in name:
            context = Context(base, samples, target, np.random.default_rng(0), open_session=open_session)
            (step,) = parse_passes(f"distill:{training}")
            told = step.run(model, context).notes[0]
            print(f"<!-- {told.action}; {told.reason} -->")
        seconds = time.perf_counter() - started
        session = Session.of(model, target)
        tallies = start_tallies([spec.name for spec in original.outputs])
        for batch in held_out.batches():
            add_run(tallies, *(side.run(batch.feeds, list(tallies)) for side in (original, session)), batch.count)
        fidelity = summarize(list(tallies.values()), np.random.default_rng(0))
        figures = ", ".join(
            f"{one.name} {one['sqnr_db'].value:.1f}" if one["sqnr_db"] else f"{one.name} -" for one in fidelity.parts
        )
        before, after = measure_cost(base), measure_cost(model)
        faster = ""
        if latency:
            ratio = compare_latency(
                base, model, held_out.first(), target, generator=np.random.default_rng(0), seconds=15
            ).ratio
            faster = f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
        print(
            f"| {name} | {before.parameters} -> {after.parameters} | {1 - after.macs / before.macs:.1%} fewer "
            f"| {figures} | {faster} | {seconds:.0f} |",
            flush=True,
        )


def equal(
    layers: Sequence[LinearLayer], forms: Sequence[Factorization], share: float
) -> tuple[list[SplitCandidate | None], list[str]]:
    """Return for each layer the split that has about `1 - share` of its parameters, of the forms that it can have."""
    chosen: list[SplitCandidate | None] = []
    for layer in layers:
        own = [
            each
            for form in possible(layer)
            if form in forms
            for each in shapes(layer, form, 16, Positions(1, 1, 1), more_macs=True)
            if each.parameters <= (1 - share) * layer.parameters
        ]
        chosen.append(nearest(own, layer.parameters) if own else None)
    return chosen, []


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    flags = [word.removeprefix("--") for word in sys.argv[1:] if word.startswith("--")]
    main(float(words[0]), *words[1:4], words[4:], flags)
