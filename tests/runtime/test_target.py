"""What a processor can do, read from what the operating system says about it."""

import subprocess

import onnxruntime
import pytest

from onnxslim.errors import BadOptionValue, ProviderUnavailable
from onnxslim.runtime import provider
from onnxslim.runtime import target as module
from onnxslim.runtime.target import Target, best_instruction_set, detect_target, read_cpuinfo, read_sysctl

EPYC = """\
processor	: 0
model name	: AMD EPYC 7763 64-Core Processor
physical id	: 0
core id		: 0
flags		: fpu sse sse2 ssse3 sse4_1 sse4_2 avx f16c avx2 bmi2

processor	: 1
model name	: AMD EPYC 7763 64-Core Processor
physical id	: 0
core id		: 0
flags		: fpu sse sse2 ssse3 sse4_1 sse4_2 avx f16c avx2 bmi2

processor	: 2
physical id	: 1
core id		: 0
flags		: fpu sse sse2
"""
GRAVITON = """\
processor	: 0
BogoMIPS	: 243.75
Features	: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm asimddp
"""
APPLE = """\
hw.physicalcpu: 8
hw.optional.neon: 1
hw.optional.arm.FEAT_DotProd: 1
hw.optional.arm.FEAT_SME: 0
machdep.cpu.brand_string: Apple M2
"""
MAC_INTEL = """\
hw.physicalcpu: 4
machdep.cpu.brand_string: Intel(R) Core(TM) i5
machdep.cpu.features: FPU SSE4.1 SSE4.2 AVX1.0
machdep.cpu.leaf7_features: RDWRFSGS BMI1 AVX2
"""


@pytest.mark.parametrize(
    ("flags", "machine", "expected"),
    [
        ("amx_int8 avx512_vnni avx512f avx2", "x86_64", "amx"),
        ("avx512_vnni avx512f avx2 avx_vnni", "x86_64", "avx512_vnni"),
        ("avx_vnni avx2", "x86_64", "avx_vnni"),
        ("avx512f avx2 sse4_1", "x86_64", "avx512"),
        ("AVX2 SSE4_1", "x86_64", "avx2"),
        ("sse4_1 sse2", "x86_64", "sse4"),
        ("asimd asimddp", "aarch64", "neon_dot"),
        ("fp asimd", "aarch64", "neon"),
        ("", "x86_64", "sse2"),
        ("", "AMD64", "sse2"),
        ("", "arm64", "neon"),
        ("", "riscv64", "riscv64"),
        ("", "", "unknown"),
    ],
)
def test_the_best_instruction_set_is_found(flags: str, machine: str, expected: str) -> None:
    assert best_instruction_set(flags.split(), machine) == expected


@pytest.mark.parametrize(
    ("provider", "instruction_set", "saturates"),
    [
        ("cpu", "avx2", True),
        ("cpu", "avx512", True),
        ("cpu", "sse4", True),
        ("cpu", "sse2", True),
        ("cpu", "avx512_vnni", False),
        ("cpu", "avx_vnni", False),
        ("cpu", "amx", False),
        ("cpu", "neon", False),
        ("cpu", "neon_dot", False),
        ("cuda", "avx2", False),
    ],
)
def test_only_x86_without_vnni_saturates(provider: str, instruction_set: str, saturates: bool) -> None:
    assert Target(provider, "", instruction_set, 1).int8_saturates is saturates


def test_cpuinfo_is_read() -> None:
    found = read_cpuinfo(EPYC)
    assert found.name == "AMD EPYC 7763 64-Core Processor"
    assert "avx2" in found.flags
    assert found.cores == 2  # the first two are threads of one core
    arm = read_cpuinfo(GRAVITON)
    assert (arm.name, arm.cores) == ("", None)
    assert best_instruction_set(arm.flags) == "neon_dot"


def test_sysctl_is_read() -> None:
    apple, intel = read_sysctl(APPLE), read_sysctl(MAC_INTEL)
    assert (apple.name, apple.cores, best_instruction_set(apple.flags)) == ("Apple M2", 8, "neon_dot")
    assert "feat_sme" not in apple.flags
    assert (intel.cores, best_instruction_set(intel.flags)) == (4, "avx2")


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Forget what was found out about this machine, before and after."""
    monkeypatch.setattr(module, "processor", module.processor.__wrapped__)
    monkeypatch.setattr(module, "device_name", provider.device_name.__wrapped__)
    return monkeypatch


def test_macos_is_asked_with_sysctl(fresh: pytest.MonkeyPatch) -> None:
    fresh.setattr(module.platform, "system", lambda: "Darwin")
    fresh.setattr(module.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, APPLE, ""))
    assert module.processor().name == "Apple M2"


def test_a_silent_system_is_no_error(fresh: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError

    fresh.setattr(module.platform, "system", lambda: "Darwin")
    fresh.setattr(module.subprocess, "run", missing)
    assert module.processor().flags == frozenset()
    fresh.setattr(module.platform, "system", lambda: "Windows")
    assert module.processor().flags == frozenset()


def test_this_machine_is_detected() -> None:
    found = detect_target("cpu", threads=3)
    assert (found.provider, found.threads) == ("cpu", 3)
    assert found.device
    assert found.instruction_set
    assert detect_target("cpu").threads >= 1


@pytest.mark.parametrize(("name", "threads"), [("tpu", None), ("cpu", 0)])
def test_nonsense_is_refused(name: str, threads: int | None) -> None:
    with pytest.raises(BadOptionValue) as caught:
        detect_target(name, threads)
    assert caught.value.hint


def test_cuda_without_cuda_is_refused_with_what_to_do(fresh: pytest.MonkeyPatch) -> None:
    fresh.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ProviderUnavailable, match="built without it") as caught:
        detect_target("cuda")
    assert "onnxruntime-gpu" in (caught.value.hint or "")
    assert detect_target("auto").provider == "cpu"


class Runtime:
    """A session of an ONNX Runtime that was built for CUDA; `started` are the providers that came up."""

    started = ("CPUExecutionProvider",)

    def __init__(self, *_: object, **__: object) -> None:
        if not self.started:
            raise RuntimeError("no driver")

    def get_providers(self) -> list[str]:
        return list(self.started)


@pytest.mark.parametrize("started", [("CPUExecutionProvider",), ()])
def test_a_build_for_cuda_is_not_yet_a_device(fresh: pytest.MonkeyPatch, started: tuple[str, ...]) -> None:
    fresh.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    fresh.setattr(onnxruntime, "InferenceSession", type("None", (Runtime,), {"started": started}))
    assert detect_target("auto").provider == "cpu"
    with pytest.raises(ProviderUnavailable, match="no CUDA device"):
        detect_target("cuda")


@pytest.mark.parametrize(
    ("answer", "name"), [("NVIDIA H100\n", "NVIDIA H100"), ("", "CUDA device 0"), (None, "CUDA device 0")]
)
def test_a_device_is_named(fresh: pytest.MonkeyPatch, answer: str | None, name: str) -> None:
    def run(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        if answer is None:
            raise FileNotFoundError
        return subprocess.CompletedProcess([], 0, answer, "")

    fresh.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    fresh.setattr(onnxruntime, "InferenceSession", type("Some", (Runtime,), {"started": ("CUDAExecutionProvider",)}))
    fresh.setattr(provider.subprocess, "run", run)
    found = detect_target("auto")
    assert (found.provider, found.device) == ("cuda", name)
