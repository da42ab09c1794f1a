"""Reads what quantized ops are as ops of floats, where no rule says it."""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Mapping

from onnxslim.model.constants import Operation
from onnxslim.toml import tomllib

DOMAIN = "com.microsoft"


@functools.cache
def _forms() -> Mapping[str, Mapping[str, str]]:
    file = importlib.resources.files(__package__) / "forms.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))


def float_form(kind: str, node: Operation) -> str | None:
    """Return what the table of a kind (``unary``, ``joined``, ``stored``) says of the op of `node`; None: nothing."""
    return _forms()[kind].get(node.op_type) if node.domain == DOMAIN else None
