"""Configurations: read from YAML and overrides, typed, checked; and the user's own code that they name."""
