"""Moving on walkable surfaces: the interpolated distance to obstacles, steps that slide, lines of sight.

Everything here is a numba kernel on a `Grid`. An agent of radius r stands free where the distance to the nearest
obstacle (or ledge) is at least r. Between the centres of cells that distance is interpolated bilinearly; a position is
always carried with the surface it lies on, and moves from surface to surface only along links, so floors never mix.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sideagents_envs.kernels import kernel, wide

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]

# Columns of `Grid.surf`.
Y, GAP, QX, QZ = range(4)

_CONTACT = 1e-3  # metres by which a step must miss its aim to count as a collision
_EPS = 1e-6
EDGE = 2e-4  # metres: standing this much closer than the radius still counts as free


class Grid(NamedTuple):
    """Walkable surfaces as arrays.

    frame (5,): x0, z0, cell, nx, nz (metres; the last two are counts); radius: of the agent, metres.
    start (nx * nz + 1,): surfaces of column `iz * nx + ix` are `start[c]:start[c + 1]`.
    surf (N,4): height y at the cell's centre, distance from it to the nearest obstacle, node position x and z.
    nbr (N,9): neighbours, slot `4 + 3 * dx + dz`, -1 where none.
    hops (N,): bit k is set where the agent can go straight from this node to the node in slot k; bit 4: it is a node.
    """

    frame: F64
    radius: float
    start: I32
    surf: F32
    nbr: I32
    hops: NDArray[np.uint16]


@kernel
def locate(grid: Grid, x: float, y: float, z: float, reach: float) -> int:
    """Return the surface under a point whose height is nearest to `y`, within `reach` metres, or -1."""
    frame = grid.frame
    ix, iz = np.floor((x - frame[0]) / frame[2]), np.floor((z - frame[1]) / frame[2])
    if not (0 <= ix < frame[3] and 0 <= iz < frame[4]):
        return -1
    column = int(iz) * int(frame[3]) + int(ix)
    best, gap = -1, reach
    for s in range(grid.start[column], grid.start[column + 1]):
        distance = abs(grid.surf[s, Y] - y)
        if distance <= gap:
            best, gap = s, distance
    return best


@kernel
def follow(grid: Grid, s: int, x: float, z: float, to_x: float, to_z: float) -> int:
    """Return the surface under (to_x, to_z) coming from (x, z) on surface `s`; both at most a cell apart; -1: none."""
    frame = grid.frame
    dx = int(np.floor((to_x - frame[0]) / frame[2]) - np.floor((x - frame[0]) / frame[2]))
    dz = int(np.floor((to_z - frame[1]) / frame[2]) - np.floor((z - frame[1]) / frame[2]))
    if abs(dx) > 1 or abs(dz) > 1:
        return -1
    return wide(grid.nbr[s, 4 + 3 * dx + dz])


@kernel
def probe(grid: Grid, s: int, x: float, z: float) -> tuple[float, float, float]:
    """Return the distance to obstacles at (x, z) on surface `s` and its gradient along x and z."""
    frame, surf, nbr = grid.frame, grid.surf, grid.nbr
    u, v = (x - frame[0]) / frame[2], (z - frame[1]) / frame[2]
    tx, tz = u - np.floor(u) - 0.5, v - np.floor(v) - 0.5
    dx, dz = (1 if tx >= 0 else -1), (1 if tz >= 0 else -1)
    tx, tz = abs(tx), abs(tz)
    a, b, c = nbr[s, 4 + 3 * dx], nbr[s, 4 + dz], nbr[s, 4 + 3 * dx + dz]
    here = np.float64(surf[s, GAP])
    along_x = np.float64(surf[a, GAP]) if a >= 0 else 0.0
    along_z = np.float64(surf[b, GAP]) if b >= 0 else 0.0
    # A missing corner lies behind an obstacle's edge: continue the plane through the other three.
    across = np.float64(surf[c, GAP]) if c >= 0 else max(0.0, along_x + along_z - here)
    gap = (here * (1 - tx) + along_x * tx) * (1 - tz) + (along_z * (1 - tx) + across * tx) * tz
    slope_x = ((along_x - here) * (1 - tz) + (across - along_z) * tz) * dx / frame[2]
    slope_z = ((along_z - here) * (1 - tx) + (across - along_x) * tx) * dz / frame[2]
    return gap, slope_x, slope_z


@kernel
def height(grid: Grid, s: int, x: float, z: float) -> float:
    """Return the interpolated height of the floor at (x, z) on surface `s`, metres."""
    frame, surf, nbr = grid.frame, grid.surf, grid.nbr
    u, v = (x - frame[0]) / frame[2], (z - frame[1]) / frame[2]
    tx, tz = u - np.floor(u) - 0.5, v - np.floor(v) - 0.5
    dx, dz = (1 if tx >= 0 else -1), (1 if tz >= 0 else -1)
    tx, tz = abs(tx), abs(tz)
    a, b, c = nbr[s, 4 + 3 * dx], nbr[s, 4 + dz], nbr[s, 4 + 3 * dx + dz]
    here = np.float64(surf[s, Y])
    rise_x = surf[a, Y] - here if a >= 0 else 0.0
    rise_z = surf[b, Y] - here if b >= 0 else 0.0
    rise = surf[c, Y] - here if c >= 0 else rise_x + rise_z
    return float(here + rise_x * tx * (1 - tz) + rise_z * tz * (1 - tx) + rise * tx * tz)


@kernel
def free(grid: Grid, s: int, x: float, z: float) -> bool:
    """Return whether an agent fits at (x, z) on surface `s`."""
    return s >= 0 and probe(grid, s, x, z)[0] >= grid.radius - EDGE


@kernel
def push_out(grid: Grid, s: int, x: float, z: float, radius: float, limit: float) -> tuple[int, float, float]:
    """Push (x, z) up the gradient until obstacles are `radius` away; surface -1 when that takes more than `limit`."""
    px, pz = x, z
    for _ in range(6):
        gap, gx, gz = probe(grid, s, px, pz)
        if gap >= radius - _EPS:
            return s, px, pz
        steep = gx * gx + gz * gz
        if steep < 1e-4:
            break
        # Newton's step; the gradient of a distance has length 1, less only on ridges, where a long leap would be wrong.
        scale = (radius - gap) / max(steep, 0.25)
        qx, qz = px + gx * scale, pz + gz * scale
        if (qx - x) ** 2 + (qz - z) ** 2 > limit * limit:
            break
        t = follow(grid, s, px, pz, qx, qz)
        if t < 0:
            break
        s, px, pz = t, qx, qz
    if probe(grid, s, px, pz)[0] >= radius - EDGE:
        return s, px, pz
    return -1, x, z


@kernel
def move(
    grid: Grid, s: int, x: float, z: float, to_x: float, to_z: float, sliding: bool
) -> tuple[int, float, float, bool]:
    """Walk from (x, z) on surface `s` towards (to_x, to_z): new surface, x, z, and whether something was in the way.

    The way is cut into pieces shorter than half a cell. A piece that ends too near to an obstacle is pushed out along
    the distance's gradient, which leaves the motion along the wall; without sliding the walk ends at first contact.
    """
    length = np.sqrt((to_x - x) ** 2 + (to_z - z) ** 2)
    cell = grid.frame[2]
    pieces = int(np.ceil(length / (0.4 * cell)))
    if pieces == 0:
        return s, x, z, False
    sx, sz = (to_x - x) / pieces, (to_z - z) / pieces
    radius = grid.radius
    gap = probe(grid, s, x, z)[0]
    for _ in range(pieces):
        # From a start that is too near already, every move that does not come nearer is fine.
        allowed = radius if gap >= radius - EDGE else gap
        px, pz = x + sx, z + sz
        t = follow(grid, s, x, z, px, pz)
        ahead = probe(grid, t, px, pz)[0] if t >= 0 else 0.0
        if t >= 0 and ahead >= allowed - _EPS:
            s, x, z, gap = t, px, pz, ahead
            continue
        if not sliding:
            share = max(0.0, (gap - allowed) / (gap - ahead)) if gap > ahead else 0.0
            px, pz = x + share * sx, z + share * sz
            t = follow(grid, s, x, z, px, pz)
            if t >= 0 and probe(grid, t, px, pz)[0] >= allowed - EDGE:
                s, x, z = t, px, pz
            break
        if t < 0:
            break
        t, px, pz = push_out(grid, t, px, pz, allowed, cell)
        if t < 0:
            break
        moved = (px - x) ** 2 + (pz - z) ** 2
        if moved < 1e-10:
            break
        s, x, z = t, px, pz
        gap = probe(grid, s, x, z)[0]
    missed = np.sqrt((to_x - x) ** 2 + (to_z - z) ** 2)
    return s, x, z, missed > _CONTACT


@kernel
def step(grid: Grid, start: F64, end: F64, sliding: bool, out: F64) -> bool:
    """Walk from `start` to `end` (3,) as far as possible; writes the new position to `out`, returns the collision."""
    s = locate(grid, start[0], start[1], start[2], 0.5)
    out[0], out[1], out[2] = start[0], start[1], start[2]
    if s < 0:
        return True
    s, x, z, collided = move(grid, s, start[0], start[2], end[0], end[2], sliding)
    out[0], out[1], out[2] = x, height(grid, s, x, z), z
    return collided


@kernel
def steps(grid: Grid, starts: F64, ends: F64, sliding: bool, out: F64, collided: NDArray[np.bool_]) -> None:
    """Run `step` for a batch (N,3)."""
    for i in range(starts.shape[0]):
        collided[i] = step(grid, starts[i], ends[i], sliding, out[i])


@kernel
def sees(grid: Grid, s: int, x: float, z: float, to_x: float, to_z: float) -> int:
    """Return the surface reached by walking straight from (x, z) on surface `s` to (to_x, to_z), or -1 if blocked.

    Grazing a rounded corner by a seventh of a cell is allowed (chords between points on its contour do), where
    pushing out shows that there is room; a gap that is too narrow has none.
    """
    frame, radius = grid.frame, grid.radius
    cell, nx, inverse = frame[2], int(frame[3]), 1.0 / frame[2]
    length = np.sqrt((to_x - x) ** 2 + (to_z - z) ** 2)
    if length == 0.0:
        return s
    sx, sz = (to_x - x) / length, (to_z - z) / length
    x0, z0, done, room = x, z, 0.0, 0.0
    while done < length:
        # Nothing stands within `room` of the last point, so the line can be followed by leaps where space is wide, and
        # a column with a single surface needs no link to find it. A leap of 1.4 cells misses no more than is allowed.
        leap = max(1.4 * cell, room - radius)
        ahead = min(done + leap, length)
        px, pz = x0 + ahead * sx, z0 + ahead * sz
        column = int((pz - frame[1]) * inverse) * nx + int((px - frame[0]) * inverse)
        if room >= 1.4 * cell and grid.start[column + 1] - grid.start[column] == 1:
            s = grid.start[column]
        else:
            ahead = min(done + 0.95 * cell, length)
            px, pz = x0 + ahead * sx, z0 + ahead * sz
            s = follow(grid, s, x, z, px, pz)
            if s < 0:
                return -1
        x, z, done = px, pz, ahead
        u, v = (x - frame[0]) * inverse, (z - frame[1]) * inverse
        u, v = u - int(u) - 0.5, v - int(v) - 0.5
        room = grid.surf[s, GAP] - cell * np.sqrt(u * u + v * v)
        if room < radius - EDGE:
            room, gx, gz = probe(grid, s, x, z)
            if room < radius - 0.15 * cell:
                return -1
            # Along a wall or round a corner the slope is steep; where it is not, this may be too narrow a gap.
            ridge = gx * gx + gz * gz < 0.7
            if room < radius - EDGE and ridge and push_out(grid, s, x, z, radius, 0.4 * cell)[0] < 0:
                return -1
    return s
