"""What can be run without an environment: one file for each kind."""
