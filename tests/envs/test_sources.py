"""Where episodes come from: buildings dealt to environments, and states that say which come next."""

from __future__ import annotations

import numpy as np
import pytest

from sideagents_envs.episodes.sources import TrainingEpisodes
from sideagents_envs.errors import EnvsError
from square_room import SquareSimulator, continued, plain, room, training


def test_buildings_are_dealt_and_sharding_changes_nothing():
    names = [f"b{i}" for i in range(7)]
    simulator = SquareSimulator(names)
    whole = TrainingEpisodes(simulator, names, 6, 3, episodes_per_building=2)
    parts = [
        TrainingEpisodes(simulator, names, 2, 3, episodes_per_building=2, first_env=first, total_envs=6)
        for first in (0, 2, 4)
    ]
    for taken in range(5):
        starts = [whole.take(env, 0) for env in range(6)]
        spread = [part.take(env, 0) for part in parts for env in range(2)]
        assert [s.episode.to_json() for s in starts] == [s.episode.to_json() for s in spread]
        assert [s.scene for s in starts] == [whole.order[(env + taken // 2 * 6) % 7] for env in range(6)]
    assert sorted(whole.order) == list(range(7))
    assert TrainingEpisodes(simulator, names, 6, 4).order != whole.order


def test_state_continues_bit_equal():
    names = ["a", "b", "c"]
    rng = np.random.default_rng(0)
    actions = rng.integers(0, 3, (200, 3))
    batch = training(names, seed=1)
    continued(batch, actions[:90])
    state = plain(batch.get_state())
    rest = continued(batch, actions[90:])
    other = training(names, seed=1)
    continued(other, actions[:7])
    other.set_state(state)
    assert continued(other, actions[90:]) == rest


def test_state_of_other_environments_is_refused():
    batch, more = room((0, 0), (0, -4)), room((0, 0), (0, -4), n=2)
    with pytest.raises(EnvsError, match="shape"):
        more.set_state(batch.get_state())
    state = batch.get_state()
    state["episodes"][0] |= {"scene_id": "castle"}
    with pytest.raises(EnvsError, match="'castle' is not among"):
        batch.set_state(state)


def test_state_after_a_new_seed_goes_into_a_batch_of_the_first_seed():
    names = [f"home{i}" for i in range(7)]
    actions = np.random.default_rng(3).integers(0, 3, (160, 3))
    batch = training(names)
    batch.source.reseed(5)
    for env in range(3):
        batch.begin(env)
    continued(batch, actions[:30])
    state = plain(batch.get_state())
    other = training(names)
    assert other.source.order != batch.source.order
    other.set_state(state)
    assert continued(other, actions[30:]) == continued(batch, actions[30:])


def test_state_names_buildings_by_their_scene_ids():
    """Two buildings of one file name are two buildings."""
    names = ["east/room", "west/room"]
    batch = training(names, n=2)
    other = training(names, n=2, seed=1)
    other.set_state(plain(batch.get_state()))
    assert [start.scene for start in other.starts] == [start.scene for start in batch.starts]
    assert sorted(start.scene for start in batch.starts) == [0, 1]


def test_states_of_lists_and_of_training_are_told_apart():
    fixed, drawn = room((0, 0), (0, -4), n=3), training(["room"], n=3, max_steps=500)
    for batch, state, said in (
        (drawn, fixed.get_state(), "has no 'rngs', it is of a fixed list"),
        (fixed, drawn.get_state(), "of training episodes, not of a fixed list"),
    ):
        state["episodes"] = [row | {"scene_id": "room"} for row in state["episodes"]]
        with pytest.raises(EnvsError, match=said):
            batch.set_state(state)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rngs": [{}] * 3}, "malformed rngs"),
        ({"rngs": []}, "malformed rngs"),
        ({"taken": [1, 2]}, "of 3 environments"),
        ({"taken": None}, "malformed rngs, taken or orders"),
        ({"orders": [[0, 1]] * 3}, "deals 2 other buildings, these environments 3"),
        ({"orders": [[0, 1, 2], [0, 1, 2], [2, 1, 0]]}, "other buildings"),
        ({"active": np.ones(2, bool)}, "active has shape"),
        ({"active": np.full(3, "yes")}, "active has shape"),
        ({"episodes": [None]}, "has 1 episodes, these are 3"),
        ({"episodes": [{}] * 3}, "'goals' is missing"),
        ({"tracks": ...}, "'tracks' is missing"),
    ],
)
def test_a_refused_state_changes_nothing(change, said):
    names = ["a", "b", "c"]
    actions = np.random.default_rng(1).integers(0, 3, (40, 3))
    saved, batch, twin = training(names, seed=4), training(names), training(names)
    continued(saved, actions)
    state = {key: value for key, value in (plain(saved.get_state()) | change).items() if value is not ...}
    with pytest.raises(EnvsError, match=said):
        batch.set_state(state)
    assert continued(batch, actions) == continued(twin, actions)
