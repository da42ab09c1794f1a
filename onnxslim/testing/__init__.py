"""Proofs for tests, ours and those of authors of passes: rules on random tensors. No other code imports it."""
