"""One training step: optimizers, schedule by hand, clipping, precision, what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from sideagents.core.alpha import HyperbolicAlpha, LearnedAlpha, LinearAlpha
from sideagents.errors import SideAgentsError
from sideagents.train.step import StepConfig, Stepper, share_of_rate


def regression(net: nn.Module) -> Tensor:
    inputs = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))
    return nn.functional.mse_loss(net(inputs).float(), inputs.sum(1, keepdim=True))


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "radam"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_optimizer_learns(optimizer: str, precision: str) -> None:
    torch.manual_seed(0)
    net = nn.Linear(3, 1)
    config = StepConfig.model_validate({"optimizer": optimizer, "learning_rate": 0.05, "precision": precision})
    stepper = Stepper(config, net, 80, 8)
    losses = [stepper.step(lambda: regression(net)) for _ in range(80)]
    assert stepper.done == 80
    assert losses[-1] < 0.2 * losses[0]
    assert {p.dtype for p in net.parameters()} == {torch.float32}


def test_autocast_surrounds_the_loss_alone() -> None:
    net, seen = nn.Linear(3, 1), []
    for precision in ("float32", "bfloat16"):
        stepper = Stepper(StepConfig(precision=precision), net, 1, 1)

        def loss() -> Tensor:
            seen.append(net(torch.ones(1, 3)).dtype)
            return regression(net)

        stepper.step(loss)
    assert seen == [torch.float32, torch.bfloat16]
    assert not torch.is_autocast_enabled("cpu")


def test_the_rate_by_hand() -> None:
    config = StepConfig(warmup=0.2, final_lr_fraction=0.1)
    assert [share_of_rate(config, step, 10) for step in (0, 1, 2, 6, 10, 12)] == pytest.approx(
        [0.5, 1.0, 1.0, 0.55, 0.1, 0.1]
    )


def test_the_rate_falls_by_a_cosine_over_all_steps_and_goes_on_where_it_was() -> None:
    net, seen = nn.Linear(3, 1), []
    config = StepConfig(optimizer="sgd", learning_rate=0.1, final_lr_fraction=0.5)
    for done in (0, 2):
        stepper = Stepper(config, net, 4, 4, done)
        for _ in range(2):
            stepper.step(lambda: regression(net))
            seen.append(stepper.optimizer.param_groups[0]["lr"])
    assert seen == pytest.approx([0.05 + 0.05 * 0.5 * (1 + math.cos(math.pi * i / 4)) for i in range(4)])


def test_alpha_has_a_rate_of_its_own() -> None:
    net = nn.ModuleList([nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)), LearnedAlpha()])
    stepper = Stepper(StepConfig(learning_rate=0.1, alpha_learning_rate=0.4, weight_decay=0.3), net, 1, 1)
    stepper.step(lambda: regression(net[0]) + net[1]())
    rates = {group["name"]: (group["lr"], group["weight_decay"]) for group in stepper.optimizer.param_groups}
    assert rates == {"weights": (0.1, 0.3), "vectors": (0.1, 0.0), "alpha": (0.4, 0.0)}


def test_gradients_are_scaled_down_to_the_norm() -> None:
    weight = nn.Parameter(torch.zeros(4))
    net = nn.Module()
    net.weight = weight
    stepper = Stepper(StepConfig(optimizer="sgd", learning_rate=1.0, max_grad_norm=0.5), net, 1, 1)
    stepper.step(lambda: 100 * weight.sum())
    assert torch.allclose(weight, torch.full((4,), -0.25))  # norm 0.5 over four equal weights


def test_a_loss_that_is_not_finite_moves_no_weight_and_nothing_to_train() -> None:
    net = nn.Linear(3, 1)
    before = net.weight.detach().clone()
    stepper = Stepper(StepConfig(), net, 1, 1)
    with pytest.raises(SideAgentsError, match=r"training: the loss became nan \(step 1\); lower learning_rate"):
        stepper.step(lambda: regression(net) * math.nan)
    assert torch.equal(net.weight, before)
    with pytest.raises(SideAgentsError, match="there is nothing to train"):
        Stepper(StepConfig(), nn.ReLU(), 1, 1)


def test_a_curriculum_moves_with_every_step_and_ends_with_the_last() -> None:
    class Blend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.side, self.linear, self.hyperbolic = nn.Linear(1, 1), LinearAlpha(), HyperbolicAlpha(2.0)

        def forward(self) -> Tensor:
            seen.append((self.linear.value(), self.hyperbolic.value()))
            return self.side.weight.sum() * (1 - self.linear())

    seen: list[tuple[float, float]] = []
    net = Blend()
    stepper = Stepper(StepConfig(), net, 4, per_epoch=2)
    for _ in range(4):
        stepper.step(net)
    wanted = [(1.0, 1.0), (0.75, 2 / 2.5), (0.5, 2 / 3), (0.25, 2 / 3.5)]
    assert seen == [pytest.approx(pair) for pair in wanted]
    assert (net.linear.value(), net.hyperbolic.value()) == (0.0, 0.5)
