"""How good a model still is: fidelity of its outputs, and metrics in the terms of its task."""
