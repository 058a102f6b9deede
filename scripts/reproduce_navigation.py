"""Run the navigation tables of the side-tuning paper at a small budget; see `--help`."""

import sys

from sideagents_policies.guard import guarded
from studies.navigation import main

if __name__ == "__main__":
    sys.exit(guarded(main))
