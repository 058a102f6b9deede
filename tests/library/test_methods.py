"""Methods: what each trains, and what makes each what the paper says it is."""

import pytest
import torch

from byte_images import images
from sideagents import SideAgentsError, build_perception, load_base, trainable_copy
from sideagents.core.counting import weights_of
from sideagents.core.methods import what_is_read

BASE, SIDE = 210_896, 71_008


@pytest.fixture
def base():
    return load_base("random")


def train(model, steps=2, lr=1e-2):
    optimizer = torch.optim.AdamW(model.parameter_groups(lr, weight_decay=0.1))
    for seed in range(steps):
        optimizer.zero_grad()
        model(images(4, seed=seed)).sub(1.0).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("method", "trainable", "frozen", "needs_images", "uses_frozen_base", "alpha"),
    [
        ("sidetune", SIDE + 1, BASE, True, True, 0.5),
        ("features", 0, BASE, False, True, 1.0),
        ("finetune", BASE + SIDE + 1, 0, True, False, 0.5),
        ("scratch", BASE + SIDE + 1, 0, True, False, 0.5),
        ("stagewise", BASE, BASE, True, True, 1.0),
    ],
)
def test_what_is_trained(base, method, trainable, frozen, needs_images, uses_frozen_base, alpha):
    model = build_perception(method, base)
    assert model.summary()["total"] == {"trainable": trainable, "frozen": frozen}
    assert sum(p.numel() for p in model.trainable_parameters()) == trainable
    assert (model.needs_images, model.uses_frozen_base) == (needs_images, uses_frozen_base)
    assert model.alpha_value() == alpha


def test_features_is_the_base_and_works_from_codes_alone(base):
    model = build_perception("features", base)
    assert torch.equal(model(images(4)), base(images(4)))
    assert torch.equal(model(base_code=base(images(4))), base(images(4)))


def test_finetune_starts_as_sidetune_and_moves_its_base(base):
    torch.manual_seed(0)
    sidetune = build_perception("sidetune", base)
    torch.manual_seed(0)
    finetune = build_perception("finetune", base)
    finetune.side.load_state_dict(sidetune.side.state_dict())
    torch.testing.assert_close(finetune(images(4)), sidetune(images(4)), atol=0, rtol=0)
    before, mark = [p.clone() for p in finetune.base.parameters()], base.fingerprint
    train(finetune, 1)
    assert all(not torch.equal(a, b) for a, b in zip(before, finetune.base.parameters(), strict=True))
    assert base.fingerprint == mark


def test_scratch_has_the_graph_of_finetune_and_none_of_its_weights(base):
    finetune, scratch = build_perception("finetune", base), build_perception("scratch", base)
    assert scratch.state_dict().keys() == finetune.state_dict().keys()
    for name, parameter in scratch.base.named_parameters():
        if parameter.dim() > 1:
            same = torch.isclose(parameter, dict(base.named_parameters())[name]).float().mean()
            assert same < 1e-3, name  # two independent draws agree now and then


def test_scratch_with_a_copy_side_copies_the_shape_only(base):
    model = build_perception("scratch", base, side="copy")
    code = base(images(4))
    assert not torch.allclose(model.side(images(4)), code)
    assert not torch.allclose(model.base(images(4)), code)


def test_scratch_keeps_the_low_energy_start_of_a_copy_side(base):
    loud = build_perception("scratch", base, side="copy").side.eval()
    quiet = build_perception("scratch", base, side="copy", side_init="low_energy").side.eval()
    assert quiet(images(4)).square().mean().sqrt() < 0.02 * loud(images(4)).square().mean().sqrt()


def test_stagewise_is_continuous_at_the_switch(base):
    model = build_perception("stagewise", base, alpha="stagewise:0.5")
    model.set_progress(0.49)
    head = torch.nn.Conv2d(8, 1, 1)  # a readout gives the first stage something to learn
    optimizer = torch.optim.AdamW([*model.parameter_groups(1e-2, weight_decay=0.1), {"params": head.parameters()}])
    head(model(images(4))).square().mean().backward()
    optimizer.step()
    first = model(images(4))
    model.set_progress(0.5)
    assert model.alpha_value() == 0.0
    assert torch.equal(model(images(4)).detach(), first)
    train(model, 1)
    assert not torch.allclose(model(images(4)), first)
    assert torch.equal(base(images(4)), first)


def test_side_initialisation_is_passed_on(base):
    quiet = build_perception("sidetune", base, side_init="low_energy")
    assert quiet.side(images(4).float() / 255).abs().max() < 0.05
    twin = build_perception("sidetune", base, side="copy")
    torch.testing.assert_close(twin(images(4)), base(images(4)), atol=1e-6, rtol=1e-6)


def test_side_options_and_input_size_are_passed_on(base):
    model = build_perception("sidetune", base, side_options={"width": 16}, input_size=(84, 84))
    assert weights_of(model.side) < SIDE
    assert model.input_size == (84, 84)


def test_gradients_of_a_copied_base_equal_those_of_the_encoder(base):
    learner = trainable_copy(base)
    learner(images(4)).sum().backward()
    plain = [p.detach().clone().requires_grad_() for p in learner.parameters()]
    names = [name.removeprefix("encoder.") for name, _ in learner.named_parameters()]
    x = (images(4).float() / 255 - 0.5) / 0.5
    torch.func.functional_call(base.encoder, dict(zip(names, plain, strict=True)), (x,)).sum().backward()
    for ours, theirs in zip(learner.parameters(), plain, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "sidetun"}, "unknown method 'sidetun', did you mean 'sidetune'"),
        ({"method": "stagewise", "alpha": "linear"}, "alpha is stagewise:FRACTION, got 'linear'"),
        ({"method": "scratch", "side_init": "copy"}, "starts from nothing learned"),
        ({"method": "sidetune", "side": "con"}, "unknown side 'con', did you mean 'conv'"),
        ({"method": "sidetune", "side_options": {"depth": 3}}, "side 'conv' cannot be built"),
    ],
)
def test_wrong_methods_are_one_clear_line(base, arguments, message):
    with pytest.raises(SideAgentsError, match=message):
        build_perception(base=base, **arguments)


@pytest.mark.parametrize(
    ("method", "side", "read"),
    [
        ("sidetune", "conv", (True, True)),
        ("sidetune", "feedback", (False, True)),  # looks inside the base, which is run for it
        ("stagewise", "feedback", (True, True)),  # has a copy of the base for a side, whatever is asked for
        ("features", "feedback", (True, False)),
        ("finetune", "conv", (False, True)),
    ],
)
def test_what_is_read_is_known_before_anything_is_built(method: str, side: str, read: tuple[bool, bool]) -> None:
    assert what_is_read(method, side) == read
