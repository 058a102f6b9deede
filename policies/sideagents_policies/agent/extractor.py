"""From an observation to features: side-tuned perception, occupancy map and goal, as in the paper's agents."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import Self

from sideagents.bases import load_base
from sideagents.core.alpha import refuse_unmoved
from sideagents.core.base import FrozenBase
from sideagents.core.merge import code_groups
from sideagents.core.methods import build_perception
from sideagents.core.sidetuned import SideTuned
from sideagents.errors import CheckpointError, SideAgentsError
from sideagents_policies.agent.readers import MapReader, channels_last, image_shape, orthogonal, reader_kind

_OWN = ("rgb", "base", "goal")  # what perception and trunk read; everything else has a reader
UNREAD = ("expert",)  # labels for losses
_RGB = 3
_GOAL_WIDTH = 64


class GoalFeatures(nn.Module):
    """Scale goal readings (B, 3k) = k times (r in metres, cos phi, sin phi), newest last, for a network.

    Each reading gives r / 10, log(1 + r) / 2, cos, sin; each pair of neighbours the change of r in steps of 0.25 m and
    the sine of the turn of the goal's direction, five times: together they show whether the last move was blocked.
    Readings before the episode's start are zeros and stay zeros. Output (B, 4k + 2(k - 1)).
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        if size % 3 or not size:
            raise SideAgentsError(f"obs['goal'] holds readings of 3 numbers (r, cos, sin), got {size} numbers")
        self.out_features = 6 * (size // 3) - 2

    def forward(self, goal: Tensor) -> Tensor:
        """Scale the readings."""
        r, cos, sin = goal.float().reshape(len(goal), -1, 3).unbind(2)
        known = (cos.square() + sin.square() > 0.5).float()
        both = known[:, 1:] * known[:, :-1]
        closer = both * (4.0 * (r[:, 1:] - r[:, :-1])).clamp(-2.0, 2.0)
        turned = both * 5.0 * (sin[:, 1:] * cos[:, :-1] - cos[:, 1:] * sin[:, :-1])
        return torch.cat([r / 10.0, torch.log1p(r.clamp(min=0.0)) / 2.0, cos, sin, closer, turned], dim=1)


class SideTunedExtractor(BaseFeaturesExtractor):
    """Perception merged from base and side, group-normed, joined by the goal; map tower; two hidden layers.

    Observation: a plain image, or a Dict with any of `rgb` (image, H x W x 3 or 3 x H x W), `base` (codes of
    `EncodeOnce`, (kC, h, w) when k are stacked), `map` (image), `goal` (3k numbers), `depth` (image in metres), and
    vectors and images of any other name, see `readers`. Images are uint8, or float in [0, 1]; rgb of 3k channels holds
    k frames. Output (B, hidden), as in the paper's policy at a size for 64 x 64 images.

    With `base` in the observation the frozen base is never run here; without it, it runs inside, without gradient.
    All of it stays in eval mode, so that acting and learning compute the same: BatchNorm keeps its statistics (those of
    a base that is trained from scratch are measured on random pictures), dropout is off.
    When as many images as codes are stacked, each pair is merged with the one alpha (the paper's agents); otherwise
    the newest code is merged with the side's and older base codes are put beside it.

    base: name for `load_base` (with `weights` where the name needs a file), or a FrozenBase, which SB3's own `save`
    pickles along with the other arguments. method, side, merge, alpha, side_init: see `build_perception`.
    use_rgb=False: a blind agent; use_map=False: without the map; map_channels: how many channels of the map are read,
    the first ones, all by default (2 of our occupancy map, whose third is always empty). hidden: width of the features.
    Raises `SideAgentsError` for an observation it cannot read.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        base: str | FrozenBase = "curvature",
        weights: str | None = None,
        method: str = "sidetune",
        side: str = "conv",
        merge: str = "alpha",
        alpha: str | float = "learned",
        side_init: str = "default",
        hidden: int = 512,
        use_rgb: bool = True,
        use_map: bool = True,
        map_channels: int | None = None,
    ) -> None:
        super().__init__(observation_space, features_dim=hidden)
        self._spaces = _readable(observation_space)
        boxes = self._spaces
        self._rgb_last = "rgb" in boxes and channels_last(boxes["rgb"])
        self.perception: SideTuned | None = None
        self.trunk: _Trunk | None = None
        self.goal_features: GoalFeatures | None = None
        self.goal_layer: nn.Module | None = None
        self._readers: list[str] = []  # by the names of their modules
        width = 0
        if "goal" in boxes:
            self.goal_features = GoalFeatures(math.prod(boxes["goal"].shape))
            self.goal_layer = nn.Sequential(nn.Linear(self.goal_features.out_features, _GOAL_WIDTH), nn.ReLU())
            width += _GOAL_WIDTH
        if use_rgb and ("rgb" in boxes or "base" in boxes):
            frozen = load_base(base, weights=weights) if isinstance(base, str) else base
            size = image_shape(boxes["rgb"])[1:] if "rgb" in boxes else None
            self.perception = build_perception(method, frozen, side, merge, alpha, side_init, input_size=size)
            _require_statistics(self.perception)
            self.frames = self._count_frames(frozen)
            goal = self.goal_features.out_features if self.goal_features is not None else 0
            self.trunk = _Trunk(frozen.out_shape, self.frames, goal)
            width += self.trunk.out_features
        for key in sorted(boxes.keys() - set(_OWN), key=_order):
            kind = reader_kind(key, boxes[key])
            if (key == "map" and not use_map) or (kind.camera and not use_rgb):
                continue
            made: Any = MapReader(key, boxes, map_channels) if key == "map" else kind.make(key, boxes)
            self.add_module(kind.module, made)
            self._readers.append(kind.module)
            width += made.out_features
        if not width:
            raise SideAgentsError(f"nothing to see: observation {list(boxes)}, use_rgb={use_rgb}, use_map={use_map}")
        self.head = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        orthogonal(self.head)

    @property
    def base(self) -> nn.Module | None:
        """The frozen base, or None (blind agents, and methods that train theirs)."""
        frozen = self.perception is not None and self.perception.uses_frozen_base
        return self.perception.base if self.perception is not None and frozen else None

    def forward(self, observations: Mapping[str, Tensor] | Tensor) -> Tensor:
        """Return features (B, hidden) of raw observations, or of those that SB3 has preprocessed."""
        obs = observations if isinstance(observations, Mapping) else {"rgb": observations}
        parts: list[Tensor] = []
        goal = None
        if self.goal_features is not None and self.goal_layer is not None:
            goal = self.goal_features(obs["goal"])
            parts.append(self.goal_layer(goal))
        if self.trunk is not None:
            parts.append(self.trunk(self.merged_code(obs), goal))
        parts += [self.get_submodule(name)(obs) for name in self._readers]
        features: Tensor = self.head(torch.cat(parts, dim=1))
        refuse_unmoved(self, features, "features_extractor.set_progress(fraction, epochs) before each rollout")
        return features

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode: acting and learning must compute the same, in BatchNorm and dropout of a side too."""
        return super().train(False)

    def merged_code(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Return the codes the trunk reads, (B, kC, h, w) or (B, kC): merged ones, oldest first."""
        perception = self.perception
        assert perception is not None
        images = self._images(obs) if "rgb" in self._spaces else None
        codes = obs["base"].float() if "base" in obs and perception.reads_codes else None
        pictures = images.shape[1] // _RGB if images is not None else 0
        channels = perception.out_shape[0]
        if pictures > 1 and (codes is None or codes.shape[1] == pictures * channels):
            assert images is not None
            flat = None if codes is None else codes.reshape(-1, *perception.out_shape)
            merged: Tensor = perception(images.reshape(-1, _RGB, *images.shape[2:]), flat)
            return merged.reshape(len(images), -1, *perception.out_shape[1:])
        newest = images[:, -_RGB:] if images is not None and pictures > 1 else images
        if codes is None or self.frames == 1:
            merged = perception(newest, codes)
            return merged
        return torch.cat([codes[:, :-channels], perception(newest, codes[:, -channels:])], dim=1)

    def alpha_value(self) -> float:
        """Return the weight of the base now; nan where there is none."""
        return self.perception.alpha_value() if self.perception is not None else float("nan")

    def set_progress(self, fraction: float, epochs: float = 0.0) -> None:
        """Move alpha's curriculum: `fraction` of training done in [0, 1], `epochs` done."""
        if self.perception is not None:
            self.perception.set_progress(fraction, epochs)

    def get_extra_state(self) -> Tensor:
        """Return the base's fingerprint as bytes: it stands in checkpoints in the place of the base's tensors."""
        base = self.base
        text = base.fingerprint if isinstance(base, FrozenBase) else ""
        return torch.frombuffer(bytearray(text.encode() or b"-"), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Raise `CheckpointError` when the checkpoint was trained on another base."""
        mine = self.get_extra_state()
        if not isinstance(state, Tensor) or state.tolist() != mine.tolist():
            raise CheckpointError(
                f"trained on the base with fingerprint {_fingerprint_text(state)}..., "
                f"but {getattr(self.base, 'name', None)!r} here has "
                f"{bytes(mine.tolist()).decode()[:12]}...; load the base (and weights) it was trained on"
            )

    def _images(self, obs: Mapping[str, Tensor]) -> Tensor:
        return obs["rgb"].permute(0, 3, 1, 2) if self._rgb_last else obs["rgb"]

    def _count_frames(self, base: FrozenBase) -> int:
        """Return how many codes the trunk reads; check that images, codes and base belong together."""
        assert self.perception is not None
        boxes = self._spaces
        pictures = 1
        if "rgb" in boxes and (self.perception.needs_images or "base" not in boxes):
            channels = image_shape(boxes["rgb"])[0]
            if base.channels != _RGB or channels % _RGB:
                raise SideAgentsError(f"base {base.name!r} reads {base.channels} channels, the images have {channels}")
            pictures = channels // _RGB
        elif "base" not in boxes or self.perception.needs_images:
            raise SideAgentsError("this method needs images: obs['rgb'] is missing")
        if "base" not in boxes or not self.perception.reads_codes:
            return pictures
        shape = boxes["base"].shape
        if len(shape) != len(base.out_shape) or shape[1:] != base.out_shape[1:] or shape[0] % base.out_shape[0]:
            raise SideAgentsError(
                f"obs['base'] has shape {shape}, but base {base.name!r} makes {base.out_shape}: EncodeOnce got another"
            )
        return shape[0] // base.out_shape[0]


def _require_statistics(module: nn.Module) -> None:
    """Raise `SideAgentsError` for BatchNorm whose result depends on the other observations of a batch, in eval too."""
    for name, part in module.named_modules():
        if isinstance(part, _BatchNorm) and part.running_mean is None:
            raise SideAgentsError(
                f"{name}: BatchNorm with track_running_stats=False computes one thing when the agent acts and another "
                "when it learns; keep its statistics, or take GroupNorm"
            )


def _order(key: str) -> tuple[int, str]:
    """Keep the order of what was there first: weights are drawn, and stand in checkpoints, one after another."""
    return (("map", "depth").index(key) if key in ("map", "depth") else 2, key)


class _Trunk(nn.Module):
    """Group norm of the codes, goal tiled over them, convolutions, flat: (B, kC, h, w) -> (B, out_features).

    On grids of 16 and more one strided convolution of 32 channels, as in the paper's agents; on the smaller ones of
    64 x 64 images two of 64 channels, the second strided. Codes without a grid (vectors) are normed and joined by the
    goal.
    """

    def __init__(self, code: tuple[int, ...], frames: int, goal: int) -> None:
        super().__init__()
        channels = frames * code[0]
        # four neighbouring channels of one frame share a group, as in the paper's agents (more in wide codes)
        self.norm = nn.GroupNorm(frames * code_groups(code[0]), channels, affine=False)
        self.conv: nn.Module = nn.Identity()
        self.out_features = channels + goal
        if len(code) == 3 and min(code[1:]) >= 16:
            self.conv = nn.Sequential(nn.Conv2d(channels + goal, 32, 4, 2), nn.ReLU(), nn.Flatten())
            self.out_features = 32 * math.prod((side - 4) // 2 + 1 for side in code[1:])
        elif len(code) == 3:
            first, second = nn.Conv2d(channels + goal, 64, 3, 1, 1), nn.Conv2d(64, 64, 3, 2, 1)
            self.conv = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten())
            self.out_features = 64 * math.prod((side + 1) // 2 for side in code[1:])

    def forward(self, code: Tensor, goal: Tensor | None) -> Tensor:
        normed = self.norm(code)
        if goal is not None:
            tiled = goal.to(normed.dtype).reshape(*goal.shape, *[1] * (code.dim() - 2))
            normed = torch.cat([normed, tiled.expand(*goal.shape, *code.shape[2:])], dim=1)
        features: Tensor = self.conv(normed)
        return features


def _readable(space: spaces.Space[Any]) -> dict[str, spaces.Box]:
    """Return the Boxes of an observation that the network may read; a plain image is `rgb`."""
    parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {"rgb": space}
    boxes: dict[str, spaces.Box] = {}
    for key, part in parts.items():
        if key in UNREAD:
            continue
        if not isinstance(part, spaces.Box) or (key in ("rgb", "map", "depth") and len(part.shape) != 3):
            raise SideAgentsError(f"obs[{key!r}] must be {'an image' if key != 'goal' else 'a vector'}, got {part}")
        boxes[key] = part
    return boxes


def _fingerprint_text(state: object) -> str:
    """Return the start of a saved fingerprint, which may be anything in a damaged file."""
    if not isinstance(state, Tensor) or state.dtype != torch.uint8 or state.dim() != 1:
        return "none"
    text = bytes(state.tolist()).decode(errors="replace")[:12]
    return text if text.isprintable() else "none"
