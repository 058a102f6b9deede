import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

from sideagents.errors import CheckpointError, SideAgentsError
from sideagents_policies.agent.extractor import GoalFeatures, SideTunedExtractor
from tiny_env import tiny_base

RGB = spaces.Box(0, 255, (3, 32, 32), np.uint8)
MAP = spaces.Box(0, 255, (3, 84, 84), np.uint8)


def codes(frames=1):
    return spaces.Box(-np.inf, np.inf, (4 * frames, 8, 8), np.float32)


def goals(k=1):
    return spaces.Box(-np.inf, np.inf, (3 * k,), np.float32)


SPACE = spaces.Dict(rgb=RGB, base=codes(), map=MAP, goal=goals(4))


def sample(space, n=3, seed=0):
    rng = np.random.default_rng(seed)
    result = {}
    for key, box in space.spaces.items():
        if box.dtype == np.uint8:
            result[key] = torch.from_numpy(rng.integers(0, 256, (n, *box.shape), dtype=np.uint8))
        else:
            result[key] = torch.from_numpy(rng.random((n, *box.shape), dtype=np.float32))
    return result


def make(seed=0, **kwargs):
    torch.manual_seed(seed)
    space = kwargs.pop("space", SPACE)
    return SideTunedExtractor(space, **{"base": tiny_base(), "hidden": 32, **kwargs}), sample(space)


def test_goal_readings_by_hand():
    goal = torch.tensor([[0.0, 0.0, 0.0, 2.0, 1.0, 0.0, 1.75, math.cos(0.1), math.sin(0.1)]])
    values = GoalFeatures(9)(goal)[0].tolist()
    expected = [0.0, 0.2, 0.175]  # r / 10
    expected += [0.0, math.log(3.0) / 2, math.log(2.75) / 2]
    expected += [0.0, 1.0, math.cos(0.1)]
    expected += [0.0, 0.0, math.sin(0.1)]
    expected += [0.0, -1.0]  # one step of 0.25 m nearer; the pair with the empty reading is zero
    expected += [0.0, 5.0 * math.sin(0.1)]  # the goal moved 0.1 rad to the left
    assert values == pytest.approx(expected, abs=1e-6)
    with pytest.raises(SideAgentsError, match="3 numbers"):
        GoalFeatures(4)


@pytest.mark.parametrize("alpha", [1.0, 0.0])
def test_alpha_one_is_the_base_and_zero_the_side_to_the_bit(alpha):
    extractor, obs = make(alpha=f"fixed:{alpha}")
    code = extractor.merged_code(obs)
    if alpha == 1.0:
        assert torch.equal(code, obs["base"])
        with torch.no_grad():
            features = extractor(obs)
            for parameter in extractor.perception.side.parameters():
                parameter.fill_(math.nan)
            assert torch.equal(extractor(obs), features)
    else:
        side = extractor.perception.side(obs["rgb"].float() / 255.0)
        assert torch.equal(code, side)
        features = extractor(obs)
        assert torch.equal(extractor({**obs, "base": torch.full_like(obs["base"], math.nan)}), features)


def test_the_base_is_not_run_when_its_code_is_there_and_runs_inside_when_it_is_not():
    base, calls = tiny_base(), []
    base.encoder.register_forward_pre_hook(lambda module, inputs: calls.append(len(inputs[0])))
    space = spaces.Dict(rgb=RGB, goal=goals())
    inside = SideTunedExtractor(space, base=base, hidden=16)
    torch.manual_seed(0)
    outside = SideTunedExtractor(spaces.Dict({**space.spaces, "base": codes()}), base=base, hidden=16)
    outside.load_state_dict(inside.state_dict())
    calls.clear()
    obs = sample(space)
    features = inside(obs)
    assert calls == [3]
    with torch.no_grad():
        obs["base"] = base(obs["rgb"])
    calls.clear()
    assert torch.allclose(outside(obs), features, atol=1e-6)
    assert calls == []
    features.sum().backward()
    assert all(p.grad is None for p in base.parameters())
    assert inside.perception.alpha.raw_alpha.grad is not None


def test_layout_and_preprocessing_of_images_make_no_difference():
    extractor, obs = make()
    features = extractor(obs)
    floats = {key: value.float() / 255.0 if value.dtype == torch.uint8 else value for key, value in obs.items()}
    before = {key: value.clone() for key, value in floats.items()}
    assert torch.allclose(extractor(floats), features, atol=1e-5)
    assert all(torch.equal(floats[key], before[key]) for key in floats)  # nothing is normalised in place
    last = spaces.Dict(
        rgb=spaces.Box(0, 255, (32, 32, 3), np.uint8),
        base=codes(),
        map=spaces.Box(0, 255, (84, 84, 3), np.uint8),
        goal=goals(4),
    )
    other = SideTunedExtractor(last, base=tiny_base(), hidden=32)
    other.load_state_dict(extractor.state_dict())
    moved = {key: value.permute(0, 2, 3, 1) if value.dtype == torch.uint8 else value for key, value in obs.items()}
    assert torch.allclose(other(moved), features, atol=1e-5)


@pytest.mark.parametrize("channels", [None, 2])
def test_every_part_of_the_observation_matters_and_the_channels_of_the_map_that_are_read(channels):
    extractor, obs = make(map_channels=channels)
    features = extractor(obs)
    for key in obs:
        changed = {**obs, key: sample(SPACE, seed=1)[key]}
        assert not torch.allclose(extractor(changed), features), key
    third = obs["map"].clone()
    third[:, 2] = 7
    assert torch.equal(extractor({**obs, "map": third}), features) == (channels == 2)
    assert extractor.map_tower.body[0].weight.shape[1] == (channels or 3)


def test_a_blind_agent_sees_goal_and_map_only():
    extractor, obs = make(use_rgb=False)
    features = extractor(obs)
    for key in ("rgb", "base"):
        assert torch.equal(extractor({**obs, key: torch.zeros_like(obs[key])}), features)
    assert extractor.perception is None
    assert extractor.base is None
    assert math.isnan(extractor.alpha_value())


def test_features_need_no_images_once_codes_are_there():
    space = spaces.Dict(base=codes(), goal=goals())
    extractor, obs = make(space=space, method="features")
    assert extractor(obs).shape == (3, 32)
    assert extractor.alpha_value() == 1.0
    with pytest.raises(SideAgentsError, match="needs images"):
        make(space=space)


def test_stacked_codes_with_one_image_are_put_beside_the_merged_newest():
    space = spaces.Dict(rgb=RGB, base=codes(3), goal=goals())
    extractor, obs = make(space=space)
    merged = extractor.merged_code(obs)
    single, _ = make(space=spaces.Dict(rgb=RGB, base=codes()))
    single.perception.load_state_dict(extractor.perception.state_dict())
    assert torch.equal(merged[:, :8], obs["base"][:, :8])
    newest = single.merged_code({"rgb": obs["rgb"], "base": obs["base"][:, 8:]})
    assert torch.equal(merged[:, 8:], newest)
    assert extractor(obs).shape == (3, 32)


@pytest.mark.parametrize("encoded", [True, False])
def test_stacked_images_and_codes_are_merged_frame_by_frame(encoded):
    rgb = spaces.Box(0, 255, (6, 32, 32), np.uint8)
    space = spaces.Dict(rgb=rgb, base=codes(2)) if encoded else spaces.Dict(rgb=rgb)
    extractor, obs = make(space=space)
    merged = extractor.merged_code(obs)
    assert merged.shape == (3, 8, 8, 8)
    for frame in range(2):
        images = obs["rgb"][:, 3 * frame : 3 * frame + 3]
        code = obs["base"][:, 4 * frame : 4 * frame + 4] if encoded else None
        assert torch.allclose(merged[:, 4 * frame : 4 * frame + 4], extractor.perception(images, code), atol=1e-6)
    assert extractor(obs).shape == (3, 32)


@pytest.mark.parametrize("method", ["finetune", "scratch", "stagewise"])
def test_methods_that_train_perception_ignore_stored_codes_where_they_must(method):
    extractor, obs = make(method=method)
    extractor.eval().set_progress(1.0, 10.0)  # eval: the tiny base has dropout
    features = extractor(obs)
    assert torch.equal(extractor({**obs, "base": obs["base"] + 1.0}), features)
    features.sum().backward()
    assert sum(float(p.grad.abs().sum()) for p in extractor.perception.parameters() if p.grad is not None) > 0.0


def test_vector_codes_and_codes_without_groups_of_four():
    torch.manual_seed(0)
    for shape in ((6,), (3, 8, 8)):
        extractor = SideTunedExtractor(spaces.Dict(rgb=RGB, goal=goals()), base=_base_of(shape), hidden=16)
        features = extractor(sample(spaces.Dict(rgb=RGB, goal=goals())))
        assert features.shape == (3, 16)
        assert torch.isfinite(features).all()


def _base_of(shape):
    from sideagents.core.base import FrozenBase

    layers = [torch.nn.Conv2d(3, shape[0], 4, 4)]
    if len(shape) == 1:
        layers += [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    return FrozenBase(torch.nn.Sequential(*layers), "shaped", (32, 32))


def test_depth_in_metres_has_its_own_tower():
    space = spaces.Dict(depth=spaces.Box(0.0, 10.0, (64, 64, 1), np.float32), goal=goals())
    extractor, obs = make(space=space)
    assert not torch.allclose(extractor(obs), extractor({**obs, "depth": obs["depth"] + 1.0}))


def test_bfloat16_autocast_stays_close():
    extractor, obs = make()
    with torch.autocast("cpu", torch.bfloat16):
        rough = extractor(obs)
    assert torch.allclose(rough.float(), extractor(obs), atol=0.1)


def test_curriculum_moves_alpha():
    extractor, _ = make(alpha="linear")
    assert extractor.alpha_value() == 1.0
    extractor.set_progress(0.25)
    assert extractor.alpha_value() == 0.75


def test_a_checkpoint_of_another_base_is_refused_and_holds_no_base():
    extractor, _ = make()
    state = extractor.state_dict()
    assert not [name for name in state if "encoder" in name]
    other = SideTunedExtractor(SPACE, base=tiny_base(seed=4), hidden=32)
    with pytest.raises(CheckpointError, match=r"trained on the base with fingerprint [0-9a-f]{12}"):
        other.load_state_dict(state)
    blind, _ = make(use_rgb=False)
    blind.load_state_dict(blind.state_dict())


@pytest.mark.parametrize(
    ("space", "kwargs", "message"),
    [
        (spaces.Dict(rgb=goals()), {}, r"obs\['rgb'\] must be an image"),
        (spaces.Dict(rgb=RGB), {"use_rgb": False}, "nothing to see"),
        (spaces.Dict(rgb=RGB, base=spaces.Box(-1, 1, (8, 8, 8), np.float32)), {"base": "random"}, None),
        (spaces.Dict(rgb=RGB, base=spaces.Box(-1, 1, (5, 8, 8), np.float32)), {}, r"has shape \(5, 8, 8\), but base"),
        (spaces.Box(0, 255, (4, 32, 32), np.uint8), {}, "reads 3 channels, the images have 4"),
        (spaces.Dict(rgb=RGB, map=spaces.Box(0, 255, (20, 20, 3), np.uint8)), {}, "at least 36 x 36"),
        (spaces.Dict(rgb=RGB, map=MAP), {"map_channels": 4}, r"map_channels=4: obs\['map'\] has 3 channels"),
        (RGB, {"base": "curvatur"}, "curvature"),
        (RGB, {"method": "sidetuna"}, "sidetune"),
    ],
)
def test_mistakes_are_one_clear_line(space, kwargs, message):
    if message is None:
        make(space=space, **kwargs)
        return
    with pytest.raises(SideAgentsError, match=message) as caught:
        make(space=space, **kwargs)
    assert "\n" not in str(caught.value)


def test_a_recurrent_network_reads_its_features_flat():
    """Features of steps x sequences at once and an LSTM over them learn what acted step by step."""
    torch.manual_seed(0)
    space = spaces.Dict(rgb=spaces.Box(0, 255, (3, 32, 32), np.uint8), goal=spaces.Box(-9, 9, (3,), np.float32))
    extractor = SideTunedExtractor(space, base=tiny_base(), hidden=16)
    lstm, head = torch.nn.LSTM(16, 8), torch.nn.Linear(8, 3)
    steps, sequences = 5, 2
    rgb = torch.randint(0, 256, (steps, sequences, 3, 32, 32), dtype=torch.uint8)
    goal = torch.rand(steps, sequences, 3)
    acted, memory = [], None
    with torch.no_grad():
        for step in range(steps):
            seen, memory = lstm(extractor({"rgb": rgb[step], "goal": goal[step]})[None], memory)
            acted.append(head(seen[0]))
    for part in (extractor, lstm, head):
        part.train()
    features = extractor({"rgb": rgb.flatten(0, 1), "goal": goal.flatten(0, 1)})
    learned = head(lstm(features.reshape(steps, sequences, 16))[0])
    torch.testing.assert_close(learned.detach(), torch.stack(acted))
    learned.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in extractor.perception.side.parameters())
    assert extractor.perception.alpha.raw_alpha.grad is not None
