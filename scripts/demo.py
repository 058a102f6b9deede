"""`make demo`: train an agent for a few minutes and show what it does in buildings it has never seen."""

import sys

from sideagents_policies.cli.main import guarded
from sideagents_policies.demo import demo

if __name__ == "__main__":
    sys.exit(guarded(demo))
