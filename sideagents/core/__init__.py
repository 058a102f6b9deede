"""The method: frozen base, side network, merge, alpha, and `SideTuned`, which puts them together."""
