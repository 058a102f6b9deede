"""Side-tuning and its relatives: a frozen base, a small trained side network, a learned alpha."""
