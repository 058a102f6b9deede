"""Draw the targets of a folder of rendered images into a picture; see `--help`."""

import argparse
import sys
from pathlib import Path

from sideagents.train.sheet import target_sheet
from sideagents_policies.guard import guarded


def main() -> int:
    """Read the folder and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="in Taskonomy's layout, as `sideagents scenes render` writes it")
    parser.add_argument("picture", type=Path, nargs="?", default=Path("docs/img/targets.png"))
    args = parser.parse_args()
    target_sheet(args.folder, args.picture)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
