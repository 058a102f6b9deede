"""Our simulator against habitat-sim, through habitat-lab: same buildings, same episodes, same actions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sideagents_envs.habitat import importing

pytestmark = pytest.mark.habitat_sim
if not (importing.has_habitat_lab() and importing.has_habitat_sim()):
    pytest.skip("habitat-sim is not installed (conda or from source)", allow_module_level=True)

from sideagents_envs.batch.build import BatchSpec, make_batch  # noqa: E402
from sideagents_envs.config import CameraConfig, HabitatConfig, TaskConfig  # noqa: E402

CAMERA = CameraConfig(128, 128)
TASK = TaskConfig(stop="explicit", depth=True)
EPISODES = (0, 40, 90, 150)  # of `val`, in three buildings


@pytest.fixture(scope="module")
def both() -> tuple[Any, Any]:
    """The same environments on our simulator and on habitat-sim."""
    ours, theirs = (
        make_batch(BatchSpec(1, "val", 0, CAMERA, TASK, habitat=HabitatConfig(), habitat_simulator=name))
        for name in ("sideagents", "habitat_sim")
    )
    return ours, theirs


@pytest.mark.parametrize("number", EPISODES)
def test_the_same_actions_lead_to_the_same_places(both: tuple[Any, Any], number: int) -> None:
    ours, theirs = both
    for batch in both:
        batch.begin(0, number)
    navmesh = ours.bodies.simulator.navmesh(ours.starts[0].scene)
    places, turns, gaps = [], [], []
    for _ in range(200):
        action = ours.expert_actions()
        if action[0] == 3:
            break
        for batch in both:
            batch.step(action)
        places.append(np.abs(ours.poses[0, [0, 2]] - theirs.poses[0, [0, 2]]).max())
        turns.append(abs(np.remainder(ours.poses[0, 3] - theirs.poses[0, 3] + np.pi, 2 * np.pi) - np.pi))
        gaps.append(navmesh.clearance(ours.poses[0, :3]))
    # habitat-sim's walls are up to a cell thicker, and it pushes an agent out of them without calling it a collision
    free = np.minimum.accumulate(gaps) > 0.1 + 0.05
    assert free.sum() > 10
    assert max(np.array(places)[free]) < 0.01
    assert max(places) < 0.05
    assert max(turns) < 1e-4
    distances = [batch.summary(0)["distance_to_goal"] for batch in both]
    assert distances[0] == pytest.approx(distances[1], abs=0.05)


def test_distances_between_random_places(both: tuple[Any, Any]) -> None:
    # habitat-sim's path finder is approximate, and its walls are thicker by up to a cell: it never finds a way much
    # shorter than ours, and now and then one that is longer
    ours, theirs = both
    for batch in both:
        batch.begin(0, 0)
    navmesh, sim = ours.bodies.simulator.navmesh(ours.starts[0].scene), theirs.bodies.lab[0].sim
    points = navmesh.sample(np.random.default_rng(0), 200)
    ratios = []
    for start, goal in zip(points[::2], points[1::2], strict=True):
        there = [np.array(sim.pathfinder.snap_point(p.astype(np.float32))) for p in (start, goal)]
        ratios.append(sim.geodesic_distance(there[0], there[1]) / navmesh.geodesic(start, goal))
    assert abs(np.median(ratios) - 1) < 0.01
    assert (np.abs(np.array(ratios) - 1) < 0.02).mean() > 0.8
    assert np.percentile(ratios, 2) > 0.98


@pytest.mark.parametrize("number", EPISODES)
def test_the_same_view_from_the_same_place(both: tuple[Any, Any], number: int) -> None:
    ours, theirs = both
    for batch in both:
        batch.begin(0, number)
    for _ in range(6):
        theirs.step(np.array([1]))
        # the floor that habitat-sim walks on lies a little higher than the mesh: look from its height
        state = theirs.bodies.lab[0].sim.get_agent_state()
        view = theirs.observe()
        seen = ours.bodies.simulator.render(np.array([ours.starts[0].scene]), _pose(theirs), ("rgb", "depth"))
        assert state.position[1] == pytest.approx(theirs.poses[0, 1])
        depth, expected = seen["depth"][0], view["depth"][0, ..., 0]
        both_hit = (depth > 0) & (expected > 0)
        assert both_hit.mean() > 0.95
        assert np.median(np.abs(depth - expected)[both_hit]) < 0.01
        difference = np.abs(seen["rgb"][0].astype(float) - view["rgb"][0].astype(float))
        assert np.median(difference) < 8


def _pose(batch: Any) -> Any:
    return batch.poses.copy()


@pytest.mark.parametrize("name", ["sideagents", "habitat_sim"])
def test_the_expert_reaches_the_goal_on_both(name: Any) -> None:
    batch: Any = make_batch(
        BatchSpec(1, "val", 0, CameraConfig(8, 8), TASK, habitat=HabitatConfig(), habitat_simulator=name)
    )
    rows = []
    for number in range(10):
        batch.begin(0, number)
        while batch.active[0]:
            result = batch.step(batch.expert_actions())
        info, lab = result.infos[0], batch.bodies.lab[0].get_metrics()
        assert info["spl"] == pytest.approx(lab["spl"], abs=1e-5)
        rows.append((info["is_success"], info["spl"]))
    success, spl = np.mean(rows, axis=0)
    assert success >= 0.9
    assert spl >= 0.85
    batch.close()


def test_buildings_are_switched_without_images() -> None:
    task = TaskConfig(rgb=False)
    batch: Any = make_batch(BatchSpec(1, "val", task=task, habitat=HabitatConfig(), habitat_simulator="habitat_sim"))
    for number in (0, 80, 150, 0):
        batch.begin(0, number)
        assert set(batch.observe()) == {"goal", "map"}
        batch.step(batch.expert_actions())
    batch.close()
