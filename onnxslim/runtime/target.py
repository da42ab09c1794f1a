"""Where a model will run: execution provider, device, instruction set, threads."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import platform
import subprocess
from collections.abc import Iterable

from onnxslim.errors import BadOptionValue, ProviderUnavailable
from onnxslim.extensions import Group, extension_names
from onnxslim.runtime.provider import Provider, device_name, load_provider

MOST_THREADS = 1024
"""ONNX Runtime starts as many as it is told to, or dies of it."""

INSTRUCTION_SETS: tuple[tuple[str, frozenset[str]], ...] = (
    ("amx", frozenset({"amx_int8"})),
    ("avx512_vnni", frozenset({"avx512_vnni", "avx512vnni"})),
    ("avx_vnni", frozenset({"avx_vnni"})),
    ("avx512", frozenset({"avx512f"})),
    ("avx2", frozenset({"avx2"})),
    ("sse4", frozenset({"sse4_1", "sse4.1"})),
    ("neon_dot", frozenset({"asimddp", "feat_dotprod"})),
    ("neon", frozenset({"asimd", "neon", "advsimd", "adv_simd"})),
)
"""Instruction sets, the best first, and the flags that show them (Linux's names, then those of macOS)."""

MACHINES = {"x86_64": "sse2", "amd64": "sse2", "i686": "sse2", "aarch64": "neon", "arm64": "neon"}
"""What a machine certainly has, where it does not tell more."""


@dataclasses.dataclass(frozen=True)
class Target:
    """Where a model will run."""

    provider: str
    """``cpu`` or ``cuda``."""
    device: str
    """The name of the processor or GPU, for people to read."""
    instruction_set: str
    """The best instruction set of the processor: out of `INSTRUCTION_SETS` or `MACHINES`, or the machine's name."""
    threads: int
    """Threads that work within one operator."""

    @property
    def int8_saturates(self) -> bool:
        """Whether sums of two uint8 x int8 products saturate, so that weights must leave a bit free."""
        return self.instruction_set in self.facts.int8.get("saturates", ())

    @property
    def facts(self) -> Provider:
        """What is known of its execution provider."""
        return load_provider(self.provider)


@dataclasses.dataclass(frozen=True)
class Processor:
    """What the operating system tells about the processor."""

    name: str
    flags: frozenset[str]
    cores: int | None = None
    """Physical cores, where the system tells."""


def best_instruction_set(flags: Iterable[str], machine: str = "") -> str:
    """Return the best instruction set that `flags` show; without any, what every `machine` of this kind has."""
    shown = {flag.lower() for flag in flags}
    for name, signs in INSTRUCTION_SETS:
        if signs & shown:
            return name
    return MACHINES.get(machine.lower(), machine.lower() or "unknown")


def read_cpuinfo(text: str) -> Processor:
    """Read Linux's ``/proc/cpuinfo`` (x86: ``flags``, ``model name``; Arm: ``Features``, often no name)."""
    name, flags = "", frozenset[str]()
    cores: set[tuple[str, str]] = set()
    package = "0"
    for line in text.splitlines():
        key, _, entry = (part.strip() for part in line.partition(":"))
        match key.lower():
            case "model name":
                name = name or entry
            case "flags" | "features":
                flags = flags or frozenset(entry.lower().split())
            case "physical id":
                package = entry
            case "core id":
                cores.add((package, entry))
    return Processor(name, flags, len(cores) or None)


def read_sysctl(text: str) -> Processor:
    """Read the output of macOS's ``sysctl -a``, of which only ``hw`` and ``machdep.cpu`` matter here."""
    name, flags, cores = "", set[str](), None
    for line in text.splitlines():
        key, _, entry = (part.strip() for part in line.partition(":"))
        if key == "machdep.cpu.brand_string":
            name = entry
        elif key in ("machdep.cpu.features", "machdep.cpu.leaf7_features"):
            flags |= set(entry.lower().split())
        elif key == "hw.physicalcpu":
            cores = int(entry)
        elif key.startswith("hw.optional.") and entry == "1":
            flags.add(key.rpartition(".")[2].lower())
    return Processor(name, frozenset(flags), cores)


@functools.cache
def processor() -> Processor:
    """Ask the operating system about the processor; what it does not tell is left empty."""
    try:
        if platform.system() == "Linux":
            return read_cpuinfo(pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
        if platform.system() == "Darwin":
            answer = subprocess.run(["sysctl", "-a"], capture_output=True, text=True, timeout=10, check=False)
            return read_sysctl(answer.stdout)
    except (OSError, subprocess.SubprocessError):
        pass  # a system that keeps it to itself: the machine's name has to do
    return Processor(platform.processor(), frozenset())


def usable_cores() -> int:
    """Return how many physical cores this process may use, at least 1.

    Two hardware threads of one core share its multipliers, so that the second slows matrix products down. ONNX Runtime
    counts physical cores too, but does not see that a process was confined to some of them.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, processor().cores or allowed))


def detect_target(provider: str = "auto", threads: int | None = None) -> Target:
    """Return what this machine offers.

    Args:
        provider: The name of a provider, or ``auto``: CUDA where it is, else the CPU.
        threads: Threads within one operator; None: one for each physical core that this process may use.

    Raises:
        BadOptionValue: There is no such provider, or `threads` is out of range.
        ProviderUnavailable: The provider cannot be used here.
        ExtensionError: It comes from another distribution, and cannot be read.
    """
    chosen = None if provider == "auto" else load_provider(provider)
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        hint = f"give 1 to {MOST_THREADS:,}"
        raise BadOptionValue(f"there cannot be {threads:,} threads", where="--threads", hint=hint)
    found = processor()
    instruction_set = best_instruction_set(found.flags, platform.machine())
    count = threads or usable_cores()
    if chosen is None:
        ours = (load_provider(name) for name in extension_names(Group.PROVIDERS, ours=True))
        preferred = sorted(ours, key=lambda candidate: -candidate.preference)
        chosen = next(one for one in preferred if one.device is None or device_name(one.name) is not None)
    if chosen.device is None and chosen.is_built:
        machine = found.name or platform.processor() or platform.machine()
        return Target(chosen.name, machine, instruction_set, count)
    device = device_name(chosen.name)
    if device is None:
        why = f"no {chosen.title} device can be used here"
        raise ProviderUnavailable(
            f"{chosen.title} was asked for, and "
            + (why if chosen.is_built else "the installed ONNX Runtime was built without it"),
            where=f"--provider {chosen.name}",
            hint=chosen.hints.not_found if chosen.is_built else chosen.hints.not_built,
        )
    return Target(chosen.name, device, instruction_set, count)
