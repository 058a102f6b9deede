"""Training: by reward, by imitation, in one process or several."""
