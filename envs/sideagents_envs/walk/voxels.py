"""Heightfield of a triangle mesh: every triangle cut into columns, merged into spans, topped by walkable surfaces.

The idea is Recast's (a voxelised column per cell, spans flagged by slope, surfaces with enough headroom, neighbours
within the climbing height), but heights and footprints stay exact instead of being rounded to voxels, so that walls
keep their true place within a cell. The grid lies in the x-z plane; a column's index is `iz * nx + ix`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sideagents_envs.config import NavMeshConfig
from sideagents_envs.errors import SceneError
from sideagents_envs.kernels import kernel

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]

_TOUCH = 1e-6  # metres: a triangle that only touches a column still counts, so no wall slips between two of them
_MAX_COLUMNS = 50_000_000
_MAX_FRAGMENTS = 100_000_000  # of triangles in columns, 30 bytes each: surfaces that lie upon each other 50 times

# What is kept of a triangle's part within one column: heights (lowest, highest, and of its plane at the column's
# centre), then its extent along x and z relative to the grid's origin, metres.
YMIN, YMAX, YMID, X0, X1, Z0, Z1 = range(7)


class Columns(NamedTuple):
    """Fragments of all triangles, sorted by column: those of column c are `start[c]:start[c + 1]`.

    `corners` (F,3,3) are the triangles relative to the grid's origin; `triangle` names each fragment's.
    """

    x0: float
    z0: float
    nx: int
    nz: int
    start: NDArray[np.int64]
    fragments: F32
    walkable: U8
    triangle: I32
    corners: F64


class Surfaces(NamedTuple):
    """Walkable tops, sorted by column; `y` (N,), `ceiling` (N,) (inf: open sky), `extent` (N,4): x0, x1, z0, z1."""

    start: I32
    column: I32
    y: F32
    ceiling: F32
    extent: F32


@kernel
def clip(source: F64, count: int, axis: np.int64, bound: float, sign: float, target: F64) -> int:
    """Cut a convex polygon (count,3) by `sign * coordinate <= sign * bound`; returns the number of points left."""
    kept = 0
    for i in range(count):
        j = i + 1 if i + 1 < count else 0
        a = sign * (source[i, axis] - bound)
        b = sign * (source[j, axis] - bound)
        if a <= _TOUCH:
            for k in range(3):
                target[kept, k] = source[i, k]
            kept += 1
        if (a < -_TOUCH and b > _TOUCH) or (a > _TOUCH and b < -_TOUCH):
            t = a / (a - b)
            for k in range(3):
                target[kept, k] = source[i, k] + t * (source[j, k] - source[i, k])
            kept += 1
    return kept


@kernel
def _write(fragment: F32, polygon: F64, count: int, middle: float) -> None:
    fragment[YMIN] = fragment[X0] = fragment[Z0] = np.inf
    fragment[YMAX] = fragment[X1] = fragment[Z1] = -np.inf
    for i in range(count):
        x, y, z = polygon[i, 0], polygon[i, 1], polygon[i, 2]
        fragment[YMIN] = min(fragment[YMIN], y)
        fragment[YMAX] = max(fragment[YMAX], y)
        fragment[X0] = min(fragment[X0], x)
        fragment[X1] = max(fragment[X1], x)
        fragment[Z0] = min(fragment[Z0], z)
        fragment[Z1] = max(fragment[Z1], z)
    fragment[YMID] = min(max(middle, fragment[YMIN]), fragment[YMAX])


@kernel
def _rasterise(
    corners: F64,
    cell: float,
    nx: int,
    cosine: float,
    cursor: NDArray[np.int64],
    fragments: F32,
    walkable: U8,
    owner: I32,
) -> None:
    """Count the fragments per column in `cursor` (empty `walkable`), or write them at `cursor` and advance it."""
    counting = walkable.size == 0
    row, part, spare = np.empty((9, 3)), np.empty((9, 3)), np.empty((9, 3))
    x_axis, z_axis = np.int64(0), np.int64(2)
    for f in range(corners.shape[0]):
        triangle = corners[f]
        ax, ay, az = triangle[1, 0] - triangle[0, 0], triangle[1, 1] - triangle[0, 1], triangle[1, 2] - triangle[0, 2]
        bx, by, bz = triangle[2, 0] - triangle[0, 0], triangle[2, 1] - triangle[0, 1], triangle[2, 2] - triangle[0, 2]
        normal_x = ay * bz - az * by
        normal_y = az * bx - ax * bz
        normal_z = ax * by - ay * bx
        length = np.sqrt(normal_x**2 + normal_y**2 + normal_z**2)
        # The winding is not trusted: many models have flipped floors, and an underside has no headroom above it.
        flat = length > 0.0 and abs(normal_y) >= cosine * length
        slope_x = -normal_x / normal_y if flat else 0.0
        slope_z = -normal_z / normal_y if flat else 0.0
        z_low = min(triangle[0, 2], triangle[1, 2], triangle[2, 2])
        z_high = max(triangle[0, 2], triangle[1, 2], triangle[2, 2])
        for iz in range(int((z_low - _TOUCH) / cell), int((z_high + _TOUCH) / cell) + 1):
            count = clip(triangle, len(triangle), z_axis, iz * cell, -1.0, spare)
            count = clip(spare, count, z_axis, (iz + 1) * cell, 1.0, row)
            if count == 0:
                continue
            x_low, x_high = row[0, 0], row[0, 0]
            for k in range(1, count):
                x_low = min(x_low, row[k, 0])
                x_high = max(x_high, row[k, 0])
            for ix in range(int((x_low - _TOUCH) / cell), int((x_high + _TOUCH) / cell) + 1):
                left = clip(row, count, x_axis, ix * cell, -1.0, spare)
                left = clip(spare, left, x_axis, (ix + 1) * cell, 1.0, part)
                if left == 0:
                    continue
                column = iz * nx + ix
                at = cursor[column]
                cursor[column] = at + 1
                if counting:
                    continue
                middle = (
                    triangle[0, 1]
                    + slope_x * ((ix + 0.5) * cell - triangle[0, 0])
                    + slope_z * ((iz + 0.5) * cell - triangle[0, 2])
                )
                _write(fragments[at], part, left, middle)
                walkable[at], owner[at] = flat, f


def voxelise(vertices: F64, faces: I32, config: NavMeshConfig) -> Columns:
    """Cut a mesh (vertices (V,3) in metres, faces (F,3)) into the fragments of each column.

    Raises `SceneError` for an empty mesh, non-finite vertices, indices out of range, a building too large to be in
    metres, and one whose surfaces lie upon each other over and over.
    """
    if len(faces) == 0:
        raise SceneError("the mesh has no triangles")
    if not np.isfinite(vertices).all():
        raise SceneError("the mesh has non-finite vertices")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise SceneError("the mesh has triangles that name vertices out of range")
    cell = config.cell_m
    used = vertices[np.unique(faces)]
    low, high = used.min(axis=0), used.max(axis=0)
    # Half a cell of offset puts coordinates that are multiples of the cell (usual in made models) at column centres.
    origin = (np.floor(low / cell) - 2.5) * cell
    nx, nz = (int(n) for n in np.ceil((high - origin)[[0, 2]] / cell) + 3)
    if nx * nz > _MAX_COLUMNS:
        size = " x ".join(f"{v:.0f}" for v in high - low)
        raise SceneError(f"the mesh measures {size} m, too large for cells of {cell} m: glTF is in metres")
    corners = (vertices - np.array([origin[0], 0.0, origin[2]]))[faces]
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    _check_fragments(0.5 * float(np.abs(a[:, 0] * b[:, 2] - a[:, 2] * b[:, 0]).sum()) / cell**2)  # at the least
    cosine = float(np.cos(np.radians(config.max_slope_deg)))
    counts = np.zeros(nx * nz, np.int64)
    nothing = np.empty((0, 7), np.float32), np.empty(0, np.uint8), np.empty(0, np.int32)
    _rasterise(corners, cell, nx, cosine, counts, *nothing)
    start = np.zeros(nx * nz + 1, np.int64)
    np.cumsum(counts, out=start[1:])
    total = int(start[-1])
    _check_fragments(total)
    parts = np.empty((total, 7), np.float32), np.empty(total, np.uint8), np.empty(total, np.int32)
    _rasterise(corners, cell, nx, cosine, start[:-1].copy(), *parts)
    return Columns(float(origin[0]), float(origin[2]), nx, nz, start, *parts, corners)


def _check_fragments(count: float) -> None:
    if count > _MAX_FRAGMENTS:
        raise SceneError(
            f"the mesh covers {count:,.0f} cells one above the other, at most {_MAX_FRAGMENTS:,} are supported: "
            "parts of it lie upon each other"
        )


@kernel
def _sort(fragments: F32, first: int, count: int, order: I32) -> None:
    """Write the fragments `first:first + count` to `order` by their lowest points (Shell's sort)."""
    for i in range(count):
        order[i] = first + i
    step = 1
    while 3 * step < count:
        step = 3 * step + 1
    while step > 0:
        for i in range(step, count):
            moved, j = order[i], i
            low = fragments[moved, YMIN]
            while j >= step and fragments[order[j - step], YMIN] > low:
                order[j] = order[j - step]
                j -= step
            order[j] = moved
        step //= 3


@kernel
def _tops(
    start: NDArray[np.int64], fragments: F32, walkable: U8, height: float, climb: float, tolerance: float
) -> tuple[I32, I32, F32, F32, F32]:
    columns = start.size - 1
    room = fragments.shape[0]  # each top has a fragment of its own; pages that stay empty cost nothing
    begin = np.zeros(columns + 1, np.int32)
    column, order = np.empty(room, np.int32), np.empty(room, np.int32)
    y, ceiling = np.empty(room, np.float32), np.empty(room, np.float32)
    extent = np.empty((room, 4), np.float32)
    n = 0
    for c in range(columns):
        first, count = start[c], start[c + 1] - start[c]
        _sort(fragments, first, count, order)
        was_walkable, previous = False, -np.inf
        i = 0
        while i < count:
            top, j = fragments[order[i], YMAX], i + 1
            while j < count and fragments[order[j], YMIN] <= top + tolerance:
                top = max(top, fragments[order[j], YMAX])
                j += 1
            # A span's top can be walked on when a walkable fragment lies within the climbing height of it.
            level = np.float32(-np.inf)
            box = extent[n]
            for k in range(i, j):
                part = fragments[order[k]]
                if walkable[order[k]] and part[YMAX] >= top - climb:
                    if level == -np.inf:
                        box[0], box[1], box[2], box[3] = part[X0], part[X1], part[Z0], part[Z1]
                    else:
                        box[0], box[1] = min(box[0], part[X0]), max(box[1], part[X1])
                        box[2], box[3] = min(box[2], part[Z0]), max(box[3], part[Z1])
                    level = max(level, part[YMID])
            usable = bool(level > -np.inf)
            if not usable and was_walkable and top - previous <= climb:
                # A low bump on a walkable top (Recast's low-hanging obstacle): step over it.
                level = top
                box[0] = box[2] = -np.inf
                box[1] = box[3] = np.inf
            was_walkable, previous = usable, top
            above = fragments[order[j], YMIN] if j < count else np.float32(np.inf)
            if level > -np.inf and above - top >= height - tolerance:
                column[n], y[n], ceiling[n] = c, level, above
                n += 1
            i = j
        begin[c + 1] = n
    return begin, column[:n], y[:n], ceiling[:n], extent[:n]


def walkable_tops(columns: Columns, config: NavMeshConfig) -> Surfaces:
    """Return every top that is flat enough and has the agent's height free above it."""
    return Surfaces(
        *_tops(columns.start, columns.fragments, columns.walkable, config.agent_height_m, config.max_climb_m, TOLERANCE)
    )


TOLERANCE = 1e-3  # metres: heights closer than this are the same


@kernel
def reachable(start: I32, y: F32, column: int, level: float, climb: float) -> int:
    """Return the surface of `column` nearest to the height `level` within `climb`, or -1."""
    best, gap = -1, climb
    for s in range(start[column], start[column + 1]):
        distance = abs(y[s] - level)
        if distance <= gap:
            best, gap = s, distance
    return best


@kernel
def link(start: I32, column: I32, y: F32, ceiling: F32, nx: int, height: float, climb: float) -> I32:
    """Return neighbours (N,9): slot `4 + 3 * dx + dz` is the surface one cell over, itself in slot 4, or -1.

    A diagonal counts only where both ways around the corner lead to the same surface.
    """
    n = column.size
    nbr = np.full((n, 9), -1, np.int32)
    for s in range(n):
        nbr[s, 4] = s
        for dx, dz in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            t = reachable(start, y, column[s] + dz * nx + dx, y[s], climb)
            if t >= 0 and min(ceiling[s], ceiling[t]) - max(y[s], y[t]) >= height - TOLERANCE:
                nbr[s, 4 + 3 * dx + dz] = t
    for s in range(n):
        for dx, dz in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
            a, b = nbr[s, 4 + 3 * dx], nbr[s, 4 + dz]
            if a >= 0 and b >= 0 and nbr[a, 4 + dz] == nbr[b, 4 + 3 * dx]:
                nbr[s, 4 + 3 * dx + dz] = nbr[a, 4 + dz]
    return nbr
