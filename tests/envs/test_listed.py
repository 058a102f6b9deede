from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from dataset_on_disk import ROOMS, make_habitat_dataset
from sideagents_envs.batch.vec import make_vec
from sideagents_envs.config import CameraConfig, NavMeshConfig, ScenesConfig, TaskConfig
from sideagents_envs.episodes.files import Episode, content_files, write_episodes
from sideagents_envs.episodes.listed import EpisodeFile, building_name, count_training_buildings
from sideagents_envs.errors import EpisodeError, SceneError


@pytest.fixture
def habitat(tmp_path: Path) -> ScenesConfig:
    return make_habitat_dataset(tmp_path)


def file_of(scenes: ScenesConfig) -> Path:
    path = scenes.episodes_path("train")
    assert path is not None
    return path


def played(scenes: ScenesConfig, n_envs: int = 3) -> set[str]:
    """Names of the buildings that the environments begin in."""
    venv = make_vec(n_envs, scenes=scenes, camera=CameraConfig(8, 8), task=TaskConfig(max_steps=5))
    venv.reset()
    names = {building_name(present[1].scene_id) for present in venv.present() if present is not None}
    venv.close()
    return names


def test_names_of_buildings() -> None:
    assert building_name("gibson/Adrian.glb") == "Adrian"
    assert building_name("hm3d/train/00006-HkseAnWCgqk/HkseAnWCgqk.basis.glb") == "HkseAnWCgqk"
    assert building_name("room.stage_config.json") == "room"


def test_training_in_habitats_layout(habitat: ScenesConfig) -> None:
    assert played(habitat) == set(ROOMS)
    assert count_training_buildings(habitat) == 3
    assert played(ScenesConfig(habitat.dataset, 2, episodes=habitat.episodes, up="z")) == {"Adrian", "Bolton"}


def test_a_fixed_list_of_a_content_folder_visits_its_buildings_in_turn(habitat: ScenesConfig) -> None:
    venv = make_vec(1, scenes=habitat, camera=CameraConfig(8, 8), episodes_file=file_of(habitat))
    names = venv.episode_names
    venv.close()
    assert names is not None
    assert len(names) == 36
    for first in range(0, 36, 3):
        assert {building_name(scene_id) for scene_id, _ in names[first : first + 3]} == set(ROOMS)


def test_files_are_read_when_their_building_is_entered(habitat: ScenesConfig) -> None:
    (file_of(habitat).parent / "content" / "Clark.json.gz").write_bytes(b"damaged")
    assert played(ScenesConfig(habitat.dataset, 2, episodes=habitat.episodes, up="z")) == {"Adrian", "Bolton"}
    with pytest.raises(EpisodeError, match=r"Clark\.json\.gz"):
        played(habitat)


def test_the_arrays_give_back_the_episodes(habitat: ScenesConfig) -> None:
    path = content_files(file_of(habitat))["Bolton"]
    from sideagents_envs.episodes.files import read_episodes

    kept, plain = EpisodeFile(path), read_episodes(path)
    assert len(kept) == len(plain) == 12
    for ours, theirs in zip(kept, plain, strict=True):
        assert ours.to_json() == theirs.to_json()
    assert [e.episode_id for e in kept[2:4]] == ["2", "3"]
    with pytest.raises(IndexError):
        kept[12]


def test_a_run_goes_on_in_the_same_episode(habitat: ScenesConfig) -> None:
    first, second = (make_vec(2, scenes=habitat, camera=CameraConfig(8, 8), seed=7) for _ in range(2))
    first.reset()
    first.step(first.expert_actions())
    second.set_state(first.get_state())
    np.testing.assert_array_equal(first.expert_actions(), second.expert_actions())
    np.testing.assert_array_equal(first.observe()["rgb"], second.observe()["rgb"])


def test_training_passes_over_a_few_episodes_that_do_not_fit(habitat: ScenesConfig) -> None:
    path = content_files(file_of(habitat))["Adrian"]
    episodes = list(EpisodeFile(path))
    lost = [off_the_floor(episode) for episode in episodes]
    write_episodes(path, [*lost[:6], *episodes[6:]])
    one = ScenesConfig(habitat.dataset, 1, episodes=habitat.episodes, up="z")
    venv = make_vec(1, scenes=one, camera=CameraConfig(8, 8), task=TaskConfig(max_steps=1))
    venv.reset()
    seen = [venv.step(np.array([1]))[3][0]["episode_id"] for _ in range(40)]
    assert set(seen) == {str(number) for number in range(6, 12)}
    write_episodes(path, lost)
    with pytest.raises(EpisodeError, match="is not on the walkable space"):
        played(one, 1)


def off_the_floor(episode: Episode) -> Episode:
    row = episode.to_json()
    row["start_position"] = [500.0, 0.0, 0.0]
    return Episode.from_json(row)


def test_a_building_that_is_not_there(habitat: ScenesConfig) -> None:
    shutil.rmtree(Path(habitat.dataset) / "gibson" / "000-Bolton")
    with pytest.raises(EpisodeError, match=r"1 of its 3 buildings are not below .* the first is 'Bolton'"):
        played(habitat)
    shutil.rmtree(Path(habitat.dataset))
    with pytest.raises((EpisodeError, SceneError)):
        played(habitat)


def test_without_the_right_axis_the_scan_lies_on_its_side(habitat: ScenesConfig) -> None:
    assert NavMeshConfig() == habitat.navmesh
    with pytest.raises((EpisodeError, SceneError)):
        played(ScenesConfig(habitat.dataset, episodes=habitat.episodes))
