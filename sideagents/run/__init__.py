"""What every run leaves: its folder, checkpoints, scalars, figures, intervals."""
