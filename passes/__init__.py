"""The passes, one per module or folder: the module `x` defines the pass `x`."""
