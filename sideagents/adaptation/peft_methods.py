"""LoRA and IA3 through the PEFT library, for comparison: `pip install 'sideagents[nlp]'` brings it."""

from __future__ import annotations

import copy
import re
from importlib.util import find_spec
from typing import Any, cast

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sideagents.adaptation.method import Adaptation
from sideagents.adaptation.plain import plain_network
from sideagents.bases.timm_base import import_torchvision
from sideagents.core.base import FrozenBase
from sideagents.core.counting import weights_of
from sideagents.core.trainable import shared_view
from sideagents.errors import SideAgentsError


def import_peft() -> Any:
    """Import PEFT; raises `SideAgentsError` with the remedy when it is not installed."""
    try:
        if find_spec("torchvision") is not None:
            import_torchvision()  # transformers, which PEFT imports, would fail on one that was built for another torch
        import peft
    except ImportError as error:
        raise SideAgentsError(f"lora and ia3 need PEFT, pip install 'sideagents[nlp]' ({error})") from error
    return peft


class _Injected(Adaptation):
    def _takes(self, part: nn.Module) -> bool:
        """Return whether the method has a form for a layer."""
        return isinstance(part, nn.Linear | nn.Conv2d)

    def _inject(self, base: FrozenBase, settings: Any, layers: str | None) -> nn.Module:
        view = shared_view(base)
        parts = dict(view.encoder.named_modules())
        # torch's attention never calls its output layer, only reads its weight: an adapter there would do nothing
        idle = {f"{name}.out_proj" for name, part in parts.items() if isinstance(part, nn.MultiheadAttention)}
        known = [name for name, part in parts.items() if self._takes(part) and name not in idle]
        try:
            names = [name for name in known if re.search(layers or "", name)]
        except re.error as error:
            raise SideAgentsError(f"layers={layers!r} is no regular expression ({error})") from None
        if not names:
            count = f"{len(known)} linear layers and convolutions"
            raise SideAgentsError(f"layers={layers!r} matches none of the {count} of base {base.name!r}")
        settings.target_modules = "|".join(map(re.escape, names))  # PEFT takes a list of names for their ends
        import_peft().inject_adapter_in_model(settings, view.encoder)
        for part in view.encoder.modules():  # PEFT froze them
            if isinstance(part, _BatchNorm):
                part.requires_grad_(True)
            if isinstance(part, nn.TransformerEncoderLayer):
                # in eval mode torch would read the weights of its layers and never call them, unless it knows no kernel
                part.activation_relu_or_gelu = 0
        return view.train()

    def merged(self, net: nn.Module) -> int:
        """Count what PEFT put beside the layers."""
        kind = import_peft().tuners.tuners_utils.BaseTunerLayer
        layers: list[Any] = [part for part in net.modules() if isinstance(part, kind)]
        return sum(weights_of(getattr(layer, name)) for layer in layers for name in layer.adapter_layer_names)

    def export(self, net: nn.Module, base: FrozenBase) -> nn.Module:
        """Return the network with the adapters merged into its weights."""
        plain = copy.deepcopy(net).eval()
        for name, module in list(plain.named_modules()):
            if isinstance(module, import_peft().tuners.tuners_utils.BaseTunerLayer):
                cast(Any, module).merge()
                plain.set_submodule(name, cast(Any, module).get_base_layer())
        return plain_network(cast(nn.Module, plain.encoder), base)


class Lora(_Injected):
    """LoRA. Options: rank, scale (PEFT's lora_alpha), dropout, layers (a regular expression, by default all).

    Dilated convolutions stay as they are: PEFT's low-rank ones have no dilation.
    """

    def _takes(self, part: nn.Module) -> bool:
        dilated = isinstance(part, nn.Conv2d) and any(step != 1 for step in part.dilation)
        return super()._takes(part) and not dilated

    def build(
        self, base: FrozenBase, rank: int = 8, scale: float = 8.0, dropout: float = 0.0, layers: str | None = None
    ) -> nn.Module:
        """Build a view of the base with low-rank differences; raises `SideAgentsError` for settings that cannot be."""
        if rank < 1 or not 0.0 <= dropout < 1.0:
            raise SideAgentsError(f"lora: rank is at least 1, dropout from 0 to below 1, got {rank} and {dropout}")
        settings = import_peft().LoraConfig(r=rank, lora_alpha=scale, lora_dropout=dropout)
        return self._inject(base, settings, layers)


class IA3(_Injected):
    """IA3: learned scales of activations. Option: layers (a regular expression, by default all)."""

    def build(self, base: FrozenBase, layers: str | None = None) -> nn.Module:
        """Build a view of the base with scales."""
        return self._inject(base, import_peft().IA3Config(feedforward_modules=[]), layers)
