"""What models learn from samples without labels: what flows through them, and weights that make up for what was cut."""
