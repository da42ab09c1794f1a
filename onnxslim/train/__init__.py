"""Training inside ONNX Runtime: a step compiled into one model, and the loop that runs it."""
