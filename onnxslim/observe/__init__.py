"""Looks inside running models: statistics of values, streamed over samples."""
