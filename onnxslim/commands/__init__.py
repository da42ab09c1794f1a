"""The commands: functions that return records and print nothing, and what these records are made of."""
