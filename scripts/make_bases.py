"""`make bases`: render the training buildings, pretrain every shipped base, probe them."""

import sys

from sideagents_policies.cli.main import guarded
from sideagents_policies.make_bases import main

if __name__ == "__main__":
    sys.exit(guarded(main))
