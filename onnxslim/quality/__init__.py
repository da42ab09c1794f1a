"""Quality of models: fidelity of their outputs, and metrics of their task."""
