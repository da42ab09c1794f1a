"""The meaning of every op: axes, parameters, shapes, relations between channels, resizing, and traits."""
