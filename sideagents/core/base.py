"""The frozen base: an encoder that no optimizer, mode switch, initialiser or checkpoint can reach."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from typing_extensions import Self

from sideagents.core.pixels import fit_images, unit_images
from sideagents.errors import BaseError, first_line
from sideagents.storage.tensors import digest_tensors


class FrozenBase(nn.Module):
    """A pretrained encoder B(x) with its own normalisation and size, frozen for good.

    The encoder is held outside of torch's module tree, so a network that contains this base never sees the encoder's
    tensors: they are not in its `parameters()`, `state_dict()`, optimizer or checkpoint, strict loading does not ask
    for them, and `apply` (SB3's orthogonal initialisation) does not touch them. They still move with `.to(device)`,
    are deep-copied and pickled, and are listed by this module's own `named_parameters()` and `named_buffers()`.
    Their dtype never changes. `encoder` is taken over: it is put in eval mode and its gradients are switched off.

    Args:
        encoder: maps (B, C, H, W) normalised images to (B, *out_shape) codes.
        name: for messages, tables and checkpoints.
        input_size: (height, width) in pixels; images of another size are resized bilinearly.
        mean, std: per channel, applied to images in [0, 1]; None: the encoder takes its inputs as they are given (three
            channels, any range), neither checked nor resized.
        resize: False refuses images of another size instead.
        dtype: `torch.bfloat16` computes under autocast in that type; codes are float32 all the same.

    Raises `BaseError` when the encoder cannot read such images or its code is not finite.
    """

    def __init__(
        self,
        encoder: nn.Module,
        name: str = "base",
        input_size: tuple[int, int] = (64, 64),
        mean: Sequence[float] | None = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        *,
        resize: bool = True,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.raw = mean is None
        if mean is None:
            mean, std = (0.0,) * 3, (1.0,) * 3
        if len(mean) != len(std) or not mean or min(std) <= 0:
            raise BaseError(f"base {name!r}: mean and std need one number per channel, std above 0")
        self.name = name
        self.input_size = (int(input_size[0]), int(input_size[1]))
        self.resize = resize
        self.dtype = dtype
        encoder = encoder.eval().requires_grad_(False)
        encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
        # A tuple, because nn.Module registers modules and parameters that are set directly.
        self._hidden = (encoder, _compute_copy(encoder, dtype))
        device = next((tensor.device for tensor in encoder.parameters()), torch.device("cpu"))
        self._moments = (_per_channel(mean).to(device), _per_channel(std).to(device))
        self.training = False
        self.out_shape = self._probe()

    @property
    def encoder(self) -> nn.Module:
        """The frozen encoder itself."""
        return self._hidden[0]

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return self._moments[0].shape[1]

    @property
    def device(self) -> torch.device:
        """Where it computes, and where images must be."""
        return self._moments[0].device

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean per channel of images in [0, 1]."""
        return tuple(self._moments[0].flatten().tolist())

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation per channel of images in [0, 1]."""
        return tuple(self._moments[1].flatten().tolist())

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of sizes and normalisation, and of name, dtype, shape and bytes of each tensor of the encoder.

        Settings of an encoder that change its code and none of these do not show by themselves: an encoder that has
        such settings tells them in a text attribute `code_settings`, which is empty for the usual ones.
        """
        digest = hashlib.sha256(f"input {self.input_size} code {self.out_shape}\n".encode())
        if self.raw:
            digest.update(b"inputs as given\n")
        settings = getattr(self.encoder, "code_settings", "")
        if isinstance(settings, str) and settings:
            digest.update(f"settings {settings}\n".encode())
        tensors = {f"encoder.{name}": tensor for name, tensor in self.encoder.state_dict().items()}
        tensors |= {"mean": self._moments[0], "std": self._moments[1]}
        return digest_tensors(digest, tensors)

    def forward(self, images: Tensor) -> Tensor:
        """Encode images (B, C, H, W), uint8 or float in [0, 1], to float32 codes (B, *out_shape) without gradient.

        Raises `BaseError` for a wrong channel count, type, range or size, and for NaN.
        """
        with torch.no_grad():
            return self._encode(self.prepare(images, f"base {self.name!r}"))

    def tapped(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encode as `forward` does; return the codes and the encoder's inner activations, both without gradient.

        The encoder must offer `taps(images)`, a list of (B, C, h, w), and `from_taps(taps)`, the code. Raises
        `BaseError` where it does not, and as `forward`.
        """
        encoder: Any = self._hidden[1]
        if not (hasattr(encoder, "taps") and hasattr(encoder, "from_taps")):
            raise BaseError(f"base {self.name!r}: its encoder shows no inner activations (`taps` and `from_taps`)")
        with torch.no_grad():
            images = self.normalised(self.prepare(images, f"base {self.name!r}"))
            with self._own_type(images):
                taps = encoder.taps(images)
                code = encoder.from_taps(taps)
        return code.float().contiguous(), [tap.float() for tap in taps]

    def with_encoder(self, encoder: nn.Module, name: str) -> FrozenBase:
        """Return a base that reads images and computes as this one, by another encoder, which is taken over."""
        mean = None if self.raw else self.mean
        return FrozenBase(encoder, name, self.input_size, mean, self.std, resize=self.resize, dtype=self.dtype)

    def seeing(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        input_size: tuple[int, int] | None = None,
    ) -> FrozenBase:
        """Return a base with this one's encoder, shared, that normalises and resizes images in its own way.

        What is None stays as it is. Raises `BaseError` for a base that takes its inputs as they are given, and where
        the code would have another shape.
        """
        if self.raw:
            raise BaseError(f"base {self.name!r} takes its inputs as they are given: normalise and resize them first")
        found = FrozenBase(
            self.encoder, self.name, input_size or self.input_size, mean or self.mean, std or self.std,
            resize=self.resize, dtype=self.dtype,
        )  # fmt: skip
        found._hidden = self._hidden
        if (found.channels, found.out_shape) != (self.channels, self.out_shape):
            given = f"{found.channels}-channel {_size(found.input_size)} images"
            raise BaseError(f"base {self.name!r}: its code of {given} is {found.out_shape}, not {self.out_shape}")
        return found

    def prepare(self, images: Tensor, reader: str) -> Tensor:
        """Return images as `reader`, a network beside this base, takes them: in [0, 1], or as given to a raw base."""
        return images if self.raw else unit_images(images, self.channels, reader)

    def encode_hwc(self, images: Tensor | npt.NDArray[np.uint8]) -> Tensor:
        """Encode uint8 images (B, H, W, C), numpy or torch, as environments give them; see `forward`."""
        images = torch.as_tensor(images, device=self.device)
        if images.dim() != 4 or images.dtype != torch.uint8:
            raise BaseError(
                f"base {self.name!r}: encode_hwc takes uint8 (B, H, W, {self.channels}), "
                f"got {images.dtype} {tuple(images.shape)}"
            )
        return cast(Tensor, self(images.permute(0, 3, 1, 2)))

    def _encode(self, images: Tensor) -> Tensor:
        images = self.normalised(images)
        with self._own_type(images):
            code = self._hidden[1](images)
        return cast(Tensor, code).float().contiguous()

    def normalised(self, images: Tensor) -> Tensor:
        """Return prepared images as the encoder reads them: at its size, less the mean, over the deviation."""
        if not self.resize and tuple(images.shape[-2:]) != self.input_size:
            raise BaseError(
                f"base {self.name!r} takes {_size(self.input_size)} images (height x width), got "
                f"{_size(images.shape[-2:])}; load it with resize=True to have them resized"
            )
        if not self.raw:
            mean, std = self._moments
            images = (fit_images(images, self.input_size) - mean) / std
        return images.contiguous(memory_format=torch.channels_last)

    def _own_type(self, images: Tensor) -> torch.autocast:
        # The caller's autocast must not change the code: this base computes as it was told, wherever it is called.
        return torch.autocast(images.device.type, dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None)

    def _probe(self) -> tuple[int, ...]:
        try:
            code = self(torch.full((1, self.channels, *self.input_size), 0.5, device=self.device))
        except (RuntimeError, TypeError, AttributeError, AssertionError) as error:
            reason = first_line(error)
            raise BaseError(
                f"base {self.name!r} cannot encode {self.channels}-channel {_size(self.input_size)} images: {reason}"
            ) from error
        if code.dim() < 2 or not bool(torch.isfinite(code).all()):
            raise BaseError(f"base {self.name!r} gives codes of shape {tuple(code.shape)} that are not finite or flat")
        return tuple(code.shape[1:])

    # -- Law 1: what torch and SB3 would otherwise do to these tensors ------------------------------------------------

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, whatever the parent does."""
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Stay without gradient; `sideagents.trainable_copy` gives a copy that can be trained."""
        return self

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the frozen parameters; a parent's `parameters()` does not include them."""
        if recurse:
            yield from self.encoder.named_parameters(_join(prefix, "encoder"), True, remove_duplicate)

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield the encoder's buffers; a parent's `buffers()` does not include them."""
        if recurse:
            yield from self.encoder.named_buffers(_join(prefix, "encoder"), True, remove_duplicate)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        # Devices are followed, dtypes are not: `policy.half()` must not change what the base computes.
        device = fn(torch.empty(0, device=self.device)).device
        for module in self._hidden:
            module.to(device)
        self._moments = (self._moments[0].to(device), self._moments[1].to(device))
        return self

    def extra_repr(self) -> str:
        """Name, sizes and number of frozen weights, for `print(model)`."""
        weights = sum(parameter.numel() for parameter in self.parameters())
        return f"{self.name!r}, {_size(self.input_size)} -> {self.out_shape}, {weights:,} frozen weights"


def _compute_copy(encoder: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    # Autocast casts frozen weights anew in every forward; a copy whose big weights are cast once avoids that.
    if dtype is None:
        return encoder
    lowered = copy.deepcopy(encoder)
    for module in lowered.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.to(dtype)
    return lowered


def _per_channel(numbers: Sequence[float]) -> Tensor:
    return torch.tensor([float(number) for number in numbers]).view(1, -1, 1, 1)


def _size(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
