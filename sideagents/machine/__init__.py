"""What this machine computes with: devices, precision, seeds."""
