"""Vectors that several nodes share by chance: `onnxslim.graph.sharing`, under the name that this pass has for it."""

from __future__ import annotations

from onnxslim.graph.sharing import share_again, share_apart

__all__ = ["share_again", "share_apart"]
