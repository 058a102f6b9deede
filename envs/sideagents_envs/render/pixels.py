"""What the files of rendered targets hold: how each quantity becomes pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]

CURVATURE_HALF = 2.0  # 1/m: curvature that lies half way between flat and the end of the scale
_GREY = np.array([0.299, 0.587, 0.114], np.float32)
_WINDOW = 1.5  # pixels: of the structure tensor

# 18 channels, as the side-tuning paper's; what no word names is of class 0
SEMANTIC_CLASSES: dict[str, tuple[str, ...]] = {
    "other": (),
    "wall": ("wall", "facade", "divider"),
    "floor": ("floor",),
    "ceiling": ("ceiling", "roof", "cove", "vault"),
    "door": ("door", "doorway"),
    "window": ("window",),
    "picture": ("painting", "picture", "mirror", "tv", "monitor"),
    "lamp": ("lamp",),
    "table": ("table", "desk", "bar", "console", "counter"),
    "chair": ("chair", "stool", "bench", "pouf"),
    "sofa": ("sofa", "couch", "cushion"),
    "bed": ("bed", "pillow"),
    "shelf": ("wardrobe", "bookshelf", "cabinet", "cupboard", "dresser", "rack", "nightstand"),
    "kitchen": ("stove", "fridge", "hob", "hood", "sink"),
    "bathroom": ("bathtub", "toilet", "washbasin", "tap", "washer", "boiler"),
    "plant": ("plant", "vase", "globe", "sculpture"),
    "carpet": ("rug",),
    "column": ("column", "pedestal", "plinth", "pipe"),
}
ROOM_CLASSES = (
    "other", "corridor", "living", "bedroom", "kitchen", "dining", "bathroom", "library", "storage", "gallery",
    "playroom", "office", "study", "laundry",
)  # fmt: skip
_CLASS_OF = {word: number for number, words in enumerate(SEMANTIC_CLASSES.values()) for word in words}


def curvature_pixels(curvature: NDArray[Any]) -> U8:
    """Return principal curvatures (..., 2) in 1/m as (..., 3) pixels: 127 + 128 k / (|k| + 2), third channel 0.

    127 is flat, 170 a radius of 1 m, 191 of 0.5 m, 223 of 0.167 m; below 127 is concave. The scale never clips, so
    the curvature can be had back: k = 2 s / (1 - |s|) with s = (pixel - 127) / 128.
    """
    pixels = np.zeros((*curvature.shape[:-1], 3), np.uint8)
    share = curvature / (np.abs(curvature) + CURVATURE_HALF)
    pixels[..., :2] = np.rint(np.clip(127 + 128 * share, 0, 255))
    return pixels


def normal_pixels(normals: NDArray[Any]) -> U8:
    """Return unit normals (..., 3) as pixels: 127 + 128 n, limited to 0..255."""
    pixels: U8 = np.rint(np.clip(127 + 128 * normals, 0, 255)).astype(np.uint8)
    return pixels


def depth_pixels(depth: NDArray[Any]) -> U16:
    """Return depth or distance in metres (0: nothing) as 1/512 m, 65535 where nothing was hit."""
    units = np.rint(np.minimum(depth * 512.0, 65534))
    pixels: U16 = np.where(depth > 0, units, 65535).astype(np.uint16)
    return pixels


def reshading_pixels(cosine: NDArray[Any]) -> U8:
    """Return Lambert's shading by a light at the camera: 255 |cos| of the angle between surface and ray."""
    pixels: U8 = np.rint(255.0 * np.clip(np.abs(cosine), 0.0, 1.0)).astype(np.uint8)
    return pixels


def edge_pixels(rgb: U8, sigma: float = 1.0) -> U16:
    """Return 65535 x the gradient (per pixel, grey in [0, 1]) of images (N,H,W,3) after a Gaussian of `sigma` pixels.

    Taskonomy's edge_texture is the same: Canny's first steps, without thinning and thresholds.
    """
    down, right = np.gradient(_smooth(_grey(rgb), sigma), axis=(1, 2))
    return _strength(np.sqrt(down * down + right * right))


def occlusion_pixels(depth: NDArray[Any]) -> U16:
    """Return 65535 x how far depth (N,H,W) in metres jumps between neighbouring pixels, 0 on planes however steep.

    The inverse depth of a plane is linear in the image: e = depth x |its second difference|, the larger of both axes,
    at most 1. Where nothing was hit, and at the border of the image, it is 0.
    """
    inverse = np.divide(1.0, depth, out=np.zeros(depth.shape), where=depth > 0)
    bend = np.zeros(depth.shape)
    bend[:, 1:-1] = np.abs(inverse[:, :-2] - 2 * inverse[:, 1:-1] + inverse[:, 2:])
    across = np.zeros(depth.shape)
    across[:, :, 1:-1] = np.abs(inverse[:, :, :-2] - 2 * inverse[:, :, 1:-1] + inverse[:, :, 2:])
    return _strength(np.maximum(bend, across) * depth)


def keypoints2d_pixels(rgb: U8) -> U16:
    """Return 65535 x the corner response of images (N,H,W,3): the root of the structure tensor's smaller eigenvalue."""
    return _strength(_corners(_smooth(_grey(rgb), 1.0)[..., None]))


def keypoints3d_pixels(normals: NDArray[Any]) -> U16:
    """Return 65535 x the corner response of unit normals (N,H,W,3): where surfaces turn in two directions."""
    return _strength(_corners(_smooth(normals, 0.7)))


def semantic_number(category: str) -> int:
    """Return the number of the class in `SEMANTIC_CLASSES` that an object's category belongs to, 0 for others."""
    return _CLASS_OF.get(category.lower().rstrip("0123456789_. "), 0)


def room_number(room: str) -> int:
    """Return the number in `ROOM_CLASSES` of a room such as `kitchen_2`, 0 for others."""
    word = room.partition("_")[0].lower()
    return ROOM_CLASSES.index(word) if word in ROOM_CLASSES else 0


def _grey(rgb: U8) -> NDArray[np.float32]:
    grey: NDArray[np.float32] = rgb.astype(np.float32) @ _GREY / np.float32(255.0)
    return grey


def _smooth(images: NDArray[Any], sigma: float) -> NDArray[Any]:
    widths = (0.0, sigma, sigma, 0.0)[: images.ndim]
    smooth: NDArray[Any] = gaussian_filter(images, widths)
    return smooth


def _corners(channels: NDArray[Any]) -> F64:
    """Return (N,H,W): the root of the smaller eigenvalue of the gradients' structure tensor over all channels."""
    down, right = np.gradient(channels, axis=(1, 2))
    sums = [(a * b).sum(axis=-1) for a, b in ((down, down), (right, right), (down, right))]
    dd, rr, dr = (_smooth(total, _WINDOW) for total in sums)
    smaller = (dd + rr) / 2 - np.sqrt(((dd - rr) / 2) ** 2 + dr * dr)
    root: F64 = np.sqrt(np.maximum(smaller, 0.0))
    return root


def _strength(values: NDArray[Any]) -> U16:
    pixels: U16 = np.rint(np.minimum(values, 1.0) * 65535).astype(np.uint16)
    return pixels
