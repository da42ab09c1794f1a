"""Facts that follow for a model without running it: types, shapes, constants, costs, and coupled channels."""
