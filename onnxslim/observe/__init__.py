"""Statistics of values inside running models, streamed over samples."""
