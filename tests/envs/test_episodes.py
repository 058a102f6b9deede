"""Episode files (Habitat's PointNav-v1), Gibson's filter, and what is said of unusable episodes."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from sideagents_envs.buildings import make_building
from sideagents_envs.config import NavMeshConfig
from sideagents_envs.episodes.files import (
    Episode,
    EpisodeSampler,
    dealt,
    generate_episodes,
    place,
    read_episodes,
    rotation_of,
    suitable,
    write_episodes,
)
from sideagents_envs.errors import EpisodeError
from sideagents_envs.scenes.scene import load_scene
from sideagents_envs.versions import EPISODES_VERSION, NAVMESH_VERSION
from sideagents_envs.walk.navmesh import NavMesh
from square_room import SquareRoom

ROW = {
    "episode_id": "7",
    "scene_id": "gibson/Denmark.glb",
    "start_position": [1.0, 0.5, -2.0],
    "start_rotation": [0, math.sin(0.4), 0, math.cos(0.4)],
    "info": {"geodesic_distance": 4.25, "difficulty": "easy"},
    "goals": [{"position": [2.0, 0.5, -5.0], "radius": None}],
    "shortest_paths": None,
    "start_room": None,
}


def write_rows(path, rows):
    path.write_bytes(gzip.compress(json.dumps({"episodes": rows}).encode()))
    return path


def test_reads_what_habitat_writes(tmp_path):
    (episode,) = read_episodes(write_rows(tmp_path / "val.json.gz", [ROW]))
    assert (episode.episode_id, episode.scene_id) == ("7", "gibson/Denmark.glb")
    assert episode.geodesic_distance == 4.25
    np.testing.assert_allclose(episode.start_pose, [1.0, 0.5, -2.0, 0.8])
    np.testing.assert_array_equal(episode.goal, [2.0, 0.5, -5.0])


@pytest.mark.parametrize("yaw", [0.0, 0.3, -2.5, 3.1, math.pi / 2])
def test_rotation_is_a_turn_about_the_vertical(yaw):
    episode = Episode("0", "s", np.zeros(3), rotation_of(yaw), np.ones(3))
    assert math.isclose(episode.start_pose[3], yaw, abs_tol=1e-12)
    # Habitat's forward is -z turned by the quaternion: v + 2 u x (u x v + w v)
    x, y, z, w = episode.start_rotation
    u, v = np.array([x, y, z]), np.array([0.0, 0.0, -1.0])
    turned = v + 2 * np.cross(u, np.cross(u, v) + w * v)
    np.testing.assert_allclose(turned, [-math.sin(yaw), 0, -math.cos(yaw)], atol=1e-12)


def test_written_files_read_back_and_are_reproducible(tmp_path):
    episodes = generate_episodes(SquareRoom(), "val/Room.glb", 5, seed=3, first_id=10)
    for name in ("a", "b"):
        write_episodes(tmp_path / f"{name}.json.gz", episodes)
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()
    again = read_episodes(tmp_path / "a.json.gz")
    assert [e.to_json() for e in again] == [e.to_json() for e in episodes]
    assert [e.episode_id for e in again] == ["10", "11", "12", "13", "14"]
    row = json.loads(gzip.decompress((tmp_path / "a.json.gz").read_bytes()))["episodes"][0]
    assert row["shortest_paths"] is None
    assert list(row["goals"][0]) == ["position", "radius"]
    assert not list(tmp_path.glob(".*"))


def test_content_folder_holds_one_file_per_building(tmp_path):
    write_rows(tmp_path / "train.json.gz", [])
    (tmp_path / "content").mkdir()
    for scene in ("B", "A"):
        write_rows(tmp_path / "content" / f"{scene}.json.gz", [ROW | {"scene_id": f"{scene}.glb"}])
    assert [e.scene_id for e in read_episodes(tmp_path / "train.json.gz")] == ["A.glb", "B.glb"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"start_position": [0, 1]}, "start_position must be 3 finite numbers"),
        ({"start_position": [0, 1, float("nan")]}, "start_position must be 3 finite numbers"),
        ({"start_position": "here"}, "start_position must be 3 finite numbers"),
        ({"start_rotation": [0, 0, 0, 0]}, "quaternion"),
        ({"goals": []}, "goals must be"),
        ({"goals": None}, "goals must be"),
        ({"goals": [{"radius": 1}]}, "'position' is missing"),
        ({"info": "far"}, "info an object"),
        ({"info": {"geodesic_distance": "far"}}, "info.geodesic_distance must be a finite number or null, got 'far'"),
        ({"info": {"geodesic_distance": float("inf")}}, "info.geodesic_distance must be a finite number"),
        ({"goals": [{"position": [2, 0, -5], "radius": "big"}]}, r"goals\[0\].radius must be a finite number"),
        ({"goals": [{"position": [2, 0, -5], "radius": float("nan")}]}, r"goals\[0\].radius must be a finite number"),
        ({"goals": [{"position": [2, 0, -5], "radius": 10**400}]}, r"goals\[0\].radius must be a finite number"),
        ({"start_position": [0, 1, 10**400]}, "start_position must be 3 finite numbers"),
        ({"scene_id": ...}, "'scene_id' is missing"),
    ],
)
def test_malformed_episode_is_named(tmp_path, change, said):
    row = {key: value for key, value in (ROW | change).items() if value is not ...}
    path = write_rows(tmp_path / "bad.json.gz", [row])
    with pytest.raises(EpisodeError, match=said) as caught:
        read_episodes(path)
    message = str(caught.value)
    assert "bad.json.gz" in message
    assert "'7'" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file; an episode file is needed"),
        (gzip.compress(json.dumps({"episodes": [ROW] * 50}).encode(), mtime=0)[:60], "cut off or damaged"),
        (gzip.compress(b"x" * 500, mtime=0)[:-4] + b"oops", "cut off or damaged"),
        (b"\x80\x81 binary", "not JSON"),
        (gzip.compress(b'{"episodes": ['), "not JSON"),
        (b'{"episodes": ' + b"[" * 100_000, "not JSON"),
        (b'{"episodes": ' + b"9" * 10_000 + b"}", "not JSON"),
        (b"[]", "no list 'episodes'"),
        (b'{"episodes": {}}', "no list 'episodes'"),
        (b'{"episodes": []}', "holds no episodes"),
        (b'{"episodes": [3]}', "must be an object"),
        (b'{"episodes": [{"object_category": "chair", "goals": []}]}', "is of ObjectNav, episodes of PointNav"),
    ],
    ids=[
        "absent", "cut", "wrong length", "binary", "half JSON", "nested", "huge number", "list", "mapping", "empty",
        "number", "another task",
    ],
)  # fmt: skip
def test_unreadable_file_is_one_line(tmp_path, content, said):
    path = tmp_path / "F.json.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EpisodeError, match=said) as caught:
        read_episodes(path)
    assert "F.json.gz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_filter_by_hand():
    goal = np.zeros(3)
    starts = np.array([[2, 0, 0], [2, 0, 0], [2, 0, 0], [0.8, 0, 0], [20, 0, 0], [2, 0.6, 0], [2, 0, 0]], float)
    #   detour 1.2: kept; straight, 20 * 0.02^2 = 0.008: luck below and above; too near; too far; other floor; no way
    distances = np.array([2.4, 2.0, 2.0, 0.96, 31.0, 2.6, np.inf])
    luck = np.array([0.99, 0.007, 0.009, 0.0, 0.0, 0.0, 0.0])
    assert suitable(starts, goal, distances, luck).tolist() == [True, True, False, False, False, False, False]


def test_nearly_straight_pairs_are_rare_by_the_stated_share():
    n = 20_000
    starts = np.tile([3.0, 0.0, 0.0], (n, 1))
    luck = np.random.default_rng(0).random(n)
    kept = suitable(starts, np.zeros(3), np.full(n, 3.0 * 1.05), luck).mean()
    assert abs(kept - 20 * 0.07**2) < 0.006


class NoRoom(SquareRoom):
    """A cupboard: no two points are a metre apart."""

    def sample(self, rng, n):
        return np.zeros((n, 3))


def test_sampler_is_reproducible_and_gives_up_with_a_line():
    drawn = [EpisodeSampler(SquareRoom(), "Room").draw(np.random.default_rng(5), "0")[0].to_json() for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert drawn[0]["info"]["geodesic_distance"] >= 1.0
    with pytest.raises(EpisodeError, match="Cupboard: no start and goal"):
        EpisodeSampler(NoRoom(), "Cupboard").draw(np.random.default_rng(0), "0")


def names(episodes):
    return [f"{episode.scene_id}{episode.episode_id}" for episode in episodes]


def test_a_list_is_dealt_round_its_buildings():
    # ordered by building as files often are, with 3, 1 and 2 episodes
    where = [("b", 0), ("b", 1), ("b", 2), ("a", 0), ("c", 0), ("c", 1)]
    listed = [Episode(str(i), scene, np.zeros(3), rotation_of(0), np.ones(3)) for scene, i in where]
    assert names(dealt(listed)) == ["b0", "a0", "c0", "b1", "c1", "b2"]
    assert names(dealt(dealt(listed))) == names(dealt(listed))
    assert dealt([]) == []


class TwoIslands(SquareRoom):
    def island(self, point):
        return int(point[0] > 0)


@pytest.mark.parametrize(
    ("start", "goal", "said"),
    [
        ([5.3, 0, 0], [0, 0, 0], "the start .* not on the walkable space"),
        ([1, 0, 0], [0, 0, 9], r"the goal .* nearest point \(0.00, 0.00, 5.00\) is 4.00 m away"),
        ([1, 0, 0], [2, 3, 0], r"the goal .* nearest point \(2.00, 0.00, 0.00\) is 3.00 m away"),
        ([1, 0, 0], [-1, 0, 0], "the goal .* cannot be reached"),
    ],
)
def test_unusable_places(start, goal, said):
    episode = Episode("12", "Room", np.array(start, float), rotation_of(0), np.array(goal, float))
    with pytest.raises(EpisodeError, match=f"F.json.gz, episode '12': {said}"):
        place(TwoIslands(), episode, "F.json.gz")


def test_places_a_cell_off_are_moved_onto_the_floor():
    episode = Episode("0", "Room", np.array([5.05, 0.1, 0]), rotation_of(1.0), np.array([1, 0.2, 0.0]))
    pose, goal = place(SquareRoom(), episode, "F")
    np.testing.assert_allclose(pose, [5.0, 0.0, 0.0, 1.0])
    np.testing.assert_allclose(goal, [1.0, 0.0, 0.0])


def rounded(value):
    """The numbers of a JSON value to the millimetre: the last digits are the machine's own."""
    if isinstance(value, float):
        return round(value, 3) + 0.0
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return {key: rounded(v) for key, v in value.items()} if isinstance(value, dict) else value


def test_a_building_and_a_seed_fix_the_episodes_of_a_version(tmp_path):
    # Another digest means another EPISODES_VERSION, or NAVMESH_VERSION (then put the new ones here): the held-out lists
    # that are kept in a cache folder carry them, and must not mean something else tomorrow.
    make_building(5, tmp_path / "House.glb")
    scene = load_scene(tmp_path / "House.glb")
    navmesh = NavMesh.from_mesh(scene.vertices, scene.faces, NavMeshConfig())
    episodes = generate_episodes(navmesh, "val/House.glb", 3, seed=5)
    text = json.dumps([rounded(episode.to_json()) for episode in episodes], sort_keys=True)
    digest = "e4e86aa7d1a8456aeddc6a61d8f4148405066191348faa62654880c289313f72"
    assert (EPISODES_VERSION, NAVMESH_VERSION, hashlib.sha256(text.encode()).hexdigest()) == (2, 2, digest)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scene_id": 3}, "scene_id must be the name of a building's file, got 3"),
        ({"scene_id": "n" * 10**6}, "scene_id must be the name of a building's file"),
        ({"scene_id": "n\0ul"}, "scene_id must be"),
        ({"episode_id": [[]]}, "episode_id must be text or a number"),
        ({"start_rotation": [1e300, 1e300, 0, 0]}, "start_rotation must be a unit quaternion"),
        ({"start_position": ["x" * 10**6, 0, 0]}, "start_position must be 3 finite numbers"),
    ],
)
def test_odd_values_are_one_short_line(change, said):
    with pytest.raises(EpisodeError, match=said) as caught:
        Episode.from_json({**ROW, **change}, "F")
    assert len(str(caught.value)) < 200


def test_a_file_that_unpacks_without_end_is_one_line(tmp_path):
    block = gzip.compress(b" " * 2**24, mtime=0)
    (tmp_path / "F.json.gz").write_bytes(block * 9)
    with pytest.raises(EpisodeError, match=r"F\.json\.gz: holds more than 128 MB when unpacked"):
        read_episodes(tmp_path / "F.json.gz")


def test_special_episode_files_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.json.gz")
    for path in (tmp_path / "pipe.json.gz", Path("/dev/zero"), tmp_path):
        with pytest.raises(EpisodeError, match=r"is a pipe or a device|is a folder"):
            read_episodes(path)
