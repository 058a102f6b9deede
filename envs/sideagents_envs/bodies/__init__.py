"""Bodies in a simulator's buildings: put down, moved, measured, looking."""
