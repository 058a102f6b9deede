"""What an agent reads of an environment: codes of the frozen base, stacks of readings."""
