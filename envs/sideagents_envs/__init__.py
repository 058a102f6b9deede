"""Gymnasium environments for point navigation: scenes, ray-cast renderer, PointNav, occupancy map, expert."""
