from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glb import box, quad, write_glb
from sideagents_envs.habitat import importing

if not importing.has_habitat_lab():
    pytest.skip("habitat-lab is not installed (the `habitat` extra)", allow_module_level=True)

import sideagents_envs.habitat
from sideagents_envs.errors import EnvsError, EpisodeError, SceneError
from sideagents_envs.scenes.stage import SUFFIX

sideagents_envs.habitat.register()

import habitat  # noqa: E402
from habitat.config.default import get_config  # noqa: E402

ROOM = [quad((0, 0, 0), (6, 0, 0), (6, 0, -4), (0, 0, -4)), box((2, 0, -3), (3, 2, -2))]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A floor of 6 x 4 m with a pillar, and two PointNav-v1 episodes in Habitat's layout of folders."""
    (tmp_path / "scenes").mkdir()
    path = write_glb(tmp_path / "scenes" / "room.glb", ROOM)
    path.with_name(f"room{SUFFIX}").write_text(json.dumps({"render_asset": "room.glb"}))
    rows = [
        {
            "episode_id": str(number),
            "scene_id": "room.glb",
            "start_position": [0.5, 0.0, -2.5],
            "start_rotation": [0.0, -0.70710678, 0.0, 0.70710678],  # towards +x
            "goals": [{"position": goal, "radius": 0.2}],
            "info": {"geodesic_distance": 1.0},
        }
        for number, goal in enumerate(([1.5, 0.0, -2.5], [5.5, 0.0, -2.5]))
    ]
    (tmp_path / "train.json").write_text(json.dumps({"episodes": rows}))
    (tmp_path / "train.json.gz").write_bytes(gzip.compress((tmp_path / "train.json").read_bytes()))
    return tmp_path


def config(data: Path, *overrides: str) -> Any:
    return get_config(
        "benchmark/nav/pointnav/pointnav_gibson.yaml",
        overrides=[
            "habitat.simulator.type=SideAgents-v0",
            f"habitat.dataset.data_path={data / 'train.json.gz'}",
            f"habitat.dataset.scenes_dir={data / 'scenes'}",
            "habitat.environment.iterator_options.shuffle=False",
            *overrides,
        ],
    )


def test_registering_twice_is_once() -> None:
    from habitat.core.registry import registry

    before = registry.get_simulator("SideAgents-v0")
    sideagents_envs.habitat.register()
    assert registry.get_simulator("SideAgents-v0") is before


def test_an_episode_with_habitats_own_measures(data: Path) -> None:
    group = "habitat/task/measurements@habitat.task.measurements"
    extras = [f"+{group}.{name}={name}" for name in ("soft_spl", "collisions", "top_down_map")]
    with habitat.Env(config(data, *extras)) as env:
        seen = env.reset()
        assert seen["rgb"].shape == (256, 256, 3)
        assert seen["depth"].dtype == np.float32
        # the pillar's face is 1.5 m ahead: of Habitat's range of 10 m, 0.15
        assert seen["depth"][128, 128, 0] == pytest.approx(0.15, abs=1e-3)
        assert seen["pointgoal_with_gps_compass"] == pytest.approx([1.0, 0.0], abs=1e-4)
        for _ in range(4):
            env.step("move_forward")
        seen = env.step("stop")
        metrics = env.get_metrics()
        assert metrics["success"] == metrics["spl"] == 1.0
        assert metrics["distance_to_goal"] == pytest.approx(0.0, abs=1e-6)
        assert metrics["collisions"]["count"] == 0
        shown = metrics["top_down_map"]["map"]
        assert shown.shape[0] / shown.shape[1] == pytest.approx(3.8 / 5.8, abs=0.05)
        assert (shown > 0).mean() > 0.5


def test_walking_into_the_pillar(data: Path) -> None:
    env = habitat.Env(config(data, "habitat.simulator.habitat_sim_v0.allow_sliding=False"))
    env.reset()
    env.reset()  # the second episode: the goal is behind the pillar
    start = env.get_metrics()["distance_to_goal"]
    assert start > 5.0
    hits = []
    for _ in range(7):
        env.step("move_forward")
        hits.append(env.sim.previous_step_collided)
    assert hits == [False] * 5 + [True] * 2  # 1.4 m are free
    assert env.sim.get_agent_state().position == pytest.approx([1.9, 0.0, -2.5], abs=0.03)
    env.step("turn_left")
    rotation = env.sim.get_agent_state().rotation
    assert [rotation.x, rotation.y, rotation.z] == pytest.approx([0, np.sin(np.radians(-80) / 2), 0], abs=1e-6)


def test_the_rest_of_the_interface(data: Path) -> None:
    sim = habitat.Env(config(data)).sim
    assert sim.geodesic_distance([0.5, 0, -2.5], [1.5, 0, -2.5]) == pytest.approx(1.0)
    several = [[5.5, 0, -2.5], [1.0, 0, -2.5]]
    assert sim.geodesic_distance([0.5, 0, -2.5], several) == pytest.approx(0.5)
    assert sim.geodesic_distance([0.5, 0, -2.5], [20.0, 0, 0]) == np.inf
    path = sim.get_straight_shortest_path_points([0.5, 0, -2.5], [5.5, 0, -2.5])
    length = sum(np.linalg.norm(b - a) for a, b in itertools.pairwise(path))
    assert length == pytest.approx(sim.geodesic_distance([0.5, 0, -2.5], [5.5, 0, -2.5]), abs=2e-3)
    assert sim.is_navigable([0.5, 0, -2.5])
    assert not sim.is_navigable([2.5, 0, -2.5])
    sim.seed(3)
    first = sim.sample_navigable_point()
    sim.seed(3)
    assert sim.sample_navigable_point() == first
    assert sim.set_agent_state([4.0, 0.0, -1.0], [0, 0, 0, 1])
    there = sim.get_observations_at([0.5, 0.0, -2.5], [0.0, -0.70710678, 0.0, 0.70710678])
    assert there["depth"][128, 128, 0] == pytest.approx(0.15, abs=1e-3)
    turned = sim.get_observations_at([0.5, 0.0, -2.5], np.quaternion(0.70710678, 0.0, -0.70710678, 0.0))
    np.testing.assert_array_equal(turned["depth"], there["depth"])
    assert sim.get_agent_state().position.tolist() == [4.0, 0.0, -1.0]
    assert sim.distance_to_closest_obstacle([4.0, 0.0, -2.5]) == pytest.approx(1.0, abs=0.06)
    low, high = sim.pathfinder.get_bounds()
    assert [*low, *high] == pytest.approx([0.1, 0, -3.9, 5.9, 0, -0.1], abs=0.06)
    view = sim.pathfinder.get_topdown_view(meters_per_pixel=0.1, height=0.0)
    assert view.dtype == bool
    assert sim.pathfinder.navigable_area == pytest.approx(view.sum() * 0.01, rel=0.05)
    assert sim.island_radius([4.0, 0.0, -1.0]) == pytest.approx(np.hypot(2.9, 1.9), abs=0.3)
    assert sim.render("rgb").shape == (256, 256, 3)
    assert sim.forward_vector.tolist() == [0, 0, -1]


def test_a_bare_file_has_z_up_as_in_habitat_sim(data: Path) -> None:
    turned = [quad((0, 0, 0), (6, 0, 0), (6, 4, 0), (0, 4, 0)), box((2, 2, 0), (3, 3, 2))]
    (data / "scenes" / f"room{SUFFIX}").unlink()
    write_glb(data / "scenes" / "room.glb", turned)
    with habitat.Env(config(data)) as env:
        assert env.reset()["depth"][128, 128, 0] == pytest.approx(0.15, abs=1e-3)


def test_a_bare_file_with_y_up_is_told_with_the_file_that_mends_it(data: Path) -> None:
    (data / "scenes" / f"room{SUFFIX}").unlink()
    with pytest.raises(EnvsError, match=r"bare \.glb with Z up, one with Y up needs the file room") as caught:
        habitat.Env(config(data)).reset()
    assert "\n" not in str(caught.value)
    remedy = str(caught.value).rpartition("beside it: ")[2]
    (data / "scenes" / f"room{SUFFIX}").write_text(remedy)
    with habitat.Env(config(data)) as env:
        env.reset()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ("scene", SceneError, "room.glb: no such building; habitat.dataset.scenes_dir"),
        ("start", EpisodeError, "episode '0': the start"),
        ("tilt", EnvsError, "looks straight ahead"),
        ("sensor", EnvsError, "HabitatSimFisheyeRGBSensor is not supported"),
    ],
)
def test_what_cannot_be_played_is_told_in_a_line(data: Path, change: str, error: type[Exception], message: str) -> None:
    overrides = []
    cameras = "habitat.simulator.agents.main_agent.sim_sensors.rgb_sensor"
    if change == "scene":
        (data / "scenes" / "room.glb").unlink()
        (data / "scenes" / f"room{SUFFIX}").unlink()
    elif change == "start":
        text = (data / "train.json").read_text().replace("[0.5, 0.0, -2.5]", "[2.5, 0.0, -2.5]")
        (data / "train.json.gz").write_bytes(gzip.compress(text.encode()))
    elif change == "tilt":
        overrides = [f"{cameras}.orientation=[0.3,0.0,0.0]"]
    else:
        overrides = [f"{cameras}.type=HabitatSimFisheyeRGBSensor"]
    with pytest.raises(error, match=message) as caught:
        habitat.Env(config(data, *overrides)).reset()
    assert "\n" not in str(caught.value)
