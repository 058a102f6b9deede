"""Run the navigation tables of the side-tuning paper at a small budget; see `--help`."""

import sys

from sideagents_policies.cli.main import guarded
from sideagents_policies.reproduce import main

if __name__ == "__main__":
    sys.exit(guarded(main))
