"""What onnxslim can be asked for: each command is a function that returns a record; nothing is printed."""
