"""Progressive networks: a new column per task, with lateral adapters from what is frozen (Rusu et al. 2016)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d
from typing_extensions import Self

from sideagents.core.alpha import Alpha
from sideagents.core.merge import alpha_for, make_merge
from sideagents.core.side import FCN4
from sideagents.errors import SideAgentsError

_SCALE = 0.9  # the side-tuning authors' start of the learned scale; Rusu et al. say small and random


class Lateral(nn.Module):
    """Lateral adapter: scale, 1x1 convolution, GroupNorm, ReLU, 1x1 convolution (Rusu et al. 2016, equation 2).

    (B, inputs, h, w) of an earlier column or the base -> (B, outputs, *size), what is added before the non-linearity.
    The grid is fitted first, by adaptive average pooling: the side-tuning authors' code max-pools the adapter's result
    and crops. 1 + inputs outputs + 2 outputs + outputs^2 weights. The norm undoes all but the sign of the scale, here
    as in that code; it is kept so that the counts agree.

    merge: how it joins a layer of the column, by name (see `make_merge`): the lateral in the place of the base, the
    layer in that of the side; alpha: the weight of the lateral, where the merge takes one. `sum` is the paper's.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        scale: float = _SCALE,
        merge: str = "sum",
        alpha: Alpha | str | float = "learned",
    ) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.adapter = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.GroupNorm(2 if outputs % 2 == 0 else 1, outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 1, bias=False),
        )
        self.merge = make_merge(merge, (outputs, 1, 1))  # on grids of any size
        self.alpha = alpha_for(self.merge, alpha, "laterals_alpha")

    def joined(self, total: Tensor, activation: Tensor) -> Tensor:
        """Return what a layer of the column has so far (B, outputs, h, w), merged with the adapted activation."""
        lateral = self(activation, (total.shape[-2], total.shape[-1]))
        return cast(Tensor, self.merge(lateral, total, None if self.alpha is None else self.alpha()))

    def forward(self, activation: Tensor, size: tuple[int, int]) -> Tensor:
        """Adapt (B, inputs, h, w) to (B, outputs, *size)."""
        if tuple(activation.shape[-2:]) != size:
            activation = adaptive_avg_pool2d(activation, size)
        return cast(Tensor, self.adapter(self.scale * activation))


class Column(nn.Module):
    """One task's network: stages of a convolution and what follows it, with lateral adapters in between.

    h_i = rest_i(conv_i(h_(i-1)) + sum over earlier columns j of lateral(h_(i-1) of j) + lateral(tap_i of the base));
    by another merge than the sum, laterals join one after the other in this order. make_lateral: (inputs, outputs).
    """

    def __init__(
        self,
        stages: Sequence[nn.Sequential],
        earlier: int,
        base_channels: Sequence[int | None],
        make_lateral: Callable[[int, int], Lateral],
    ) -> None:
        super().__init__()
        convs = [_first_conv(stage, index) for index, stage in enumerate(stages)]
        self.stages = nn.ModuleList(stages)
        # All columns are built alike, so the channels that enter a stage here leave the one before it there.
        self.from_columns = nn.ModuleList(
            nn.ModuleList(make_lateral(conv.in_channels, conv.out_channels) for _ in range(earlier if index > 0 else 0))
            for index, conv in enumerate(convs)
        )
        self.from_base = nn.ModuleDict(
            {
                str(index): make_lateral(channels, convs[index].out_channels)
                for index, channels in enumerate(base_channels)
                if channels is not None
            }
        )
        self.frozen = False

    def freeze(self) -> None:
        """Stop training this column for good: no gradients, eval mode whatever the parent does."""
        self.requires_grad_(False)
        self.frozen = True
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Switch the mode, unless frozen."""
        return super().train(mode and not self.frozen)

    def forward(self, images: Tensor, earlier: Sequence[Sequence[Tensor]], taps: Sequence[Tensor]) -> list[Tensor]:
        """Return the activation after each stage, given those of the earlier columns and the base's taps."""
        of_base = dict(zip(self.from_base, taps, strict=True))
        activations: list[Tensor] = []
        x = images
        for index, stage in enumerate(self.stages):
            conv, *rest = cast(nn.Sequential, stage)
            total = conv(x)
            laterals = cast(nn.ModuleList, self.from_columns[index])
            for lateral, activation in zip(laterals, earlier if index > 0 else (), strict=True):
                total = cast(Lateral, lateral).joined(total, activation[index - 1].detach())
            if str(index) in of_base:
                total = cast(Lateral, self.from_base[str(index)]).joined(total, of_base[str(index)].detach())
            x = total
            for layer in rest:
                x = layer(x)
            activations.append(x)
        return activations


class ProgressiveNet(nn.Module):
    """Columns of convolutional stages; each new one reads all earlier columns, a frozen base, or both.

    Laterals join before the non-linearity (and before the norm, if that follows the convolution). The first stage gets
    none from other columns, whose input is the raw image too; it may get one from the base. Earlier columns are frozen,
    detached and in eval mode, so training a column leaves the outputs of all others as they were, bit for bit.

    With `dense` the weights of a column grow with its number. To load a state dict, add as many columns first.

    Args:
        make_stages: makes the fresh stages of a column, each an nn.Sequential that starts with a Conv2d.
        base_channels: per stage, the channels of the base's activation that is fed into it, or None for no lateral.
        dense: laterals from all earlier columns; False for the base only.
        scale: starting value of the learned scale of each lateral.
        laterals, laterals_alpha: the merge of each lateral and its alpha, see `Lateral`.

    Raises `SideAgentsError` for stages that do not fit and when nothing is given to read from.
    """

    def __init__(
        self,
        make_stages: Callable[[], Sequence[nn.Sequential]],
        base_channels: Sequence[int | None] = (),
        *,
        dense: bool = True,
        scale: float = _SCALE,
        laterals: str = "sum",
        laterals_alpha: str | float = "learned",
    ) -> None:
        super().__init__()
        stages = len([_first_conv(stage, index) for index, stage in enumerate(make_stages())])
        if base_channels and len(base_channels) != stages:
            raise SideAgentsError(
                f"progressive net: base_channels needs one entry (or None) for each of the {stages} stages, "
                f"got {len(base_channels)}"
            )
        self.base_channels = tuple(base_channels)
        self.tapped = [channels for channels in self.base_channels if channels is not None]
        if not dense and not self.tapped:
            raise SideAgentsError("progressive net: without dense and base_channels there is nothing to read from")
        self.make_stages = make_stages
        self.dense = dense
        self._make_lateral = partial(Lateral, scale=scale, merge=laterals, alpha=laterals_alpha)
        self.columns = nn.ModuleList()

    def add_column(self) -> int:
        """Freeze all columns, add a fresh one, and return its task number, counted from 0."""
        for column in self.columns:
            cast(Column, column).freeze()
        earlier = len(self.columns) if self.dense else 0
        column = Column(self.make_stages(), earlier, self.base_channels, self._make_lateral).train(self.training)
        existing = next(self.parameters(), None)
        self.columns.append(column if existing is None else column.to(existing))
        return len(self.columns) - 1

    def forward(self, images: Tensor, task: int, taps: Sequence[Tensor] = ()) -> Tensor:
        """Return the last activation of column `task` (B, C, h, w) on images as its stages take them.

        taps: the base's activations (B, channels, h, w), one for each entry of `base_channels` that is not None, in
        that order; they are detached. Raises `SideAgentsError` for a task without a column and for other taps.
        """
        if not 0 <= task < len(self.columns):
            raise SideAgentsError(
                f"progressive net has {len(self.columns)} columns, none for task {task}; add_column() first"
            )
        if [tap.shape[1] for tap in taps] != self.tapped:
            found = [tap.shape[1] for tap in taps]
            raise SideAgentsError(f"progressive net reads base activations of {self.tapped} channels, got {found}")
        earlier: list[list[Tensor]] = []
        if self.dense:
            with torch.no_grad():
                for column in self.columns[:task]:
                    earlier.append(column(images, earlier, taps))
        return cast(list[Tensor], self.columns[task](images, earlier, taps))[-1]


class ProgressiveFCN4(ProgressiveNet):
    """Progressive net for CIFAR: columns are the four layers of `FCN4`, images (B, 3, 32, 32) in [0, 1] -> (B, 64).

    `make_side` makes each new column's layers, from a distilled student's weights for one, and says how images are
    normalised. The base is a CIFAR ResNet, tapped after its stem and each of its three stages (16, 16, 32 and 64
    channels), one tap per layer. Base only, that makes 37,428 weights per task, as the side-tuning authors' code has.
    Without `stem` the first layer gets no lateral, as Rusu et al. have it: 36,883 weights and three taps. With `dense`
    each earlier column adds 8,419.
    """

    def __init__(
        self,
        make_side: Callable[[], FCN4] = FCN4,
        *,
        stem: bool = True,
        dense: bool = False,
        **settings: Any,
    ) -> None:
        base_channels = (16 if stem else None, 16, 32, 64)
        super().__init__(lambda: _fcn4_stages(make_side()), base_channels, dense=dense, **settings)
        self._like = (make_side(),)  # in a tuple: no part of the network

    def forward(self, images: Tensor, task: int, taps: Sequence[Tensor] = ()) -> Tensor:
        """Encode images (B, in_channels, H, W) in [0, 1] to vectors (B, 64) by column `task`; see `ProgressiveNet`."""
        mean, std = (tensor.to(images.device) for tensor in (self._like[0].mean, self._like[0].std))
        return super().forward((images - mean) / std, task, taps).mean(dim=(2, 3))


class ProgressiveCopy(ProgressiveNet):
    """Progressive net whose columns are built as the base, from stages that `make_stages` makes.

    Stage i of a column reads what leaves stage i - 1 of the base (`taps`, all stages but the last) by a lateral, images
    as the base's encoder takes them.
    """

    def __init__(
        self, make_stages: Callable[[], Sequence[nn.Sequential]], *, dense: bool = False, **settings: Any
    ) -> None:
        convs = [_first_conv(stage, index) for index, stage in enumerate(make_stages())]
        super().__init__(make_stages, (None, *(c.in_channels for c in convs[1:])), dense=dense, **settings)


def _fcn4_stages(side: FCN4) -> list[nn.Sequential]:
    return [side.conv1, side.conv2, side.conv3, side.conv5]


def _first_conv(stage: nn.Module, index: int) -> nn.Conv2d:
    if not isinstance(stage, nn.Sequential) or len(stage) == 0 or not isinstance(stage[0], nn.Conv2d):
        raise SideAgentsError(f"progressive net: stage {index} must be an nn.Sequential that starts with a Conv2d")
    return stage[0]
