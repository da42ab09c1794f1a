"""The metrics, one per module; ``pyproject.toml`` declares them as entry points."""
