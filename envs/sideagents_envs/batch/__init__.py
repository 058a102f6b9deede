"""Many environments together: built from settings, spread over processes, as VecEnv and as gymnasium environment."""
