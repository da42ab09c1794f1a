"""Reverse-mode differentiation of graphs: vector-Jacobian products, node by node, as nodes of the same graph."""
