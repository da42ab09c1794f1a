"""The pipeline: finds passes, orders them, runs them, and keeps their results or rolls them back."""
