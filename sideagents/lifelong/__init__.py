"""Lifelong learning: the rivals of side-tuning and the metrics that compare them (paper, section 4.2)."""
