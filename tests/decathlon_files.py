"""A domain of the Visual Decathlon on disk, in small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image


def put_domain(root: Path, domain: str = "aircraft", split: str = "train", **changes: Any) -> Path:
    """Write three images (values 10, 20, 30) and their annotations in another order; return the annotation file."""
    images, annotations = [], []
    for number, value in ((3, 30), (1, 10), (2, 20)):
        name = f"data/{domain}/{split}/{number:06}.png"  # not .jpg: exact pixels
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (97, 72), (value, value, value)).save(root / name)
        images.append({"id": 10200000 + number, "width": 97, "height": 72, "file_name": name})
    for number in (1, 2, 3):
        entry = {"id": 10200000 + number, "image_id": 10200000 + number, "category_id": 10000000 + number}
        annotations.append(entry | {"segmentation": [], "area": 0, "bbox": [], "iscrowd": 0})
    categories = [{"id": 10000000 + i, "name": f"plane {i}", "supercategory": domain} for i in (4, 2, 1, 3)]
    table: dict[str, Any] = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    path = root / "annotations" / f"{domain}_{split}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({key: value for key, value in (table | changes).items() if value is not None}))
    return path
