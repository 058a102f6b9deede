"""A small network adapted by each method to two tasks, of cats and of dogs."""

from __future__ import annotations

import torch
from torch import nn

from sideagents.adaptation import Adapted, adapt
from sideagents.bases.resnet26 import ResNet26

OPTIONS: dict[str, dict[str, object]] = {"sidetune": {"side": "conv"}}
VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    "sidetune by film": ("sidetune", {"side": "conv", "merge": "film"}),
    "sidetune by mlp": ("sidetune", {"side": "conv", "merge": "mlp"}),
    "sidetune by concat": ("sidetune", {"side": "conv", "merge": "concat"}),
    "sidetune linearly": ("sidetune", {"side": "conv", "alpha": "linear"}),
    "series adapters": ("residual_adapters", {"kind": "series"}),
}
CLASSES = {"cats": 3, "dogs": 4}


def variant(name: str) -> tuple[str, dict[str, object]]:
    """Return method and options of a row of the table."""
    return VARIANTS.get(name, (name, OPTIONS.get(name, {})))


def network(seed: int = 0) -> ResNet26:
    """A small residual network whose BatchNorm has seen something."""
    torch.manual_seed(seed)
    net = ResNet26(5, factor=0.125).train()
    with torch.no_grad():
        net(torch.randn(16, 3, 16, 16))
    return net.eval()


def adapted(method: str, seed: int = 0) -> Adapted:
    kind, options = variant(method)
    made = adapt(network(seed), kind, input_size=(16, 16), **options)
    torch.manual_seed(1)
    for name, classes in CLASSES.items():
        made.add_task(name, classes=classes)
    return made


def train(made: Adapted, task: str, steps: int = 3) -> None:
    optimizer = torch.optim.SGD(made.parameter_groups(task, lr=0.05), momentum=0.9)
    made.train()
    generator = torch.Generator().manual_seed(2)
    for step in range(steps):
        made.set_progress(step / steps, task=task)
        images = torch.randn(8, 3, 16, 16, generator=generator)
        labels = torch.randint(0, CLASSES[task], (8,), generator=generator)
        loss = nn.functional.cross_entropy(made(images, task), labels) + made.penalty(task)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    made.eval()
