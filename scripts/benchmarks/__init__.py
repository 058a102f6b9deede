"""Speed and memory, as rows."""
