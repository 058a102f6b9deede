"""Frozen means five things, through SB3's PPO with a base full of traps: BatchNorm, dropout, orthogonal init."""

import io

import pytest
import torch
from stable_baselines3 import PPO

from sideagents_policies import EncodeOnce, SideTunedExtractor, SideTunedPolicy, SideTunedPPO
from tiny_env import TinyVec, tiny_base

CASES = [(PPO, False), (PPO, True), (SideTunedPPO, False), (SideTunedPPO, True)]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0].__name__}-{'encoded' if case[1] else 'inside'}")
def trained(request):
    """A model after three updates with large steps, the base's tensors as they were, and what happened to it."""
    kind, encoded = request.param
    base = tiny_base()
    before = {name: tensor.clone() for name, tensor in base.encoder.state_dict().items()}
    venv = TinyVec(2)
    kwargs = {
        "features_extractor_class": SideTunedExtractor,
        "features_extractor_kwargs": {"base": base, "hidden": 16},
        "optimizer_kwargs": {"weight_decay": 0.1},
    }
    model = kind(
        SideTunedPolicy,
        EncodeOnce(venv, base) if encoded else venv,
        n_steps=8,
        batch_size=8,
        n_epochs=2,
        learning_rate=0.01,
        ent_coef=0.01,
        policy_kwargs=kwargs,
    )
    modes = []
    base.encoder.register_forward_hook(lambda module, *_: modes.append([m.training for m in module.modules()]))
    model.learn(48)
    return model, base, before, modes


def test_no_gradient(trained):
    _, base, _, _ = trained
    tensors = list(base.encoder.parameters())
    assert tensors
    assert all(not p.requires_grad and p.grad is None for p in tensors)


def test_never_in_train_mode(trained):
    model, base, _, modes = trained
    assert modes
    assert not any(any(mode) for mode in modes)
    model.policy.train()
    assert not any(m.training for m in base.modules())
    image = torch.full((1, 3, 32, 32), 0.3)
    assert torch.equal(base(image), base(image))  # no dropout


def test_tensors_are_byte_identical(trained):
    _, base, before, _ = trained
    after = base.encoder.state_dict()
    assert after.keys() == before.keys()
    for name in before:
        assert after[name].numpy().tobytes() == before[name].numpy().tobytes(), name


def test_not_in_the_optimizer(trained):
    model, base, _, _ = trained
    frozen = {id(p) for p in base.encoder.parameters()}
    held = {id(p) for group in model.policy.optimizer.param_groups for p in group["params"]}
    assert not held & frozen
    assert all(p.requires_grad for group in model.policy.optimizer.param_groups for p in group["params"])


def test_not_in_the_checkpoint(trained):
    model, base, _, _ = trained
    sizes = [tuple(t.shape) for name, t in model.policy.state_dict().items() if "encoder" in name]
    assert sizes == []
    file = io.BytesIO()
    torch.save(model.policy.state_dict(), file)
    needle = next(base.encoder.parameters()).detach().numpy().tobytes()
    assert needle not in file.getvalue()
    assert base.fingerprint.encode() in file.getvalue()


def test_the_rest_has_learned(trained):
    model, base, _, _ = trained
    fresh = SideTunedExtractor(model.observation_space, base=base, hidden=16)
    assert base in list(model.policy.modules())
    side, other = model.policy.features_extractor.perception.side, fresh.perception.side
    assert not torch.equal(next(side.parameters()), next(other.parameters()))
    assert model.policy.features_extractor.alpha_value() != 0.5
