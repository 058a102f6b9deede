"""Images with one of Taskonomy's targets, in memory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from sideagents.data.examples import Totals
from sideagents.data.targets import Target
from sideagents.storage.tensors import tensor_bytes

Key = tuple[str, int, int]  # building, point, view


@dataclass(frozen=True)
class ImageSet:
    """Images and one target, all in memory, as stored on disk: `Examples` of that task.

    images: uint8 (N, 3, H, W). raw: uint8, uint16 or float16 (N, C, H, W), or None when the target is the image; of a
    segmentation uint8 (N, 1, H, W), of a category float16 (N, classes, 1, 1). valid: bool (N, 1, H, W), or None when
    every pixel counts. keys: building, point, view of each image.
    """

    target: Target
    images: Tensor
    raw: Tensor | None
    valid: Tensor | None
    keys: list[Key]

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def buildings(self) -> list[str]:
        """The buildings, sorted."""
        return sorted({building for building, _, _ in self.keys})

    @property
    def outputs(self) -> tuple[int, ...]:
        """An output is a map (channels, H, W), logits per pixel for a segmentation; a category's are (classes,)."""
        if self.target.kind == "category":
            return (cast(Tensor, self.raw).shape[1],)
        return (self.target.channels, *self.images.shape[-2:])

    @property
    def asks_classes(self) -> bool:
        """Whether predictions are right or wrong."""
        return self.target.kind != "map"

    def loss(self, outputs: Tensor, index: Tensor, mirrored: Tensor | None = None) -> Tensor:
        """Return the mean error over valid pixels, by the target's own measure; see `Examples`."""
        errors, weight = self._errors(outputs, index, mirrored)
        return errors.sum() / weight.sum().clamp(min=1.0)

    def evaluate(self, outputs: Tensor, index: Tensor) -> Totals:
        """Return summed errors, and what is right of a segmentation's pixels or of categories; see `Examples`."""
        errors, weight = self._errors(outputs, index, None)
        loss, count = float(errors.double().sum()), float(weight.double().sum())
        if self.target.kind == "map" or self.raw is None:
            return Totals(loss, count)
        raw = self.raw[index].to(outputs.device)
        wanted = raw.squeeze(1) if self.target.kind == "segmentation" else raw.flatten(1).argmax(1)
        right = outputs.argmax(dim=1) == wanted
        return Totals(loss, count, int(right.sum()), right.numel())

    def sharing(self, other: ImageSet) -> ImageSet:
        """Return this set on the images of another where both are of the same views: they are in memory once."""
        same = self.keys == other.keys and self.images.shape == other.images.shape
        return replace(self, images=other.images) if same else self

    def _errors(self, outputs: Tensor, index: Tensor, mirrored: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the error of each pixel (or image) and channel where it counts, 0 elsewhere, and where it does."""
        target, weight = (part.to(outputs.device) for part in self._target(index))
        if mirrored is not None and self.target.kind != "category":
            target, weight = self._mirrored(target, weight, mirrored.to(outputs.device).view(-1, 1, 1, 1))
        if self.target.kind == "segmentation":
            errors = functional.cross_entropy(outputs, target.squeeze(1).long(), reduction="none").unsqueeze(1)
        elif self.target.kind == "category":
            return functional.cross_entropy(outputs, target.flatten(1), reduction="none"), weight[:, 0, 0, 0]
        else:
            errors = outputs - target
            errors = errors.square() if self.target.loss == "l2" else errors.abs()
        return errors * weight, weight.expand_as(errors)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return images in [0, 1] (B, 3, H, W), targets (B, C, H, W) as `outputs`, weights 0 or 1 (B, 1, H, W).

        Maps are in [-1, 1], segmentations and categories as stored.
        """
        return self.images[index].float() / 255, *self._target(index)

    def _target(self, index: Tensor) -> tuple[Tensor, Tensor]:
        if self.raw is None:
            target = self.target.scale(self.images[index])
        elif self.raw.dtype == torch.float16:
            target = self.raw[index].float()
        else:
            target = self.target.scale(self.raw[index])
        height, width = self.images.shape[-2:]
        weight = torch.ones(len(index), 1, height, width) if self.valid is None else self.valid[index].float()
        return target, weight

    def mirror(self, images: Tensor, target: Tensor, weight: Tensor, which: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mirror the samples of a batch where `which` (B,) bool says so, signs of directions included."""
        choose = which.view(-1, 1, 1, 1)
        return torch.where(choose, images.flip(3), images), *self._mirrored(target, weight, choose)

    def _mirrored(self, target: Tensor, weight: Tensor, choose: Tensor) -> tuple[Tensor, Tensor]:
        sign = torch.tensor(self.target.mirrored_sign or (1.0,), device=target.device).view(1, -1, 1, 1)
        return torch.where(choose, target.flip(3) * sign, target), torch.where(choose, weight.flip(3), weight)

    def digest(self) -> str:
        """Return the sha256 hex digest of names and pixels: two data sets with the same digest are the same."""
        digest = hashlib.sha256(repr((self.target.name, self.keys)).encode())
        for tensor in (self.images, self.raw, self.valid):
            if tensor is not None:
                digest.update(tensor_bytes(tensor))
        return digest.hexdigest()
