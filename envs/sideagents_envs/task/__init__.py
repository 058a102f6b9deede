"""Tasks: reward, success, when an episode ends."""
