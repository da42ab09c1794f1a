"""What the compiler can do: one pass, one place. A module here named `x` holds the pass `x`."""
