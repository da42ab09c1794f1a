"""The command line: it parses arguments, calls commands, and prints their results.

ONNX Runtime is imported only when a command needs it, so help and completion are immediate.
"""

from onnxslim.cli.entry import main

__all__ = ["main"]
