"""Tells what happened: the result as data, as a table, as JSON."""
