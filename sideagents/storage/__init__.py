"""Files: never half written, read within limits, never run."""
