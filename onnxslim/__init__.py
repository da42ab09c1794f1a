"""onnxslim: a compiler from ONNX to ONNX."""
