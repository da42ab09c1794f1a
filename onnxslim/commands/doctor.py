"""What this machine and this installation offer."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping
from typing import Annotated

from onnxslim.installation import NAMESAKE, installed, version
from onnxslim.model import NEWEST_OPSET, OLDEST_OPSET
from onnxslim.ort import onnxruntime
from onnxslim.pipeline.discovery import pass_names
from onnxslim.runtime.energy import energy_source
from onnxslim.runtime.target import Target, detect_target

PACKAGES = ("onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "onnxsim", "numpy", "pillow")
"""Distributions whose versions a report of a bug needs."""


@dataclasses.dataclass(frozen=True)
class Machine:
    """This machine and this installation."""

    onnxslim: Annotated[str, "version of onnxslim"]
    python: Annotated[str, "version of Python"]
    system: Annotated[str, "operating system and kind of processor"]
    packages: Annotated[Mapping[str, str | None], "versions; null where it is not installed"]
    opsets: Annotated[tuple[int, int], "oldest and newest opset that can be read"]
    providers: Annotated[tuple[str, ...], "execution providers that the installed ONNX Runtime was built with"]
    target: Annotated[Target, "what --provider auto means here"]
    int8_saturates: Annotated[bool, "sums of uint8 x int8 products saturate here: quant bounds neighbouring weights"]
    energy: Annotated[str | None, "where energy is read; null where it cannot be measured"]
    passes: Annotated[tuple[str, ...], "the passes that are installed"]
    namesake: Annotated[str | None, "version of the other project called onnxslim, if it is installed as well"]
    energy_reason: str | None = None
    namesake_reason: str | None = None


def examine_machine() -> Machine:
    """Look at this machine; nothing is run but a probe of CUDA where ONNX Runtime was built for it."""
    target = detect_target()
    source, reason = energy_source(target)
    other = installed(NAMESAKE)
    return Machine(
        onnxslim=version(),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        packages={name: installed(name) for name in PACKAGES},
        opsets=(OLDEST_OPSET, NEWEST_OPSET),
        providers=tuple(onnxruntime.get_available_providers()),
        target=target,
        int8_saturates=target.int8_saturates,
        energy=source,
        passes=pass_names(),
        namesake=other,
        energy_reason=reason,
        namesake_reason=None if other else "not installed",
    )
