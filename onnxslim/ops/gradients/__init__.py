"""Gradients of ops, a file for each family: formulas in `*.grads`, and in Python what hangs on shapes or attributes."""
