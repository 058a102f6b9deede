"""Run sequences of tasks by side-tuning and other methods; see `--help`."""

import sys

from sideagents_policies.guard import guarded
from studies.lifelong import main

if __name__ == "__main__":
    sys.exit(guarded(main))
