"""Finds passes, puts them in order, runs them, and keeps what holds."""
