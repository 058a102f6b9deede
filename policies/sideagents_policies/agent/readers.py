"""Readers: what turns one key of the observation into features. Perception and the goal are the extractor's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space_channels_first
from torch import Tensor, nn

from sideagents.errors import SideAgentsError
from sideagents.registry import Registry

Boxes: TypeAlias = Mapping[str, spaces.Box]
Observations: TypeAlias = Mapping[str, Tensor]

_SMALLEST = 36  # pixels of an image that leave something behind the tower's strides
_MOST_CHANNELS = 4
_VECTOR_WIDTH = 64
_DEPTH_SCALE_M = 10.0


@dataclass(frozen=True)
class ReaderKind:
    """How a key is read: `make(key, boxes)` builds a module that takes the observation and has `out_features`.

    module: what the reader is called in the network, and so in checkpoints; camera: blind agents do without it.
    """

    make: Callable[[str, Boxes], nn.Module]
    module: str
    camera: bool = False


READERS: Registry[ReaderKind] = Registry("reader")


def reader_kind(key: str, box: spaces.Box) -> ReaderKind:
    """Return how a key is read: as it is registered, else by its shape: a vector, or an image of 1 to 4 channels.

    Raises `SideAgentsError` for any other shape.
    """
    if key in READERS.names():
        return READERS.get(key)
    if len(box.shape) == 1:
        return ReaderKind(VectorReader, f"{key}_reader")
    if len(box.shape) == 3 and 1 <= image_shape(box)[0] <= _MOST_CHANNELS:
        return ReaderKind(ImageReader, f"{key}_reader", camera=True)
    raise SideAgentsError(
        f"obs[{key!r}] must be a vector, or an image of 1 to {_MOST_CHANNELS} channels, got {box}; "
        "a reader of your own is registered in sideagents_policies.agent.readers.READERS"
    )


def image_shape(box: spaces.Box) -> tuple[int, int, int]:
    """Return channels, height and width of an image, whichever axis its channels are."""
    first, second, third = box.shape
    return (third, first, second) if channels_last(box) else (first, second, third)


def channels_last(box: spaces.Box) -> bool:
    """Tell where the channels of an image are, by the smallest of its axes."""
    return not is_image_space_channels_first(box)


class ImageReader(nn.Module):
    """The Atari tower of the paper's agents for its map, narrower: 84 x 84 pixels -> (32, 7, 7), flat.

    Images are uint8, or floats in [0, 1]; `channels`: how many are read, the first ones, all by default. Raises
    `SideAgentsError` for images that are too small.
    """

    where = "its size"  # in a configuration

    def __init__(self, key: str, boxes: Boxes, channels: int | None = None) -> None:
        super().__init__()
        self.key, self._last = key, channels_last(boxes[key])
        has, *size = image_shape(boxes[key])
        self.channels = has if channels is None else channels
        if not 1 <= self.channels <= has:
            raise SideAgentsError(f"{key}_channels={channels}: obs[{key!r}] has {has} channels")
        if min(size) < _SMALLEST:
            raise SideAgentsError(
                f"obs[{key!r}] has {size[0]} x {size[1]} pixels, at least {_SMALLEST} x {_SMALLEST} are needed "
                f"({self.where} in a configuration)"
            )
        planes = self.planes(boxes)
        self.body = nn.Sequential(
            nn.Conv2d(planes, 16, 8, 4),
            nn.ReLU(),
            nn.Conv2d(16, 32, 4, 2),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, 1),
            nn.ReLU(),
            nn.Flatten(),
        )
        with torch.no_grad():
            self.out_features = int(self.body(torch.zeros(1, planes, *size)).shape[1])
        orthogonal(self.body)

    def planes(self, boxes: Boxes) -> int:
        """Return how many channels the first layer reads."""
        return self.channels

    def image(self, observations: Observations) -> Tensor:
        """Return what the first layer reads, (B, planes, H, W), of images uint8 or in [0, 1]: in [-1, 1]."""
        return symmetric(self.raw(observations)[:, : self.channels])

    def raw(self, observations: Observations) -> Tensor:
        """Return the image (B, C, H, W) as it stands in the observation."""
        image = observations[self.key]
        return image.permute(0, 3, 1, 2) if self._last else image

    def forward(self, observations: Observations) -> Tensor:
        """Return features (B, out_features)."""
        features: Tensor = self.body(self.image(observations))
        return features


class MapReader(ImageReader):
    """Reads the map of visited places."""

    where = "task.map_cells"


class DepthReader(ImageReader):
    """Reads distances in metres."""

    where = "camera.width and camera.height"

    def image(self, observations: Observations) -> Tensor:
        """Return the distances in tens of metres."""
        return self.raw(observations).float() / _DEPTH_SCALE_M


class VectorReader(nn.Module):
    """Reads a vector of any name: its numbers x as sign(x) log(1 + |x|), then one layer of 64."""

    def __init__(self, key: str, boxes: Boxes) -> None:
        super().__init__()
        self.key, self.out_features = key, _VECTOR_WIDTH
        self.layer = nn.Sequential(nn.Linear(math.prod(boxes[key].shape), _VECTOR_WIDTH), nn.ReLU())
        orthogonal(self.layer)

    def forward(self, observations: Observations) -> Tensor:
        """Return features (B, out_features)."""
        values = observations[self.key].float()
        features: Tensor = self.layer(values.sign() * values.abs().log1p())
        return features


def symmetric(image: Tensor) -> Tensor:
    """Return an image in [-1, 1], in autocast's dtype, from uint8 or from floats in [0, 1]."""
    device = image.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
    middle = 127.5 if image.dtype == torch.uint8 else 0.5
    return image.to(dtype, copy=True).sub_(middle).mul_(1.0 / middle)


def orthogonal(module: nn.Module) -> None:
    """Initialise as PPO's networks are: orthogonal with gain sqrt(2), biases 0."""
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            nn.init.orthogonal_(part.weight, math.sqrt(2.0))
            nn.init.zeros_(part.bias) if part.bias is not None else None


READERS.register("map", ReaderKind(MapReader, "map_tower"))
READERS.register("depth", ReaderKind(DepthReader, "depth_tower", camera=True))
READERS.register("goal_image", "sideagents_policies.agent.goal_image:KIND")
