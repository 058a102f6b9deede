"""Many environments together: over processes, as `VecEnv` and as gymnasium environment."""
