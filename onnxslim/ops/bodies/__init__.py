"""What ops are in terms of others, one file for each kind: a module has ``BODIES: Mapping[OpName, Body]``."""
