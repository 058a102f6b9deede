"""Pictures by ray casting, and targets of pixels computed with them."""
