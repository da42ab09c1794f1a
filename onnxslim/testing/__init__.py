"""Proofs for tests of rules, here and in other packages. No other code imports it."""
