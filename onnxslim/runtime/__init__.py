"""Runs models in ONNX Runtime, and measures latency, memory and energy."""
