"""Where a body can stand and go: voxels, clearance, navigation mesh, motion, distances, the shortest-path expert."""
