"""The reader of a goal's picture."""

from __future__ import annotations

import torch
from torch import Tensor

from sideagents_policies.agent.readers import Boxes, ImageReader, Observations, ReaderKind, channels_last, symmetric


class GoalImageReader(ImageReader):
    """Lays the picture of the goal over what is seen now, so that the first layer can compare them.

    Where the observation has no image (methods without a side) the picture is read alone.
    """

    where = "camera.width and camera.height"

    def planes(self, boxes: Boxes) -> int:
        """Return how many channels the first layer reads: those of the picture, and of the newest image."""
        self._sees = "rgb" in boxes
        self._rgb_last = self._sees and channels_last(boxes["rgb"])
        return 2 * self.channels if self._sees else self.channels

    def image(self, observations: Observations) -> Tensor:
        """Return picture and image, (B, planes, H, W), in [-1, 1]."""
        picture = super().image(observations)
        if not self._sees:
            return picture
        seen = observations["rgb"].permute(0, 3, 1, 2) if self._rgb_last else observations["rgb"]
        return torch.cat([picture, symmetric(seen[:, -self.channels :])], dim=1)


KIND = ReaderKind(GoalImageReader, "goal_image_reader", camera=True)
