"""Run language tasks by side networks and other methods; see `--help`."""

import sys

from sideagents_policies.guard import guarded
from studies.nlp import main

if __name__ == "__main__":
    sys.exit(guarded(main))
