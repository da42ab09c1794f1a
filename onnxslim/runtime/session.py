"""Runs a model: one ONNX Runtime session, silent, on one target."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import os
import pathlib
import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxslim.arrays import Array
from onnxslim.errors import OnnxslimError, ProviderUnavailable, RunError
from onnxslim.model.compressed import is_compressed, load
from onnxslim.model.mapped import release_pages
from onnxslim.model.nesting import main_graphs
from onnxslim.ort import onnxruntime
from onnxslim.runtime.heap import return_freed_memory
from onnxslim.runtime.ort_values import ML_DTYPES, from_runtime, to_runtime
from onnxslim.runtime.target import Target, detect_target

CPU = "CPUExecutionProvider"
"""ONNX Runtime runs on it whatever another provider does not."""

IN_MEMORY_LIMIT = 500_000_000
"""Bytes of weights up to which those that have to be written are written in memory, where they lie twice for a while.
Protobuf ends at 2 GB in any case."""

SMALLEST_APART = 1024
"""Bytes from which on a weight is handed over beside the model, and not written into it."""
APART = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.INT8, ir.DataType.UINT8})
"""Element types of such weights: numpy's own, and none that shapes are made of, which ONNX Runtime asks for early."""

NOISE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : |(?<= : )Load model from .*? failed:")
"""What ONNX Runtime puts in front of its messages: an error code, and the path, which `where` tells."""

DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(string)": np.dtype(object),
    "tensor(bool)": np.dtype(np.bool_),
    **{f"tensor({name})": np.dtype(name) for name in ("int8", "int16", "int32", "int64")},
    **{f"tensor(u{name})": np.dtype(f"u{name}") for name in ("int8", "int16", "int32", "int64")},
    **{name: dtype for name, (dtype, _) in ML_DTYPES.items()},
}
"""ONNX Runtime's names of types, and the numpy type of the arrays that it takes and gives. Strings are objects."""

HALF = "tensor(float16)"

Fetch = Callable[[Any], Iterable[Any]]
"""Makes arrays (lists and dicts of what is no tensor) of the result of a run, in the order of its outputs."""


class Threading(enum.Enum):
    """The threads within one operator: whose they are, and what they do between two runs."""

    SLEEPING = "sleeping"
    """The session's own; they sleep as soon as a run ends, and leave the cores to others."""
    SPINNING = "spinning"
    """The session's own; they spin for some hundredths of a second and are fast to start again: what users have."""
    SHARED = "shared"
    """Those of the process (``onnxruntime.set_global_thread_pool_sizes``), which spin, too."""


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """What a session expects of an input, or promises of an output."""

    name: str
    dtype: np.dtype[Any] | None
    """None: not a tensor (a sequence, a map), or of a type that numpy does not have."""
    shape: tuple[int | str | None, ...]
    """A number, the name of a symbolic dimension, or None where nothing is known about it."""

    @classmethod
    def of(cls, argument: Any) -> TensorSpec:
        """Read an ONNX Runtime ``NodeArg``."""
        shape = argument.shape or ()
        dimensions = tuple(size if isinstance(size, int) and size >= 0 else _symbol(size) for size in shape)
        return cls(argument.name, DTYPES.get(argument.type), dimensions)


OpenSession = Callable[[ir.Model], "Session"]
"""Opens a model on the target."""


def _symbol(size: object) -> str | None:
    return size if isinstance(size, str) and size not in ("", "?") else None


class Session:
    """A loaded model, ready to run. Made by `Session.of`."""

    def __init__(self, runtime: onnxruntime.InferenceSession, target: Target) -> None:
        self._runtime = runtime
        self._device = target.facts.memory
        self.target = target
        self.inputs = tuple(TensorSpec.of(argument) for argument in runtime.get_inputs())
        self.outputs = tuple(TensorSpec.of(argument) for argument in runtime.get_outputs())
        defaults = runtime.get_overridable_initializers()
        self._kinds = {value.name: value.type for value in (*runtime.get_inputs(), *runtime.get_outputs(), *defaults)}
        self._defaults = frozenset(argument.name for argument in defaults)

    @classmethod
    def of(
        cls,
        model: ir.Model | str | pathlib.Path,
        target: Target | None = None,
        *,
        optimize: bool = True,
        pack: bool = True,
        profile: pathlib.Path | None = None,
        optimized: pathlib.Path | None = None,
        threading: Threading = Threading.SLEEPING,
        weights_folder: str | None = None,
    ) -> Session:
        """Open `model` on `target`.

        Args:
            model: A path, or a model in memory. It is not changed, and its weights stay on disk where they are there.
                Large weights in memory are handed over as they are; over 500 MB of others go through a folder.
            target: Where to run; None: what `detect_target` finds.
            optimize: Let ONNX Runtime rewrite the graph; False keeps every node (and TF32 off), for values that count.
            pack: Let it pack weights and change layouts, as it does for users. False opens faster, and copies no
                weights that lie in files of their own: for models that are run a few times, to look at what they give.
            profile: What the names of the files begin with that tell how long each node takes (`end_profile`).
            optimized: Where ONNX Runtime writes the graph that it made of the model, its weights in a file beside it.
            threading: Whose threads work, and what they do between runs; for what is timed.
            weights_folder: Where the external weights of a file lie, if not beside it (see `write_model`).

        Raises:
            RunError: ONNX Runtime refuses the model.
            ProviderUnavailable: The target's execution provider did not start.
        """
        target = target or detect_target()
        config = SessionConfig(optimize, pack, profile, threading, weights_folder, optimized)
        if not isinstance(model, ir.Model):
            packed = is_compressed(model)
            if packed and weights_folder is None:
                config = dataclasses.replace(config, folder=str(pathlib.Path(model).absolute().parent))
            source = load(model) if packed or weights_folder is not None else str(model)
            return cls(_open(source, target, config, where=str(model)), target)
        where = model.graph.name
        apart = {id(value.const_value) for value in model.graph.initializers.values() if _goes_apart(value)}
        if _fits_in_memory(model, apart):
            config = dataclasses.replace(config, folder=next(iter(_folders(model)), None))
            written, weights_apart = external_weights(model)
            return cls(_open(written, target, config, where, weights_apart), target)
        # ONNX Runtime has read or mapped the weights when it returns: on POSIX the files may go then
        with tempfile.TemporaryDirectory(prefix="onnxslim-", ignore_cleanup_errors=True) as folder:
            path, _ = write_model(model, pathlib.Path(folder))
            return cls(_open(str(path), target, config, where), target)

    def run(self, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        """Run once and return the outputs by name.

        Tensors come back as arrays; sequences and maps (as tree ensembles give) as lists and dicts. On CUDA the inputs
        and outputs are bound to the device, and the outputs copied back.

        Args:
            feeds: An array for every input of the session; those with defaults may be left out. Where an input takes
                half precision, float32 will do.
            outputs: Which outputs to compute; None: all.

        Raises:
            RunError: An input or output is missing or unknown, or ONNX Runtime failed.
        """
        names = [spec.name for spec in self.outputs] if outputs is None else list(outputs)
        with runtime_errors():
            execute, fetch = self._ready(feeds, names)
            return dict(zip(names, fetch(execute()), strict=True))

    def prepare(self, feeds: Mapping[str, Any]) -> Callable[[], None]:
        """Return a call that runs the model on `feeds` and drops the outputs, for measurements.

        On CUDA the inputs are copied to the device once, here; the outputs stay there, and the call returns when the
        device is done.

        Raises:
            RunError: As `run` does.
        """
        with runtime_errors():
            execute, _ = self._ready(feeds, [spec.name for spec in self.outputs])

        def call() -> None:
            try:  # `runtime_errors` takes a microsecond, which would be timed as well
                execute()
            except Exception as error:
                raise run_error(error) from error

        return call

    def place(self, array: Array) -> onnxruntime.OrtValue:
        """Return a copy of an array, of one of numpy's own types, on the device of the session."""
        copy = np.array(array, order="C")
        return onnxruntime.OrtValue.ortvalue_from_numpy(copy, self._device, 0)

    def bind(
        self,
        inputs: Mapping[str, onnxruntime.OrtValue],
        replaced: Mapping[str, onnxruntime.OrtValue],
        returned: Sequence[str],
    ) -> Callable[[], list[Array]]:
        """Return a call that runs the model on tensors that are on the device.

        Args:
            inputs: All inputs.
            replaced: Tensors that outputs are written into; none of them may be an input.
            returned: Outputs that the call returns as arrays.
        """
        binding = self._runtime.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in replaced.items():
            binding.bind_ortvalue_output(name, value)
        for name in returned:
            binding.bind_output(name, "cpu")

        def call() -> list[Array]:
            self._runtime.run_with_iobinding(binding)
            binding.synchronize_outputs()
            return [value.numpy() for value in binding.get_outputs()[len(replaced) :]]

        return call

    def end_profile(self) -> pathlib.Path:
        """Stop telling how long each node takes, and return the file that tells (Chrome's trace format, in JSON)."""
        return pathlib.Path(self._runtime.end_profiling())

    def _check(self, feeds: Mapping[str, Any], outputs: Sequence[str]) -> None:
        known = {spec.name for spec in self.inputs}
        for name in feeds:
            if name not in known and name not in self._defaults:
                raise RunError(f"the model has no input {name!r}", hint=f"its inputs are: {', '.join(sorted(known))}")
        missing = sorted(known - set(feeds))
        if missing:
            raise RunError(f"nothing was given for the input {missing[0]!r}", hint=f"missing are: {', '.join(missing)}")
        made = {spec.name for spec in self.outputs}
        for name in outputs:
            if name not in made:
                raise RunError(
                    f"the model has no output {name!r}", hint="check the names of its outputs with: onnxslim inspect"
                )

    def _ready(self, feeds: Mapping[str, Any], outputs: Sequence[str]) -> tuple[Callable[[], Any], Fetch]:
        """Return a call that runs the model on `feeds`, and what makes arrays of the outputs of its result."""
        self._check(feeds, outputs)
        if any(self._kinds.get(name) in ML_DTYPES for name in (*feeds, *outputs)):
            values = {name: to_runtime(np.asarray(array), self._kinds.get(name, "")) for name, array in feeds.items()}
            return lambda: self._runtime.run_with_ort_values(outputs, values), functools.partial(map, from_runtime)
        if self._device != "cpu" and self._can_bind(feeds, outputs):
            taken = {name: self._as_taken(name, array) for name, array in feeds.items()}
            return self._bound(taken, outputs, self._device)
        arrays = {name: self._as_taken(name, array) for name, array in feeds.items()}
        return lambda: self._runtime.run(outputs, arrays), lambda results: results

    def _as_taken(self, name: str, array: Any) -> Any:
        """Return float32 numbers in half precision where the input takes that: a sample fits a model and its half."""
        if self._kinds.get(name) == HALF and getattr(array, "dtype", None) == np.float32:
            return array.astype(np.float16)
        return array

    def _can_bind(self, feeds: Mapping[str, Any], outputs: Sequence[str]) -> bool:
        """Only tensors of numbers have a place on a device."""
        numeric = {spec.name for spec in self.outputs if spec.dtype is not None and spec.dtype != object}
        return all(np.asarray(array).dtype.kind in "fiub" for array in feeds.values()) and set(outputs) <= numeric

    def _bound(self, feeds: Mapping[str, Any], outputs: Sequence[str], device: str) -> tuple[Callable[[], Any], Fetch]:
        """Return what `_ready` does, with inputs and outputs on a device."""
        binding = self._runtime.io_binding()
        for name, array in feeds.items():
            value = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), device, 0)
            binding.bind_ortvalue_input(name, value)
        for name in outputs:
            binding.bind_output(name, device, 0)
        binding.synchronize_inputs()

        def execute() -> None:
            self._runtime.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return execute, lambda _: (value.numpy() for value in binding.get_outputs())


@contextlib.contextmanager
def runtime_errors(where: str | None = None) -> Iterator[None]:
    """Turn what ONNX Runtime raises in the body, which has no common base, into a RunError."""
    try:
        yield
    except OnnxslimError:
        raise
    except Exception as error:
        raise run_error(error, where) from error


def run_error(error: Exception, where: str | None = None) -> RunError:
    """Return ONNX Runtime's `error` as one of ours: the first line of its message, without code and path in front."""
    message = str(error).strip() or type(error).__name__
    first = NOISE.sub("", message.splitlines()[0]).strip()
    return RunError(f"ONNX Runtime says: {first}", where=where)


def write_model(model: ir.Model, folder: pathlib.Path) -> tuple[pathlib.Path, str | None]:
    """Write a model in memory to a file of `folder`, for another process to open.

    Weights that lie on disk stay there, where they lie in one folder; what is in memory is written beside or within.

    Returns:
        The path, and the folder of the weights that were not written (None: none), as `Session.of` takes them.
    """
    path = folder / "model.onnx"
    if _fits_in_memory(model):
        path.write_bytes(ir.to_proto(model).SerializeToString())
        return path, next(iter(_folders(model)), None)
    ir.save(model, path, external_data="model.onnx.data")
    return path, None


def _fits_in_memory(model: ir.Model, apart: Collection[int] = ()) -> bool:
    """Whether a model is written in memory: what is copied there is small, and other weights lie in one folder.

    Args:
        model: The model.
        apart: Ids of the tensors that are handed over beside it.
    """
    copied = (tensor for tensor in _weights(model) if id(tensor) not in apart)
    size = sum(tensor.nbytes for tensor in copied if not isinstance(tensor, ir.ExternalTensor))
    return len(_folders(model)) <= 1 and size <= IN_MEMORY_LIMIT


def _folders(model: ir.Model) -> set[str]:
    """Return the folders in which weights lie that are not in memory."""
    return {os.path.abspath(tensor.base_dir) for tensor in _weights(model) if isinstance(tensor, ir.ExternalTensor)}


def _weights(model: ir.Model) -> list[ir.TensorProtocol]:
    values = (value for graph in main_graphs(model) for value in graph.initializers.values())
    return [value.const_value for value in values if value.const_value is not None]


def _goes_apart(value: ir.Value) -> bool:
    """Whether an initializer of the main graph is handed over beside the model."""
    tensor = value.const_value
    return (
        tensor is not None
        and not isinstance(tensor, ir.ExternalTensor)
        and not value.is_graph_input()
        and bool(value.uses() or value.is_graph_output())  # it drops the others, and misses them then
        and tensor.dtype in APART
        and tensor.nbytes >= SMALLEST_APART
    )


def external_weights(model: ir.Model) -> tuple[bytes, dict[str, onnxruntime.OrtValue]]:
    """Return the model as it is written, with empty places for its large weights, and these by name.

    To write weights and to read them takes longer than all the rest. ONNX Runtime copies what it is handed
    (``AddExternalInitializers`` of its C API), so nothing here need outlive the call.
    """
    copy = model.clone()
    weights: dict[str, onnxruntime.OrtValue] = {}
    for name, value in copy.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or not _goes_apart(value):
            continue
        weights[name] = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(tensor.numpy()))
        shape = ir.Shape(tensor.shape.numpy())
        value.const_value = ir.ExternalTensor("apart", 0, tensor.nbytes, tensor.dtype, shape=shape, name=name)
    return ir.to_proto(copy).SerializeToString(), weights


@dataclasses.dataclass(frozen=True)
class SessionConfig:
    """How a model is opened; see `Session.of`."""

    optimize: bool
    pack: bool
    profile: pathlib.Path | None
    threading: Threading
    folder: str | None = None
    """Where the weights lie that a model in memory only points at."""
    optimized: pathlib.Path | None = None

    def options(self, target: Target) -> onnxruntime.SessionOptions:
        """Return the options of a session on `target`."""
        options = onnxruntime.SessionOptions()
        for key, value in target.facts.session.items():
            options.add_session_config_entry(key, value)
        options.log_severity_level = 4  # what goes wrong reaches us as an exception; stderr belongs to the user
        if self.threading is not Threading.SHARED:  # it warns that they are ignored
            options.intra_op_num_threads = target.threads
            options.inter_op_num_threads = 1
        if self.threading is Threading.SLEEPING:
            options.add_session_config_entry("session.force_spinning_stop", "1")
            # Planned in the first run, it is taken in the second one beside what the first one took: twice as much.
            options.enable_mem_pattern = self.profile is not None or target.facts.memory != "cpu"
        options.use_per_session_threads = self.threading is not Threading.SHARED
        if self.folder is not None:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", self.folder)
        if self.profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(self.profile)
        if self.optimized is not None:
            options.optimized_model_filepath = str(self.optimized)
            name = f"{self.optimized.name}.data"
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", name)
        if not self.pack:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
            options.add_session_config_entry("session.disable_prepacking", "1")
        if not self.optimize:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return options


def _open(
    source: str | bytes,
    target: Target,
    config: SessionConfig,
    where: str | None,
    weights: Mapping[str, onnxruntime.OrtValue] | None = None,
) -> onnxruntime.InferenceSession:
    options = config.options(target)
    if weights:
        options.add_external_initializers(list(weights), list(weights.values()))
    facts = target.facts
    if not facts.is_built:
        raise ProviderUnavailable(
            f"the installed ONNX Runtime was built without {facts.title}", where=where, hint=facts.hints.not_built
        )
    settings = dict(facts.options) if config.optimize else {**facts.options, **facts.exact_options}
    providers: list[Any] = [(facts.execution_provider, settings)]
    if facts.execution_provider != CPU:
        providers.append(CPU)
    return_freed_memory()  # what sessions that are closed have left
    release_pages()  # it maps the same files
    with runtime_errors(where):
        session = onnxruntime.InferenceSession(source, options, providers=providers, enable_fallback=0)
    return_freed_memory()  # weights as they were before they were packed
    if facts.execution_provider not in session.get_providers():
        raise ProviderUnavailable(f"{facts.title} did not start", where=where, hint=facts.hints.not_found)
    return session
