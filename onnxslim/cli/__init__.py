"""The command line. It parses, calls and prints; what is worth knowing is worked out on the floors below.

Nothing here imports ONNX Runtime before a command needs it, so that help and completion come at once.
"""

from onnxslim.cli.entry import main

__all__ = ["main"]
