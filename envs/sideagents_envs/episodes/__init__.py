"""Episodes: files, drawing, fixed lists, and the bundled buildings that they play in."""
