"""What holds for all tests."""

import os

# No test may wait for the model hub, which is asked five times where there is no network; before transformers loads.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
