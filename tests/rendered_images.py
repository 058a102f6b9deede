"""Small images with targets, in Taskonomy's layout: what is near is bright, and the colour says which room it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

ROOMS = 3


def put_images(root: Path, buildings: int, views: int = 6, size: int = 64, first: int = 0) -> Path:
    """Write `rgb`, `depth_zbuffer`, `segment_semantic` and `class_scene` of so many buildings below root."""
    rng = np.random.default_rng(first)
    for building in range(first, first + buildings):
        for view in range(views):
            depth = np.full((size, size), 4000, np.uint16)
            for _ in range(2):
                top, left = rng.integers(0, size - 20, 2)
                depth[top : top + 20, left : left + 20] = rng.integers(300, 2000)
            depth[0, :2] = 65_535
            room = view % ROOMS
            pixels = np.full((size, size, 3), 40.0)
            pixels[..., room] += 180 - 180 * np.log2(np.minimum(depth, 8000) / 64) / 7
            pictures = {
                "rgb": (pixels + rng.normal(0, 3, pixels.shape)).clip(0, 255).astype(np.uint8),
                "depth_zbuffer": depth,
                "segment_semantic": np.where(depth < 4000, 5, 1).astype(np.uint8),
            }
            for folder, picture in pictures.items():
                path = root / folder / f"house{building}" / f"point_0_view_{view}_domain_{folder}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(path)
            path = root / "class_scene" / f"house{building}" / f"point_0_view_{view}_domain_class_scene.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.eye(ROOMS, dtype=np.float32)[room][None])
    return root
