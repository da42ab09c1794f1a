"""One case of onnx_suite.py: simplifies it twice, runs what came out, and says how it compares with the original.

Run as a process that reads paths of cases from standard input, and answers each with a line of JSON.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
import tempfile
import time
import warnings

TOLERANCE = {"float64": 1e-7, "float32": 1e-4, "float16": 1e-2}
"""Of the largest magnitude of an output; other floats, of 8 bits or of 7 bits of mantissa, get 0.05."""


def model_of(case: pathlib.Path) -> pathlib.Path:
    return case / "model.onnx" if case.is_dir() else case


def made_up(model):
    """Return one set of random inputs: the sizes that are declared, and 1 where a dimension has a name only."""
    import numpy as np
    import onnx

    generator, held = np.random.default_rng(0), {value.name for value in model.graph.initializer}
    feeds = {}
    for value in model.graph.input:
        if value.name not in held:
            kind = value.type.tensor_type
            sizes = [dimension.dim_value or 1 for dimension in kind.shape.dim]
            drawn = generator.standard_normal(sizes)
            feeds[value.name] = drawn.astype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return feeds, []


def arrays_of(value):
    import numpy as np

    if value is None:
        yield None
    elif isinstance(value, list | tuple):
        yield np.array(len(value))
        for each in value:
            yield from arrays_of(each)
    elif isinstance(value, dict):
        yield from arrays_of(sorted(value.items()))
    else:
        yield np.asarray(value)


def difference(expected, got) -> str | None:
    import numpy as np

    ones, others = list(arrays_of(expected)), list(arrays_of(got))
    if len(ones) != len(others):
        return "another number of tensors"
    for one, other in zip(ones, others, strict=True):
        if one is None or other is None:
            if one is not other:
                return "none in place of a tensor"
            continue
        if one.shape != other.shape or one.dtype.kind != other.dtype.kind:
            return f"{other.dtype}{list(other.shape)} in place of {one.dtype}{list(one.shape)}"
        if one.dtype.kind in "iubOSU":
            if not np.array_equal(one, other):
                return "other elements"
            continue
        limit = TOLERANCE.get(str(one.dtype), 0.05)
        kind = np.complex128 if one.dtype.kind == "c" else np.float64
        one, other = one.astype(kind), other.astype(kind)
        finite = np.isfinite(one)
        if not np.array_equal(one[~finite], other[~finite], equal_nan=True):
            return "not finite in other places"
        worst = np.abs(one[finite] - other[finite]).max(initial=0.0) / (np.abs(one[finite]).max(initial=0.0) or 1.0)
        if worst > limit:
            return f"differs by {worst:.1e}"
    return None


def read(path, value_info):
    """Return what a .pb file holds: an array, a list, or None."""
    import onnx
    from onnx import numpy_helper

    data, kind = path.read_bytes(), value_info.type.WhichOneof("value")
    if kind == "sequence_type":
        return numpy_helper.to_list(onnx.SequenceProto.FromString(data))
    if kind == "optional_type":
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(data))
    return numpy_helper.to_array(onnx.TensorProto.FromString(data))


def data_sets(case, model):
    """Yield inputs by name and expected outputs of each set of a case."""
    held = {value.name for value in model.graph.initializer}
    inputs = [value for value in model.graph.input if model.ir_version >= 4 or value.name not in held]
    for folder in sorted(case.glob("test_data_set_*")):
        feeds = {}
        for number, value in enumerate(inputs):
            path = folder / f"input_{number}.pb"
            if path.exists():
                feeds[value.name] = read(path, value)
        paths = [folder / f"output_{number}.pb" for number in range(len(model.graph.output))]
        expected = [read(p, v) for p, v in zip(paths, model.graph.output, strict=True) if p.exists()]
        yield feeds, expected


def runnable(model):
    """Let float32 or int32 stand at the interface for types that numpy lacks: a Cast leads in, and one leads out."""
    import onnx
    from onnx import TensorProto as Types

    wide = {
        number: Types.FLOAT if "FLOAT" in name else Types.INT32
        for name, number in Types.DataType.items()
        if name in ("BFLOAT16", "INT4", "UINT4", "INT2", "UINT2") or name.startswith(("FLOAT8", "FLOAT4"))
    }
    model = onnx.ModelProto.FromString(model.SerializeToString())
    for values, into in ((model.graph.input, True), (model.graph.output, False)):
        for value in values:
            kind = value.type.tensor_type.elem_type
            if kind not in wide:
                continue
            outer = f"{value.name}__wide"
            value.type.tensor_type.elem_type = wide[kind]
            ends = ([outer], [value.name]) if into else ([value.name], [outer])
            cast = onnx.helper.make_node("Cast", *ends, to=kind if into else wide[kind])
            model.graph.node.insert(0 if into else len(model.graph.node), cast)
            value.name = outer
    return model


class NotFed(Exception):
    """The inputs of the case cannot be given to ONNX Runtime."""


def session_outputs(path, original, feeds_list):
    """Run a model in ONNX Runtime on each of the feeds; raises what it raises."""
    import numpy as np
    import onnx
    import onnxruntime

    model = runnable(onnx.load(path)) if original.graph.node else onnx.load(path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = {argument.name for argument in session.get_inputs()}
    made = []
    for feeds in feeds_list:
        fed = {}
        for name, value in feeds.items():
            if f"{name}__wide" in names:
                kind = np.float32 if value.dtype.kind in "fV" and "int" not in value.dtype.name else np.int32
                fed[f"{name}__wide"] = value.astype(kind)
            elif isinstance(value, np.ndarray) and value.dtype.kind in "SU":
                fed[name] = value.astype(object)
            else:
                fed[name] = value
        made.append(session.run(None, fed))
    return made


def reference_outputs(path, feeds_list):
    import numpy as np
    import onnx
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(onnx.load(path))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return [evaluator.run(None, feeds) for feeds in feeds_list]


def compare(case, sets, model, out, run, same) -> tuple[str, str] | None:
    """Return the outcome of comparing `out` with the original by way of `run`; None where the original does not run."""
    feeds = [each for each, _ in sets]
    try:
        before, again = (run(model_of(case), feeds) for _ in range(2))
    except Exception:
        return None
    random = any(difference(one, other) for one, other in zip(before, again, strict=True))
    try:
        after = run(out, feeds)
    except Exception as error:
        return "broken", f"{type(error).__name__}: {str(error)[:300]}"
    for one, other in zip(before, after, strict=True):
        if random:
            kinds = [[a if a is None else (a.dtype, a.ndim) for a in arrays_of(each)] for each in (one, other)]
            if kinds[0] != kinds[1]:
                return "wrong", "other types of random results"
            continue
        for output, left, right in zip(model.graph.output, one, other, strict=True):
            if (why := difference(left, right)) is not None:
                return "wrong", f"{output.name}: {why}"
    return ("random, same types" if random else same), ""


def judged(case, sets, model, out) -> tuple[str, str]:
    import onnx

    def with_session(path, feeds):
        return session_outputs(path, model, feeds)

    outcome = compare(case, sets, model, out, with_session, "same")
    outcome = outcome or compare(case, sets, model, out, reference_outputs, "same by the reference")
    if outcome is not None:
        return outcome
    try:
        onnx.checker.check_model(onnx.load(model_of(case)))
    except onnx.checker.ValidationError:
        return "checked only", "the original does not check either"
    try:
        onnx.checker.check_model(onnx.load(out))
    except onnx.checker.ValidationError as error:
        return "broken", str(error)[:300]
    return "checked only", "nothing runs the original"


@dataclasses.dataclass(frozen=True)
class Given:
    """The inputs of a case, as samples."""

    feeds: list[dict[str, object]]

    @property
    def layout(self):
        from onnxslim.data.samples import BatchLayout

        return BatchLayout(1)

    @property
    def count(self) -> int:
        return len(self.feeds)

    def read(self, indices, size: int):
        from onnxslim.data import Batch

        return (Batch(self.feeds[index]) for index in (range(self.count) if indices is None else indices))


def run_case(case: pathlib.Path) -> dict[str, object]:
    import numpy as np
    import onnx
    from onnxslim.passes.simplify import Simplify

    import onnxslim
    from onnxslim.data import Samples, no_samples
    from onnxslim.errors import DataError, OnnxslimError
    from onnxslim.model import open_model, save_model
    from onnxslim.pipeline.interface import Context
    from onnxslim.runtime.target import detect_target

    source = model_of(case)
    model = onnx.load(source)
    row: dict[str, object] = {"nodes": len(model.graph.node)}
    try:
        sets = list(data_sets(case, model)) if case.is_dir() else [made_up(model)]
    except Exception as error:  # a file that this onnx cannot read: what remains is to check the result
        sets, row["unread"] = [], f"{type(error).__name__}: {error}"[:200]
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out.onnx"
        started = time.perf_counter()
        try:
            try:
                result = onnxslim.optimize(source, "simplify", output=out, measure=False)
            except DataError as error:  # nothing made up fits: then with the inputs of the case, as a user would
                row["made_up"] = error.what
                given = Samples(Given([feeds for feeds, _ in sets]), "the case")
                result = onnxslim.optimize(source, "simplify", output=out, measure=False, data=given, val=given)
            (record,) = result.report.passes
            row["reason"] = record.reason
            row["notes"] = [f"{n.subject}: {n.reason}"[:200] for n in record.changes if n.action != "kept" and n.reason]
            row["optimize"], row["optimize_why"] = judged(case, sets, model, out)
            row["nodes_after"] = len(onnx.load(out).graph.node)
        except OnnxslimError as error:
            row["optimize"], row["optimize_why"] = "refused", f"{type(error).__name__}: {error.what}"
        except Exception as error:
            row["optimize"], row["optimize_why"] = "crash", f"{type(error).__name__}: {error}"[:300]
        row["seconds"] = round(time.perf_counter() - started, 3)
        alone = pathlib.Path(folder) / "alone.onnx"
        try:
            opened = open_model(source)
            target = detect_target("cpu", 1)
            Simplify().run(opened, Context(opened, no_samples(), target, np.random.default_rng(0)))
            save_model(opened, alone)
            row["alone"], row["alone_why"] = judged(case, sets, model, alone)
        except OnnxslimError as error:
            row["alone"], row["alone_why"] = "refused", f"{type(error).__name__}: {error.what}"
        except Exception as error:
            row["alone"], row["alone_why"] = "crash", f"{type(error).__name__}: {error}"[:300]
    return row


def work() -> None:
    """Read paths of cases from standard input, answer each with a line of JSON."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        case = pathlib.Path(line.strip())
        try:
            row = run_case(case)
        except Exception as error:
            row = {"optimize": "crash", "optimize_why": f"the script: {type(error).__name__}: {error}"[:300]}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    work()
