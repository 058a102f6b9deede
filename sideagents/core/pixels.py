"""Images as bases and sides take them: checked, in [0, 1], at the size that was asked for."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sideagents.errors import BaseError

_RANGE_SLACK = 0.1  # overshoot of bicubic resizing and small noise; [-1, 1] and 0..255 images lie far outside


def unit_images(images: Tensor, channels: int, owner: str) -> Tensor:
    """Return `images` as float32 in [0, 1].

    images: (B, channels, H, W), uint8 in 0..255 or float in [0, 1]. Raises `BaseError`, naming `owner`, for another
    shape, type or range, and for NaN.
    """
    if images.dim() != 4 or images.shape[1] != channels:
        shape = tuple(images.shape)
        hint = " (channels come first: permute them, or use encode_hwc)" if shape[-1:] == (channels,) else ""
        raise BaseError(f"{owner} takes images of {channels} channels as (B, {channels}, H, W), got {shape}{hint}")
    if images.dtype == torch.uint8:
        return images.float().div_(255.0)
    if not images.is_floating_point():
        raise BaseError(f"{owner} takes uint8 images or floats in [0, 1], got {images.dtype}")
    images = images.float()
    if images.numel():
        low, high = (float(bound) for bound in torch.aminmax(images.detach()))
        if not (low >= -_RANGE_SLACK and high <= 1.0 + _RANGE_SLACK):  # written so that NaN fails too
            raise BaseError(f"{owner} takes float images in [0, 1], got values from {low:.4g} to {high:.4g}")
    return images


def fit_images(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize float images (B, C, H, W) to `size` = (height, width): bilinear, antialiased when they shrink."""
    if tuple(images.shape[-2:]) == size:
        return images
    return functional.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)
