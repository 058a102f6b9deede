"""Where a body can stand and go: clearance, navigation mesh, motion, distances, the shortest-path expert."""
