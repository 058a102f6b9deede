"""What every training run needs: typed config, run folder, checkpoints, seeds, progress and intervals."""
