"""The commands: functions that return records and print nothing."""
