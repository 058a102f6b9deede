"""Run language tasks by side networks and their rivals; see `--help`."""

import sys

from sideagents_policies.cli.main import guarded
from sideagents_policies.reproduce_nlp import main

if __name__ == "__main__":
    sys.exit(guarded(main))
