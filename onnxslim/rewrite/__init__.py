"""The rule language: reading, matching and applying rules."""
