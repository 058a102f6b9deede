"""What is observed: spaces, and the map of visited places."""
