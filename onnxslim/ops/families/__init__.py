"""The ops, a file for each family; `onnxslim.ops.table` finds the files, so that a new op is one file's change."""
