"""Demonstrations of the expert: collected, stored, read as labelled frames."""
