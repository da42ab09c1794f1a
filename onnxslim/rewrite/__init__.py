"""The rule language: read, match, apply, prove."""
