"""Adapt one ResNet-26 to many domains by many methods; see `--help`."""

import sys

from sideagents_policies.guard import guarded
from studies.domains import main

if __name__ == "__main__":
    sys.exit(guarded(main))
