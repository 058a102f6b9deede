"""Transfer between targets of rendered images, and what the parts of side-tuning do; see `--help`."""

import sys

from sideagents_policies.cli.main import guarded
from sideagents_policies.reproduce_vision import main

if __name__ == "__main__":
    sys.exit(guarded(main))
