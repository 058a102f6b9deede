"""Many buildings behind one renderer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sideagents_envs.errors import SceneError
from sideagents_envs.simulators.embedded import EmbeddedWorld
from square_room import CAMERA


def test_world_keeps_to_its_triangle_budget_and_images_do_not_depend_on_it(scenes):
    paths = sorted(Path(scenes.dataset).glob("*/*.glb"))
    poses = np.array([[3.0, 0.0, 3.0, 0.4], [2.5, 0.0, 3.0, 2.0], [3.0, 0.0, 2.5, 4.0]])
    roomy = EmbeddedWorld(paths, CAMERA, scenes.navmesh)
    tight = EmbeddedWorld(paths, CAMERA, scenes.navmesh, max_triangles=1)
    for used in ([0, 1, 0], [2, 2, 2], [1, 3, 4], [0, 1, 0]):
        index = np.array(used)
        expected = roomy.render(index, poses, ("rgb", "depth"))
        images = tight.render(index, poses, ("rgb", "depth"))
        for key in ("rgb", "depth"):
            np.testing.assert_array_equal(images[key], expected[key])
        assert sorted(tight.loaded) == sorted(set(used))
    assert sorted(roomy.loaded) == [0, 1, 2, 3, 4]
    assert roomy.loaded[-2:] == [0, 1]


def test_a_world_needs_buildings(scenes):
    with pytest.raises(SceneError, match="no buildings"):
        EmbeddedWorld([], CAMERA, scenes.navmesh)
