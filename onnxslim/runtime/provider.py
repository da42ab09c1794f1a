"""Execution providers: each is one TOML file, which an entry point of the group ``onnxslim.providers`` declares.

The entry point names the package that holds the file ``<name>.toml``, or ``package:folder`` where it lies in a folder
of that. Its keys are the fields of `Provider`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.resources
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnxslim.errors import BadOptionValue, ExtensionError
from onnxslim.extensions import Group, broken, extension_names, find_extension
from onnxslim.ort import onnxruntime
from onnxslim.toml import tomllib


@dataclasses.dataclass(frozen=True)
class Device:
    """How the device of a provider is found, where it is not the processor."""

    name: str
    """What it is called where `command` does not tell."""
    command: Sequence[str] = ()
    """Prints its name."""


@dataclasses.dataclass(frozen=True)
class Hints:
    """What the user can do where a provider cannot be used."""

    not_built: str = "install an ONNX Runtime that has it, or use --provider cpu"
    not_found: str = "check the driver, or use --provider cpu"


@dataclasses.dataclass(frozen=True)
class Provider:
    """What onnxslim knows of an execution provider."""

    name: str
    """The word after ``--provider``; the name of the file."""
    execution_provider: str
    """Its name in ONNX Runtime."""
    title: str
    """Its name in messages."""
    preference: int = 0
    """``--provider auto`` takes the provider of ours with the highest whose device is there."""
    memory: str = "cpu"
    """The device of ONNX Runtime that inputs and outputs are bound to: ``cpu``, ``cuda``."""
    own_process: bool = True
    """Whether models are timed in processes of their own. If not, no second copy of a model is opened to time it."""
    node_times: bool = False
    """Whether ONNX Runtime's profile tells how long a node takes."""
    energy: str = ""
    """The counters of its energy: ``rapl``, ``nvml``; empty: there are none."""
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Options of the execution provider."""
    exact_options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Those that differ where each node must compute as it is written."""
    session: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Config entries of the session: ``session.use_device_allocator_for_initializers = "1"``."""
    device: Device | None = None
    """None: the processor."""
    hints: Hints = dataclasses.field(default_factory=Hints)
    int8: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Which ops it runs in int8; `targets/cpu.toml` explains the columns. Empty: none."""
    half: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Which ops it runs in half precision; `targets/cpu.toml` explains the columns. Empty: nobody has said."""

    dynamic: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Which ops it runs in int8 with scales found as it runs; `targets/cpu.toml` explains the columns. Empty: none."""
    weight_only: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Its kernels for weights in blocks of integers; `targets/cpu.toml` explains the columns. Empty: none."""

    @property
    def is_built(self) -> bool:
        """Whether the installed ONNX Runtime has it."""
        return self.execution_provider in onnxruntime.get_available_providers()


def check_target(name: str, where: str) -> None:
    """Raise BadOptionValue where no provider, whose tables could be read, is called `name`; `where` asks for it."""
    names = extension_names(Group.PROVIDERS)
    if name not in names:
        raise BadOptionValue(
            f"there is no target {name!r}", where=where, hint=f"the targets are: {', '.join(('auto', *names))}"
        )


@functools.cache
def load_provider(name: str) -> Provider:
    """Return the provider `name`.

    Raises:
        BadOptionValue: There is no such provider.
        ExtensionError: It comes from another distribution, and its file cannot be read.
    """
    extension = find_extension(Group.PROVIDERS, name)
    if extension is None:
        names = ", ".join(("auto", *extension_names(Group.PROVIDERS)))
        raise BadOptionValue(
            f"there is no execution provider {name!r}", where="--provider", hint=f"the providers are: {names}"
        )
    try:
        package, _, folder = extension.value.partition(":")
        file = importlib.resources.files(package).joinpath(folder, f"{name}.toml")
        content = tomllib.loads(file.read_text(encoding="utf-8"))
        device, hints = content.pop("device", None), content.pop("hints", {})
        return Provider(name, device=None if device is None else Device(**device), hints=Hints(**hints), **content)
    except Exception as error:  # importing its package may raise any exception
        raise broken(Group.PROVIDERS, extension, f"{name}.toml: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def reading_table(provider: str, table: str) -> Iterator[None]:
    """Turn what is wrong with a table of a provider, which may come from another distribution, into our own error.

    Raises:
        ExtensionError: What runs inside raises what reading malformed columns does.
    """
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ExtensionError(
            f"the {table} table of {provider} cannot be read: {type(error).__name__}: {error}",
            where=f"{provider}.toml",
            hint="onnxslim/runtime/targets/cpu.toml explains the columns",
        ) from error


@functools.cache
def device_name(name: str) -> str | None:
    """Return the name of the device of a provider, or None if ONNX Runtime cannot use one here.

    That ONNX Runtime was built for a device does not mean that there is a driver and a device: a session of one node
    tells.
    """
    provider = load_provider(name)
    if not provider.is_built:
        return None
    import onnx.parser  # here: only machines with such a device need it

    text = '<ir_version: 8, opset_import: ["": 17]> probe (float[1] x) => (float[1] y) { y = Relu (x) }'
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            onnx.parser.parse_model(text).SerializeToString(), options, providers=[provider.execution_provider]
        )
    except Exception:  # ONNX Runtime's exceptions have no common base; whichever it is, there is no usable device
        return None
    if provider.execution_provider not in session.get_providers():
        return None
    if provider.device is None:
        return ""
    try:
        answer = subprocess.run(provider.device.command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return provider.device.name
    return answer.stdout.strip() or provider.device.name
