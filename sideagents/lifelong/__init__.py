"""Ways to learn one task after another, and the metrics that compare them (side-tuning paper, section 4.2)."""
