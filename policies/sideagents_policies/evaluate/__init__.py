"""Agents beside baselines on fixed lists of episodes: rows, tables, plots, films."""
