"""Our ray-cast simulator as a habitat-lab `Simulator`: its tasks, measures, datasets and maps run on it as they are."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import quaternion
from gym import spaces
from habitat.core.registry import registry
from habitat.core.simulator import AgentState, Observations, SensorSuite, Simulator
from habitat.sims.habitat_simulator.actions import HabitatSimActions
from numpy.typing import ArrayLike, NDArray

from sideagents_envs.config import NavMeshConfig
from sideagents_envs.episodes.files import SNAP_TOLERANCE_M, off_mesh, rotation_of, yaw_of
from sideagents_envs.errors import EpisodeError, SceneError
from sideagents_envs.habitat.cameras import make_sensors
from sideagents_envs.habitat.importing import SIMULATOR_NAME
from sideagents_envs.habitat.pathfinder import PathFinder
from sideagents_envs.habitat.worlds import Building, find_scene, note_of_axis, open_building
from sideagents_envs.sensors.spaces import ACTION_NAMES
from sideagents_envs.walk.geodesic import DistanceField
from sideagents_envs.walk.navmesh import NavMesh

Float = NDArray[np.float64]

_FIELDS_KEPT = 16  # distance fields of so many goals are remembered


@registry.register_simulator(name=SIMULATOR_NAME)
class SideAgentsSim(Simulator):
    """The embedded simulator behind habitat-lab's interface: one agent, discrete moves on the walkable space.

    Takes the stock configuration of habitat-sim's agents and sensors (`HabitatSimRGBSensor`, `HabitatSimDepthSensor`,
    `HabitatSimSemanticSensor`). Files open as in habitat-sim: a stage configuration beside a `.glb` says which way is
    up, without one it is Z.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.habitat_config = config
        agent = self._agent_config
        self._navmesh_config = NavMeshConfig(
            agent_radius_m=float(agent.radius),
            agent_height_m=float(agent.height),
            max_climb_m=float(agent.max_climb),
            max_slope_deg=float(agent.max_slope),
        )
        self._suite = SensorSuite(make_sensors(agent))
        self._actions = spaces.Discrete(len(ACTION_NAMES))
        self._rng = np.random.default_rng(int(config.seed))
        self._scene = ""
        self._position: Float = np.zeros(3)
        self._yaw = 0.0
        self._collided = False
        self._fields: dict[tuple[str, float, float, float], DistanceField | None] = {}
        self._open(str(config.scene))

    @property
    def _agent_config(self) -> Any:
        config = self.habitat_config
        return config.agents[config.agents_order[config.default_agent_id]]

    def _open(self, scene: str) -> None:
        if scene != self._scene:
            try:
                self._building: Building = open_building(find_scene(scene), self._navmesh_config)
            except SceneError as error:
                raise SceneError(f"{error}{note_of_axis(scene)}") from None
            self._scene = scene

    # what habitat-lab's environment calls

    @property
    def sensor_suite(self) -> Any:
        """The camera sensors."""
        return self._suite

    @property
    def action_space(self) -> Any:
        """Stop, forward, left, right."""
        return self._actions

    @property
    def navmesh(self) -> NavMesh:
        """The walkable space of the present building."""
        return self._building.navmesh

    @property
    def pathfinder(self) -> PathFinder:
        """The walkable space with habitat-sim's names."""
        return PathFinder(self.navmesh, self._rng)

    def seed(self, seed: int) -> None:
        """Seed the random points."""
        self._rng = np.random.default_rng(seed)

    def reconfigure(self, config: Any, episode: Any = None) -> None:
        """Open the building of the configuration and put the agent at its start; raises SceneError, EpisodeError."""
        self.habitat_config = config
        self._open(str(config.scene))
        agent = self._agent_config
        if agent.is_set_start_state:
            self._place(list(agent.start_position), list(agent.start_rotation), episode)

    def _place(self, position: ArrayLike, rotation: ArrayLike, episode: Any) -> None:
        start = np.asarray(position, np.float64)
        snapped = self.navmesh.snap(start)
        off = math.hypot(snapped[0] - start[0], snapped[2] - start[2])
        if not off <= SNAP_TOLERANCE_M:
            which = f", episode {episode.episode_id!r}" if episode is not None else ""
            raise EpisodeError(f"{self._scene}{which}: the start {off_mesh(start, snapped)}{note_of_axis(self._scene)}")
        self._position, self._yaw, self._collided = snapped, heading(rotation), False

    def reset(self) -> Any:
        """Return to the start of the episode and look."""
        agent = self._agent_config
        if agent.is_set_start_state:
            self._place(list(agent.start_position), list(agent.start_rotation), None)
        self._collided = False
        return self._look()

    def step(self, action: int | None) -> Any:
        """Move (None and stop: stay) and look."""
        self._collided = False
        if action == HabitatSimActions.move_forward:
            length = float(self.habitat_config.forward_step_size)
            ahead = length * np.array([-math.sin(self._yaw), 0.0, -math.cos(self._yaw)])
            sliding = bool(self.habitat_config.habitat_sim_v0.allow_sliding)
            position, blocked = self.navmesh.try_step(self._position, self._position + ahead, sliding)
            self._position, self._collided = position, bool(blocked)
        elif action in (HabitatSimActions.turn_left, HabitatSimActions.turn_right):
            turn = math.radians(float(self.habitat_config.turn_angle))
            self._yaw = math.remainder(self._yaw + (turn if action == HabitatSimActions.turn_left else -turn), math.tau)
        elif action not in (None, HabitatSimActions.stop):
            raise SceneError(f"{SIMULATOR_NAME}: action {action} is not one of {', '.join(ACTION_NAMES)}")
        return self._look()

    def step_physics(self, dt: float) -> None:
        """Do nothing: nothing in a building moves."""

    def _look(self) -> Any:
        return Observations(self._suite.sensors, self._building, np.array([*self._position, self._yaw]))

    @property
    def previous_step_collided(self) -> bool:
        """Whether the last move met something."""
        return self._collided

    def get_agent_state(self, agent_id: int = 0) -> Any:
        """Return position (3,) in metres and rotation, a fresh copy."""
        x, y, z, w = rotation_of(self._yaw)
        return AgentState(self._position.copy(), quaternion.quaternion(w, x, y, z))

    def set_agent_state(
        self, position: ArrayLike, rotation: Any, agent_id: int = 0, reset_sensors: bool = True
    ) -> bool:
        """Put the agent somewhere, on the walkable space or not, as habitat-sim does.

        position (3,) in metres; rotation is x, y, z, w or a quaternion, of which the heading counts.
        """
        self._position, self._yaw, self._collided = np.array(position, np.float64), heading(rotation), False
        return True

    def get_observations_at(
        self, position: ArrayLike | None = None, rotation: Any = None, keep_agent_at_new_pose: bool = False
    ) -> Any:
        """Return what would be seen from somewhere else, from here where position or rotation is None."""
        kept = self._position, self._yaw, self._collided
        if position is not None and rotation is not None:
            self.set_agent_state(position, rotation)
        seen = self._look()
        if not keep_agent_at_new_pose:
            self._position, self._yaw, self._collided = kept
        return seen

    # distances and points

    def geodesic_distance(self, position_a: ArrayLike, position_b: Any, episode: Any = None) -> float:
        """Return the walking distance to the nearest of one or several points, inf where there is no way."""
        goals = np.asarray(position_b, np.float64).reshape(-1, 3)
        fields = [self._field(goal) for goal in goals]
        start = np.asarray(position_a, np.float64)
        return min((float(field.value(start)) for field in fields if field is not None), default=math.inf)

    def _field(self, goal: Float) -> DistanceField | None:
        """Return the distances to a goal, None where it is off the walkable space."""
        key = _field_key(self._scene, goal)
        if key not in self._fields:
            snapped = self.navmesh.snap(goal)
            self.remember(
                self._scene, goal, self.navmesh.distance_field(snapped) if np.isfinite(snapped).all() else None
            )
        return self._fields[key]

    def remember(self, scene: str, goal: ArrayLike, field: DistanceField | None) -> None:
        """Take over the distances to a goal in a building where they are known already."""
        while len(self._fields) >= _FIELDS_KEPT:
            self._fields.pop(next(iter(self._fields)))
        self._fields[_field_key(scene, goal)] = field

    def get_straight_shortest_path_points(self, position_a: ArrayLike, position_b: ArrayLike) -> list[Float]:
        """Return the turning points (3,) of the shortest path, empty where there is none."""
        field = self._field(np.asarray(position_b, np.float64))
        return [] if field is None else list(field.path(position_a))

    def sample_navigable_point(self) -> list[float]:
        """Return a random point that can be stood on."""
        return [float(v) for v in self.navmesh.sample(self._rng, 1)[0]]

    def is_navigable(self, point: ArrayLike) -> bool:
        """Whether the agent can stand at a point (3,)."""
        return self.navmesh.is_navigable(point)

    def island_radius(self, position: ArrayLike) -> float:
        """Return how far the region of a point reaches from its middle, metres."""
        return self.pathfinder.island_radius(position)

    def distance_to_closest_obstacle(self, position: ArrayLike, max_search_radius: float = 2.0) -> float:
        """Return the distance in metres from a point to the nearest obstacle, at most `max_search_radius`."""
        return self.pathfinder.distance_to_closest_obstacle(position, max_search_radius)

    # the rest of the interface

    def get_agent(self, agent_id: int = 0) -> Any:
        """Return an object with the agent's `state`."""
        return SimpleNamespace(state=self.get_agent_state(agent_id))

    @property
    def up_vector(self) -> Float:
        """The direction upwards."""
        return np.array([0.0, 1.0, 0.0])

    @property
    def forward_vector(self) -> Float:
        """The direction ahead of an agent that is not turned."""
        return np.array([0.0, 0.0, -1.0])

    def render(self, mode: str = "rgb") -> Any:
        """Return the image of the sensor named `mode`; raises SceneError when there is none."""
        seen = self._look()
        if mode not in seen:
            raise SceneError(f"{SIMULATOR_NAME}: no sensor {mode!r}; there are {', '.join(seen) or 'none'}")
        return seen[mode]

    def close(self, destroy: bool = True) -> None:
        """Forget the distances; buildings are shared and stay."""
        self._fields.clear()


def _field_key(scene: str, goal: ArrayLike) -> tuple[str, float, float, float]:
    x, y, z = np.asarray(goal, np.float64)
    return scene, float(x), float(y), float(z)


def heading(rotation: Any) -> float:
    """Return the heading in radians of a rotation: x, y, z, w or a `quaternion.quaternion`."""
    if isinstance(rotation, quaternion.quaternion):
        return yaw_of(rotation.x, rotation.y, rotation.z, rotation.w)
    return yaw_of(*np.asarray(rotation, np.float64))
