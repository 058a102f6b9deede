"""Residual adapters (Rebuffi et al. 2018): 1x1 convolutions beside or after a frozen network's k x k convolutions.

Parallel (section 3.1): y = f * x + a * x. Series (Rebuffi et al. 2017): z = f * x, y = z + a * BN(z). BatchNorm is the
task's own throughout.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import Self

from sideagents.adaptation.method import Adaptation
from sideagents.adaptation.plain import plain_network
from sideagents.core.base import FrozenBase
from sideagents.core.counting import weights_of
from sideagents.core.trainable import shared_view
from sideagents.errors import SideAgentsError, nearest

Kind = Literal["parallel", "series"]
Placement = Literal["all", "early", "mid", "late", "half"]
_THIRDS = {"early": 0, "mid": 1, "late": 2}


class AdaptedConv(nn.Module):
    """A frozen convolution with its adapter; fused, one convolution that costs what the frozen one does."""

    def __init__(self, conv: nn.Conv2d, kind: Kind, dropout: float, init: str) -> None:
        super().__init__()
        self.conv, self.kind = conv, kind
        outputs, groups = conv.out_channels, conv.groups
        self.dropout = nn.Dropout2d(dropout)
        if kind == "parallel":
            self.adapter = nn.Conv2d(conv.in_channels, outputs, 1, groups=groups, bias=False)
            self.norm: nn.Module = nn.Identity()
        else:
            self.adapter = nn.Conv2d(outputs, outputs, 1, bias=False)
            self.norm = nn.BatchNorm2d(outputs)
        if init == "zero":
            nn.init.zeros_(self.adapter.weight)  # the base exactly; the authors draw like any convolution
        else:
            nn.init.kaiming_normal_(self.adapter.weight, mode="fan_out")
        self._fused: tuple[nn.Conv2d, ...] = ()  # in a tuple: no part of the network, of its state, or of what it costs

    def forward(self, x: Tensor) -> Tensor:
        """Convolve images or activations (B, C, H, W)."""
        if self._fused:
            if self.training:
                raise SideAgentsError("a fused network does not train: unfuse it first")
            return cast(Tensor, self._fused[0](x))
        out = self.conv(x)
        if self.kind == "parallel":
            # a strided 1x1 convolution reads every s-th pixel; oneDNN's own, on few channels, writes out of bounds
            down, right = self.conv.stride
            return cast(Tensor, out + self.adapter(self.dropout(x)[:, :, ::down, ::right]))
        return cast(Tensor, out + self.adapter(self.norm(self.dropout(out))))

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        for conv in self._fused:
            conv._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's annotations
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]

    def set_fused(self, fused: bool) -> None:
        """Let one convolution compute what frozen convolution and adapter compute in eval mode, or no longer."""
        self._fused = (self.fuse(),) if fused else ()

    @torch.no_grad()
    def fuse(self) -> nn.Conv2d:
        """Return the one convolution that computes the same in eval mode: f + a at the centre tap, or (I + a S) f."""
        weight, bias = self.conv.weight.clone(), self.conv.bias
        adapter = self.adapter.weight[:, :, 0, 0]
        if self.kind == "parallel":
            rows, columns = (size // 2 for size in weight.shape[-2:])
            weight[:, :, rows, columns] += adapter
            shift = bias.clone() if bias is not None else None
        else:
            norm = cast(nn.BatchNorm2d, self.norm)
            mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
            scale = norm.weight / (variance + norm.eps).sqrt()
            mixing = torch.eye(len(scale)).to(scale) + adapter * scale
            weight = torch.einsum("oi,ihwk->ohwk", mixing, weight)
            shift = adapter @ (norm.bias - mean * scale)
            shift = shift + mixing @ bias if bias is not None else shift
        conv = self.conv
        fused = nn.Conv2d(
            conv.in_channels, conv.out_channels, cast(Any, conv.kernel_size), cast(Any, conv.stride),
            cast(Any, conv.padding), cast(Any, conv.dilation), conv.groups, shift is not None,
        ).to(weight)  # fmt: skip
        fused.weight.copy_(weight)
        if shift is not None and fused.bias is not None:
            fused.bias.copy_(shift)
        return fused.requires_grad_(False)


class LowRankAdapter(nn.Module):
    """A 1x1 convolution beta gamma: gamma (K, C_in) is the task's and trained, beta (C_out, K) shared and frozen."""

    def __init__(self, gamma: Tensor, beta: nn.Parameter) -> None:
        super().__init__()
        self.gamma = nn.Parameter(gamma[:, :, None, None].clone())
        self.beta = beta

    @property
    def always_frozen(self) -> tuple[nn.Parameter, ...]:
        """What stays without gradient whatever is switched on: it is other tasks' too."""
        return (self.beta,)

    @property
    def weight(self) -> Tensor:
        """The whole adapter, (C_out, C_in, 1, 1)."""
        return (self.beta @ self.gamma[:, :, 0, 0])[:, :, None, None]

    def forward(self, x: Tensor) -> Tensor:
        """Convolve with gamma, then with beta."""
        narrow = functional.conv2d(x, self.gamma)
        return functional.conv2d(narrow, self.beta[:, :, None, None])


class ResidualAdapters(Adaptation):
    """Series and parallel adapters on any network of convolutions.

    Options: kind; placement (`early`, `mid`, `late`: that third of the convolutions; `half`: every second one);
    layers (a regular expression over their names); dropout before the adapter; init (`zero` starts as the base, `he` as
    the authors' code).
    """

    def build(
        self,
        base: FrozenBase,
        kind: Kind = "parallel",
        placement: Placement = "all",
        layers: str | None = None,
        dropout: float = 0.0,
        init: Literal["zero", "he"] = "zero",
    ) -> nn.Module:
        """Build a view of the base with adapters; raises `SideAgentsError` where none fits."""
        if not 0.0 <= dropout < 1.0:
            raise SideAgentsError(f"residual_adapters: dropout is at least 0 and below 1, got {dropout}")
        view = shared_view(base)
        for name in chosen_convs(view.encoder, kind, placement, layers, base.name):
            conv = cast(nn.Conv2d, view.encoder.get_submodule(name))
            view.encoder.set_submodule(name, AdaptedConv(conv, kind, dropout, init))
        return view.train()

    def restore(self, net: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
        """Put a task's tensors back, those of compressed adapters too: its file holds their shared half."""
        for name, conv in adapted_convs(net).items():
            gamma, beta = (tensors.get(f"{name}.adapter.{part}") for part in ("gamma", "beta"))
            if gamma is not None and beta is not None and gamma.dim() == 4 and beta.dim() == 2:
                shared = nn.Parameter(beta.clone(), requires_grad=False)
                conv.adapter = cast(Any, LowRankAdapter(gamma[:, :, 0, 0], shared))
        super().restore(net, tensors, where)

    def share(self, net: nn.Module, others: Iterable[nn.Module]) -> None:
        """Let compressed adapters of one compression hold their beta once, as they did when they were saved."""
        own = _compressed(net)
        for other in others:
            for name, adapter in _compressed(other).items():
                if name in own and torch.equal(own[name].beta, adapter.beta):
                    own[name].beta = adapter.beta

    def merged(self, net: nn.Module) -> int:
        """Count adapters and their norms, which a fused convolution contains; its new bias, in series, is one more."""
        convs = adapted_convs(net).values()
        biases = sum(int(one.conv.out_channels) for one in convs if one.kind == "series" and one.conv.bias is None)
        return sum(weights_of(one.adapter) + weights_of(one.norm) for one in convs) - biases

    def export(self, net: nn.Module, base: FrozenBase) -> nn.Module:
        """Return a plain network in which each adapter is part of its convolution."""
        plain = copy.deepcopy(net).eval()
        for name, module in list(plain.named_modules()):
            if isinstance(module, AdaptedConv):
                plain.set_submodule(name, module.fuse())
        return plain_network(cast(nn.Module, plain.encoder), base)


def adapted_convs(net: nn.Module) -> dict[str, AdaptedConv]:
    """Return the convolutions with adapters of a task's network, by name."""
    return {name: module for name, module in net.named_modules() if isinstance(module, AdaptedConv)}


def _compressed(net: nn.Module) -> dict[str, LowRankAdapter]:
    return {name: module for name, module in net.named_modules() if isinstance(module, LowRankAdapter)}


def fuse(net: nn.Module) -> None:
    """Let each adapted convolution of a task's network in eval mode run as one; `unfuse` before training goes on."""
    if net.training:
        raise SideAgentsError("fuse: BatchNorm and dropout compute something else in train mode; call eval() first")
    for module in adapted_convs(net).values():
        module.set_fused(True)


def unfuse(net: nn.Module) -> None:
    """Take `fuse` back; the adapters were never changed."""
    for module in adapted_convs(net).values():
        module.set_fused(False)


def chosen_convs(encoder: nn.Module, kind: Kind, placement: Placement, layers: str | None, owner: str) -> list[str]:
    """Return the names of the convolutions that get an adapter: k x k, k odd and above 1, padded by half of it.

    A parallel adapter reads the centre of each window, which other paddings move. Raises `SideAgentsError`.
    """
    fitting = [n for n, m in encoder.named_modules() if isinstance(m, nn.Conv2d) and _fits(m, kind)]
    if placement == "half":
        placed = fitting[::2]  # a ResNet's stem and the second one of each block
    else:
        placed = [n for i, n in enumerate(fitting) if placement == "all" or i * 3 // len(fitting) == _THIRDS[placement]]
    try:
        names = [name for name in placed if re.search(layers or "", name)]
    except re.error as error:
        raise SideAgentsError(f"residual_adapters: layers={layers!r} is no regular expression ({error})") from None
    if not names:
        hint = f"layers={layers!r} matches none of them{nearest(layers or '', fitting)}" if layers else "none fits"
        raise SideAgentsError(f"residual_adapters: {owner} has {len(fitting)} convolutions that can have one; {hint}")
    return names


def _fits(conv: nn.Conv2d, kind: Kind) -> bool:
    if kind == "series" and conv.groups > 1:
        return False  # mixing all channels afterwards could not be fused into it
    sizes = zip(conv.kernel_size, cast(Any, conv.padding), conv.dilation, strict=False)
    plain = conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    return plain and all(k > 1 and k % 2 == 1 and p == d * (k // 2) for k, p, d in sizes)
