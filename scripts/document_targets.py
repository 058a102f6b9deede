"""Draw the targets of rendered images: `python scripts/document_targets.py FOLDER [PICTURE.png]`."""

import sys
from pathlib import Path

from sideagents.train.sheet import target_sheet

if __name__ == "__main__":
    target_sheet(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "docs/img/targets.png"))
