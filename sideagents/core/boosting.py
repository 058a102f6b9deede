"""A side-tuned network as the base of the next side: boosting (side-tuning paper, section 4.4)."""

from __future__ import annotations

import hashlib
from typing import cast

from torch import Tensor, nn

from sideagents.core.base import FrozenBase
from sideagents.core.sidetuned import SideTuned
from sideagents.errors import SideAgentsError


def stacked(net: SideTuned, name: str | None = None) -> FrozenBase:
    """Freeze a trained network, base, side, merge and alpha together, and return it as a base.

    Side-tuning on it again adds one side to the stack: R2 = alpha2 R1 + (1 - alpha2) S2, with R1 frozen. `net` is taken
    over, as `FrozenBase` takes its encoder. Raises `SideAgentsError` when its own base is trained, or its side reads
    images of another size.
    """
    if not isinstance(net.base, FrozenBase):
        raise SideAgentsError("stacked: the network trains its base; only sides on a frozen base can be stacked")
    if net.input_size != net.base.input_size:
        raise SideAgentsError("stacked: the side reads images of another size than the base; a stack has one size")
    name = name or f"{net.base.name}+side"
    if net.base.raw:
        return FrozenBase(_Composite(net), name, net.base.input_size, mean=None)
    channels = net.base.channels
    zero, one = (0.0,) * channels, (1.0,) * channels
    return FrozenBase(_Composite(net), name, net.base.input_size, zero, one, resize=net.base.resize)


class _Composite(nn.Module):
    """Images as the base takes them (B, C, H, W) -> merged codes."""

    def __init__(self, net: SideTuned) -> None:
        super().__init__()
        self.net = net

    @property
    def code_settings(self) -> str:
        """What the code depends on and tensors with names do not show: see `FrozenBase.fingerprint`."""
        base, net = cast(FrozenBase, self.net.base), self.net
        digest = hashlib.sha256()
        stored = net.state_dict().keys()
        for name, buffer in sorted(net.named_buffers()):
            if name not in stored:  # such as a side's own normalisation
                digest.update(f"{name} {buffer.flatten().tolist()}".encode())
        merge = type(net.merge).__name__
        return f"on {base.fingerprint} in {base.dtype} by {merge} with {digest.hexdigest()}"

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.net(images))
