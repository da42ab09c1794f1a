"""Runs models, and measures them while they run."""
