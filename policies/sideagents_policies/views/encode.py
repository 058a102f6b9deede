"""Run the frozen base once for every environment step, batched over the environments."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.preprocessing import is_image_space_channels_first
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from sideagents.bases import load_base
from sideagents.core.base import FrozenBase
from sideagents.errors import SideAgentsError, nearest
from sideagents.machine.precision import base_dtype
from sideagents_policies.views.stack import Observation, StepReturn


class EncodeOnce(VecEnvWrapper):
    """Add obs["base"], the frozen base's code of the current image, (C, h, w).

    One forward pass for each vector step serves all environments, and the terminal observations of that step (SB3
    bootstraps time limits from them) ride in the same batch; PPO's and cloning's epochs read the stored code.
    A plain image space becomes a Dict {"rgb", "base"}. Put `StackKeys` outside: it stacks codes, not encodings.

    `base` is a name for `load_base` (with `weights` where the name needs a file) or a FrozenBase; `keep_rgb=False`
    drops the image, for methods without a side network; `precision` is what a base given by name computes in;
    `dtype` is that of the stored code, float32 or float16. Counters: `env_steps`; `base_forwards`, the frames encoded
    to act on; `extra_forwards`, those of resets and of terminal observations.
    Raises `SideAgentsError` when there is no image, `BaseError` when the base cannot take its channels.
    """

    def __init__(
        self,
        venv: VecEnv,
        base: str | FrozenBase,
        *,
        weights: str | None = None,
        keep_rgb: bool = True,
        precision: str = "float32",
        device: str | torch.device = "cpu",
        dtype: str = "float32",
        image_key: str = "rgb",
    ) -> None:
        if dtype not in ("float32", "float16"):
            raise SideAgentsError(f"EncodeOnce: dtype must be float32 or float16, got {dtype!r}")
        space = venv.observation_space
        parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {image_key: space}
        image = parts.get(image_key)
        if not isinstance(image, spaces.Box) or len(image.shape) != 3:
            raise SideAgentsError(f"EncodeOnce: no image {image_key!r}{nearest(image_key, parts)} ({list(parts)})")
        if image.dtype != np.uint8 and float(image.high.max()) > 1.0:
            raise SideAgentsError(f"EncodeOnce: {image_key!r} must be uint8, or floats in [0, 1], got {image}")
        if isinstance(base, str):
            base = load_base(base, weights=weights, dtype=base_dtype(precision, device))
        self.base = base.to(device)
        self.encoded = self.extra_forwards = self.env_steps = 0
        self._key, self._keep = image_key, keep_rgb
        self._plain = not isinstance(space, spaces.Dict)
        self._last = not is_image_space_channels_first(image)
        self._device, self._dtype = torch.device(device), np.dtype(dtype)
        shape = self._encode(np.zeros((1, *image.shape), dtype=image.dtype)).shape[1:]
        self.encoded = 0
        if not keep_rgb:
            del parts[image_key]
        parts["base"] = spaces.Box(-np.inf, np.inf, shape, self._dtype.type)
        super().__init__(venv, observation_space=spaces.Dict(parts))

    @property
    def base_forwards(self) -> int:
        """Frames that went through the base to be acted on: all that did, less those of resets and episode ends."""
        return self.encoded - self.extra_forwards

    def reset(self) -> Observation:
        """Reset all environments and encode their first images."""
        observation = self._as_dict(self.venv.reset())
        self.extra_forwards += self.num_envs
        return self._add(observation, self._encode(observation[self._key]))

    def step_wait(self) -> StepReturn:
        """Return the step's result with codes, those of `terminal_observation` included."""
        raw, rewards, dones, infos = self.venv.step_wait()
        observation = self._as_dict(raw)
        ended = [env for env in np.flatnonzero(dones) if infos[env].get("terminal_observation") is not None]
        terminal = [self._as_dict(infos[env]["terminal_observation"]) for env in ended]
        images = observation[self._key]
        if terminal:
            images = np.concatenate([images, np.stack([t[self._key] for t in terminal])])
        codes = self._encode(images)
        self.env_steps += self.num_envs
        self.extra_forwards += len(ended)
        for row, env in enumerate(ended):
            infos[env]["terminal_observation"] = self._add(terminal[row], codes[self.num_envs + row])
        return self._add(observation, codes[: self.num_envs]), rewards, dones, infos

    def _encode(self, images: NDArray[Any]) -> NDArray[Any]:
        """Return the codes (B, C, h, w) of uint8 images, HWC or CHW as the space says."""
        self.encoded += len(images)
        tensor = torch.from_numpy(np.ascontiguousarray(images)).to(self._device)
        if self._last:
            tensor = tensor.permute(0, 3, 1, 2)
        return np.asarray(self.base(tensor).cpu().numpy(), dtype=self._dtype)

    def _as_dict(self, observation: Any) -> Observation:
        return {self._key: observation} if self._plain else dict(observation)

    def _add(self, observation: Observation, codes: NDArray[Any]) -> Observation:
        if not self._keep:
            del observation[self._key]
        observation["base"] = codes
        return observation
