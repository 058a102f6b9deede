"""Distance of every walkable surface to obstacles and ledges, and the graph of places where the agent fits."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from sideagents_envs.config import NavMeshConfig
from sideagents_envs.kernels import kernel, wide
from sideagents_envs.walk.motion import EDGE, GAP, QX, QZ, Grid, follow, probe, push_out
from sideagents_envs.walk.voxels import TOLERANCE, YMAX, YMIN, Columns, Surfaces, clip, reachable

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U16 = NDArray[np.uint16]


@kernel
def _distance(x: float, z: float, polygon: F64, count: int) -> float:
    """Distance in plan from a point to a convex polygon (count, 2), which may be as thin as a line."""
    best = np.inf
    left = right = True
    for i in range(count):
        j = i + 1 if i + 1 < count else 0
        ax, az = polygon[i, 0], polygon[i, 1]
        bx, bz = polygon[j, 0] - ax, polygon[j, 1] - az
        px, pz = x - ax, z - az
        cross = bx * pz - bz * px
        left = left and cross > 1e-12
        right = right and cross < -1e-12
        square = bx * bx + bz * bz
        t = min(max((px * bx + pz * bz) / square, 0.0), 1.0) if square > 0.0 else 0.0
        best = min(best, (px - t * bx) ** 2 + (pz - t * bz) ** 2)
    return 0.0 if left or right else float(np.sqrt(best))


@kernel
def _footprint(corners: F64, low: float, high: float, spare: F64, part: F64, polygon: F64) -> int:
    """Write what a triangle covers in plan between two heights to `polygon`; returns the number of points."""
    y_axis = np.int64(1)
    count = clip(corners, len(corners), y_axis, low, -1.0, spare)
    count = clip(spare, count, y_axis, high, 1.0, part)
    for i in range(count):
        polygon[i, 0], polygon[i, 1] = part[i, 0], part[i, 2]
    return count


@kernel
def _ledge(ix: int, iz: int, dx: int, dz: int, floor: F32, cell: float, polygon: F64) -> int:
    """Write the part of a neighbouring column where the floor is missing; it may end within the last cell already."""
    x0, x1 = (ix + dx) * cell, (ix + dx + 1) * cell
    z0, z1 = (iz + dz) * cell, (iz + dz + 1) * cell
    if dx > 0:
        x0 = min(x0, max(floor[1], ix * cell))
    elif dx < 0:
        x1 = max(x1, min(floor[0], (ix + 1) * cell))
    if dz > 0:
        z0 = min(z0, max(floor[3], iz * cell))
    elif dz < 0:
        z1 = max(z1, min(floor[2], (iz + 1) * cell))
    polygon[0, 0], polygon[0, 1], polygon[1, 0], polygon[1, 1] = x0, z0, x1, z0
    polygon[2, 0], polygon[2, 1], polygon[3, 0], polygon[3, 1] = x1, z1, x0, z1
    return 4


@kernel
def _borders(start: I32, column: I32, y: F32, nbr: I32, nx: int, climb: float) -> tuple[I32, I32]:
    """Return every surface and slot in which a neighbour is missing, (M,) each."""
    count = 0
    surface, where = np.empty(9 * column.size, np.int32), np.empty(9 * column.size, np.int32)
    for s in range(column.size):
        for k in range(9):
            if nbr[s, k] >= 0:
                continue
            dx, dz = k // 3 - 1, k % 3 - 1
            if dx != 0 and dz != 0 and reachable(start, y, column[s] + dz * nx + dx, y[s], climb) >= 0:
                continue  # a free cell around a corner
            surface[count], where[count] = s, k
            count += 1
    return surface[:count].copy(), where[:count].copy()


@kernel
def _obstacles(
    surface: I32, where: I32, begin: I64, fragments: F32, triangle: I32, corners: F64, column: I32, y: F32,
    extent: F32, nx: int, cell: float, agent_height: float, climb: float, gap: F64, source: I32,
) -> tuple[F64, I32]:  # fmt: skip
    """Write each border surface's distance and nearest obstacle; returns the obstacles: (K,6,2), numbers of points."""
    spare, part = np.empty((9, 3)), np.empty((9, 3))
    polygons, counts = np.empty((1024, 6, 2)), np.empty(1024, np.int32)
    used = 0
    made, made_low = np.full(corners.shape[0], -1, np.int32), np.empty(corners.shape[0])
    for m in range(surface.size):
        s, dx, dz = surface[m], where[m] // 3 - 1, where[m] % 3 - 1
        ix, iz = column[s] % nx, column[s] // nx
        low, high = y[s] + climb + TOLERANCE, y[s] + agent_height
        c = column[s] + dz * nx + dx
        standing = False
        # one turn more than there are fragments: the last is for the ledge, where nothing stands
        for k in range(begin[c], begin[c + 1] + 1):
            if used == counts.size:
                polygons = np.concatenate((polygons, np.empty_like(polygons)))
                counts = np.concatenate((counts, np.empty_like(counts)))
            which = used
            if k == begin[c + 1]:
                if standing:
                    break
                counts[used] = _ledge(ix, iz, dx, dz, extent[s], cell, polygons[used])
            elif not (fragments[k, YMAX] > low and fragments[k, YMIN] < high):
                continue
            elif made[triangle[k]] >= 0 and made_low[triangle[k]] == low:
                which = made[triangle[k]]
            else:
                f = triangle[k]
                counts[used] = _footprint(corners[f], low, high, spare, part, polygons[used])
                made[f], made_low[f] = used, low
            used += which == used
            standing = True
            d = _distance((ix + 0.5) * cell, (iz + 0.5) * cell, polygons[which], counts[which])
            if d < gap[s]:
                gap[s], source[s] = d, which
    return polygons[:used], counts[:used]


@kernel
def _hand_on(polygons: F64, counts: I32, column: I32, nbr: I32, nx: int, cell: float, gap: F64, source: I32) -> None:
    """Hand obstacles on from surface to surface in order of distance (a vector distance transform)."""
    queue = [(gap[s], np.int64(s)) for s in range(gap.size) if source[s] >= 0]
    heapq.heapify(queue)
    while len(queue) > 0:
        d, s = heapq.heappop(queue)
        if d > gap[s]:
            continue
        for k in range(9):
            t = nbr[s, k]
            if t < 0 or t == s:
                continue
            x, z = (column[t] % nx + 0.5) * cell, (column[t] // nx + 0.5) * cell
            e = _distance(x, z, polygons[source[s]], counts[source[s]])
            if e < gap[t]:
                gap[t], source[t] = e, source[s]
                heapq.heappush(queue, (e, np.int64(t)))


def gaps(columns: Columns, tops: Surfaces, nbr: I32, config: NavMeshConfig) -> F64:
    """Return the distance in plan from each surface's centre to the nearest obstacle or ledge, (N,) metres.

    Where a neighbour is missing, the triangles that stand in its column between climbing height and the agent's height
    are the obstacles, else the floor ends there. The nearest obstacle is handed on along links only, so that other
    floors do not count.
    """
    nx, cell, climb = columns.nx, config.cell_m, config.max_climb_m
    surface, where = _borders(tops.start, tops.column, tops.y, nbr, nx, climb)
    gap, source = np.full(len(tops.y), np.inf), np.full(len(tops.y), -1, np.int32)
    polygons, counts = _obstacles(
        surface, where, columns.start, columns.fragments, columns.triangle, columns.corners, tops.column, tops.y,
        tops.extent, nx, cell, config.agent_height_m, climb, gap, source,
    )  # fmt: skip
    _hand_on(polygons, counts, tops.column, nbr, nx, cell, gap, source)
    return gap


@kernel
def place_nodes(grid: Grid, column: I32) -> None:
    """Choose each cell's node (writes QX, QZ, hops): its centre, or the nearest point of the free space's contour.

    Cells that the contour passes through get their node on it, so that paths hug corners as closely as the agent can.
    """
    frame, surf = grid.frame, grid.surf
    cell, nx = frame[2], int(frame[3])
    for s in range(column.size):
        x = frame[0] + (column[s] % nx + 0.5) * cell
        z = frame[1] + (column[s] // nx + 0.5) * cell
        surf[s, QX], surf[s, QZ] = x, z
        grid.hops[s] = 0
        gap = surf[s, GAP]
        if gap < grid.radius - 0.75 * cell:
            continue
        if gap < grid.radius + 0.5 * cell:
            _, gx, gz = probe(grid, s, x, z)
            px, pz = x, z
            steep = gx * gx + gz * gz
            if gap > grid.radius and steep > 0.5:
                scale = (grid.radius - gap) / steep
                px, pz = px + gx * scale, pz + gz * scale
            inside = max(abs(px - x), abs(pz - z)) < 0.5 * cell
            t, px, pz = push_out(grid, s, px, pz, grid.radius, cell) if inside else (-1, x, z)
            if t == s and max(abs(px - x), abs(pz - z)) < 0.5 * cell:
                surf[s, QX], surf[s, QZ] = px, pz
            elif gap < grid.radius - EDGE:
                continue
        grid.hops[s] = 1 << 4
    for s in range(column.size):
        if grid.hops[s] == 0:
            continue
        for k in range(4):
            t = grid.nbr[s, k]
            if t >= 0 and grid.hops[t] != 0 and grid.nbr[t, 8 - k] == s and _hop(grid, s, wide(t)):
                grid.hops[s] |= 1 << k
                grid.hops[t] |= 1 << (8 - k)


@kernel
def _hop(grid: Grid, s: int, t: int) -> bool:
    """Whether the agent fits half-way between two neighbouring nodes, if need be after a small push."""
    surf, radius = grid.surf, grid.radius
    if min(surf[s, GAP], surf[t, GAP]) > radius + grid.frame[2]:
        return True
    x, z = 0.5 * (surf[s, QX] + surf[t, QX]), 0.5 * (surf[s, QZ] + surf[t, QZ])
    m = follow(grid, s, float(np.float64(surf[s, QX])), float(np.float64(surf[s, QZ])), x, z)
    return m >= 0 and push_out(grid, m, x, z, radius, 0.4 * grid.frame[2])[0] >= 0


@kernel
def label(nbr: I32, hops: U16) -> I32:
    """Return the island of each node, -1 for surfaces that are no node; islands are connected by hops."""
    n = hops.size
    island = np.full(n, -1, np.int32)
    stack = np.empty(n, np.int32)
    count = 0
    for seed in range(n):
        if hops[seed] == 0 or island[seed] >= 0:
            continue
        island[seed], stack[0], top = count, seed, 1
        while top > 0:
            top -= 1
            s = stack[top]
            for k in range(9):
                t = nbr[s, k]
                if k != 4 and hops[s] >> k & 1 and island[t] < 0:
                    island[t], stack[top] = count, t
                    top += 1
        count += 1
    return island


@kernel
def areas(grid: Grid, column: I32, island: I32) -> F64:
    """Return the free area of every surface, square metres; cells cut by the contour are sampled 4 x 4.

    A cell without a node belongs to the island of a linked neighbour: `island` is completed in place.
    """
    frame = grid.frame
    cell, nx = frame[2], int(frame[3])
    area = np.zeros(column.size)
    whole = island.copy()
    for s in range(column.size):
        gap = grid.surf[s, GAP]
        if gap < grid.radius - 0.75 * cell:
            continue
        if whole[s] < 0:
            for k in range(9):
                t = grid.nbr[s, k]
                if t >= 0 and whole[t] >= 0:
                    island[s] = whole[t]
                    break
        if island[s] < 0:
            continue
        if gap > grid.radius + 0.75 * cell:
            area[s] = cell * cell
            continue
        count = 0
        for i in range(4):
            for j in range(4):
                x = frame[0] + (column[s] % nx + (i + 0.5) / 4) * cell
                z = frame[1] + (column[s] // nx + (j + 0.5) / 4) * cell
                count += probe(grid, s, x, z)[0] >= grid.radius
        area[s] = cell * cell * count / 16
    return area


@kernel
def lower_neighbours(
    start: I32, column: I32, y: F32, nbr: I32, island: I32, area: F64, sizes: F64, nx: int, drop: float
) -> tuple[I64, I64, I64, I64]:
    """Count per island: cells, cells above another sizeable island, border directions, falls to a larger one.

    `sizes` are the islands' areas; a fall is at most `drop` metres. Sizeable is a third of the island above.
    """
    count = sizes.size
    cells, above = np.zeros(count, np.int64), np.zeros(count, np.int64)
    border, falls = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for s in range(column.size):
        i = island[s]
        if i >= 0 and area[s] > 0:
            cells[i] += 1
            for t in range(start[column[s]], s):
                if y[t] < y[s] and island[t] >= 0 and island[t] != i and 3 * sizes[island[t]] >= sizes[i]:
                    above[i] += 1
                    break
    owner = _spread(nbr, island)
    for s in range(column.size):
        i = owner[s]
        if i < 0:
            continue
        for dx, dz in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            if nbr[s, 4 + 3 * dx + dz] >= 0:
                continue
            border[i] += 1
            c = column[s]
            for _ in range(3):
                c += dz * nx + dx
                if c < 0 or c >= start.size - 1:
                    break
                found = False
                for t in range(start[c], start[c + 1]):
                    j = owner[t]
                    if j >= 0 and j != i and y[s] - drop < y[t] < y[s] and sizes[j] > sizes[i]:
                        found = True
                if found:
                    falls[i] += 1
                    break
    return cells, above, border, falls


@kernel
def _spread(nbr: I32, island: I32) -> I32:
    """Hand islands on to linked surfaces that have none (those nearer to the border than the agent's radius)."""
    owner = island.copy()
    queue = np.empty(island.size, np.int32)
    tail = 0
    for s in range(island.size):
        if owner[s] >= 0:
            queue[tail] = s
            tail += 1
    head = 0
    while head < tail:
        s = queue[head]
        head += 1
        for k in range(9):
            t = nbr[s, k]
            if t >= 0 and owner[t] < 0:
                owner[t] = owner[s]
                queue[tail] = t
                tail += 1
    return owner
