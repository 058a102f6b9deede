"""Transfer between targets of rendered images, and what the parts of side-tuning do; see `--help`."""

import sys

from sideagents_policies.guard import guarded
from studies.vision import main

if __name__ == "__main__":
    sys.exit(guarded(main))
