"""Elastic weight consolidation by hand-worked penalties, anchors and accumulated Fishers."""

import pytest
import torch
from torch import nn

from sideagents import CheckpointError, SideAgentsError
from sideagents.lifelong.ewc import EWC
from sideagents.storage.tensors import load_tensors, save_tensors


def weights(*values):
    return {"w": nn.Parameter(torch.tensor(values))}


def three_tasks(mode, gamma=1.0):
    """Weights (1, 1), (2, 4), (3, 9) after three tasks with Fishers (1, 0), (2, 1), (4, 2); they are (5, 10) now."""
    held = weights(0.0, 0.0)
    ewc = EWC(held, 10.0, mode, gamma)
    for anchor, fisher in (((1.0, 1.0), (1.0, 0.0)), ((2.0, 4.0), (2.0, 1.0)), ((3.0, 9.0), (4.0, 2.0))):
        held["w"].data = torch.tensor(anchor)
        ewc.remember({"w": torch.tensor(fisher)})
    held["w"].data = torch.tensor([5.0, 10.0])
    return held, ewc


def test_separate_keeps_each_task_as_it_was():
    held, ewc = three_tasks("separate")
    state = ewc.state_dict()
    assert [state[f"{task}.anchor.w"].tolist() for task in range(3)] == [[1, 1], [2, 4], [3, 9]]
    assert [state[f"{task}.fisher.w"].tolist() for task in range(3)] == [[1, 0], [2, 1], [4, 2]]
    # 1 * 16 + 2 * 9 + 1 * 36 + 4 * 4 + 2 * 1
    penalty = ewc.penalty()
    assert penalty.item() == 10 / 2 * 88
    penalty.backward()
    # lambda * sum F (theta - anchor): 10 * (1 * 4 + 2 * 3 + 4 * 2), 10 * (1 * 6 + 2 * 1)
    assert held["w"].grad.tolist() == [180.0, 80.0]


@pytest.mark.parametrize(
    ("gamma", "fisher"),
    [(1.0, [7.0, 3.0]), (0.5, [0.25 * 1 + 0.5 * 2 + 4, 0.5 * 1 + 2]), (0.0, [4.0, 2.0])],
)
def test_online_keeps_the_latest_anchor_and_applies_gamma_once(gamma, fisher):
    _, ewc = three_tasks("online", gamma)
    assert {name: tensor.tolist() for name, tensor in ewc.state_dict().items()} == {
        "0.anchor.w": [3.0, 9.0],
        "0.fisher.w": fisher,
    }
    assert ewc.penalty().item() == 10 / 2 * (fisher[0] * 4 + fisher[1] * 1)


@pytest.mark.parametrize("mode", ["separate", "online"])
def test_nothing_is_held_before_the_first_task_and_nothing_pulls_at_the_anchor(mode):
    held = weights(1.0, 2.0)
    ewc = EWC(held, 1e5, mode)
    assert ewc.penalty().item() == 0.0
    ewc.remember({"w": torch.ones(2)})
    penalty = ewc.penalty()
    penalty.backward()
    assert penalty.item() == 0.0
    assert held["w"].grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("mode", ["separate", "online"])
def test_what_is_held_is_detached_and_no_ones_else(mode):
    held = weights(1.0, 2.0)
    ewc = EWC(held, 1.0, mode)
    fisher = torch.ones(2)
    ewc.remember({"w": fisher})
    with torch.no_grad():
        held["w"].add_(1.0)
        fisher.zero_()
    assert ewc.penalty().item() == 1.0
    assert not any(tensor.requires_grad for tensor in ewc.state_dict().values())


@pytest.mark.parametrize("mode", ["separate", "online"])
def test_a_resumed_run_has_the_same_penalty(mode, tmp_path):
    held, ewc = three_tasks(mode)
    save_tensors(tmp_path / "ewc.safetensors", ewc.state_dict())
    resumed = EWC({"w": nn.Parameter(held["w"].detach().clone())}, 10.0, mode)
    resumed.load_state_dict(load_tensors(tmp_path / "ewc.safetensors"))
    assert torch.equal(resumed.penalty(), ewc.penalty())
    for one in (ewc, resumed):
        one.remember({"w": torch.ones(2)})
    assert ewc.state_dict().keys() == resumed.state_dict().keys()
    for name, tensor in ewc.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name])


def test_an_empty_state_can_be_loaded():
    _, ewc = three_tasks("separate")
    ewc.load_state_dict(EWC(weights(1.0, 1.0), 1.0).state_dict())
    assert ewc.penalty().item() == 0.0


def test_a_held_weight_stays_where_a_free_one_moves():
    held = weights(0.0, 0.0)
    ewc = EWC(held, 1.0)
    ewc.remember({"w": torch.tensor([99.0, 0.0])})
    optimizer = torch.optim.SGD(held.values(), lr=0.01)
    for _ in range(2000):
        optimizer.zero_grad()
        (0.5 * (held["w"] - 1.0).square().sum() + ewc.penalty()).backward()
        optimizer.step()
    torch.testing.assert_close(held["w"].detach(), torch.tensor([0.01, 1.0]))


def test_states_that_do_not_fit_are_one_clear_line():
    _, ewc = three_tasks("separate")
    state = ewc.state_dict()
    with pytest.raises(CheckpointError, match=r"'0\.anchor\.v' is missing"):
        EWC({"v": nn.Parameter(torch.zeros(2))}, 1.0).load_state_dict(state)
    with pytest.raises(CheckpointError, match=r"'0.anchor.w' has shape \(2,\) instead of \(3,\)"):
        EWC(weights(0.0, 0.0, 0.0), 1.0).load_state_dict(state)
    with pytest.raises(CheckpointError, match="holds 3 tasks apart; mode 'online' keeps one"):
        EWC(weights(0.0, 0.0), 1.0, "online").load_state_dict(state)
    del state["1.fisher.w"]
    with pytest.raises(CheckpointError, match=r"'1\.fisher\.w' is missing"):
        ewc.load_state_dict(state)


def test_wrong_settings_are_one_clear_line():
    with pytest.raises(SideAgentsError, match="unknown EWC mode 'onlin', did you mean 'online'"):
        EWC(weights(0.0), 1.0, "onlin")
    with pytest.raises(SideAgentsError, match="at least one shared parameter"):
        EWC({}, 1.0)
    with pytest.raises(SideAgentsError, match="'w' is frozen"):
        EWC({"w": nn.Parameter(torch.zeros(1), requires_grad=False)}, 1.0)
    for strength in (-1.0, float("nan"), float("inf")):
        with pytest.raises(SideAgentsError, match="finite and at least 0"):
            EWC(weights(0.0), strength)
    for mode, gamma in (("online", 1.5), ("online", -0.1), ("separate", 0.9)):
        with pytest.raises(SideAgentsError, match="gamma is between 0 and 1"):
            EWC(weights(0.0), 1.0, mode, gamma)


def test_wrong_fishers_are_one_clear_line():
    ewc = EWC(weights(0.0, 0.0), 1.0)
    with pytest.raises(SideAgentsError, match="'v' is on one side only"):
        ewc.remember({"w": torch.ones(2), "v": torch.ones(2)})
    with pytest.raises(SideAgentsError, match=r"has shape \(2, 1\), its parameter \(2,\)"):
        ewc.remember({"w": torch.ones(2, 1)})
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(SideAgentsError, match="finite and not negative"):
            ewc.remember({"w": torch.tensor([1.0, bad])})
    assert ewc.state_dict() == {}
