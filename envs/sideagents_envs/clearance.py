"""Distance of every walkable surface to obstacles and ledges, and the graph of places where the agent fits."""

from __future__ import annotations

import heapq

import numba
import numpy as np
from numpy.typing import NDArray

from sideagents_envs.motion import EDGE, GAP, QX, QZ, Grid, follow, probe, push_out, slot
from sideagents_envs.voxels import TOLERANCE, U0, U1, V0, V1, X0, X1, YMAX, YMIN, Z0, Z1, reachable

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U16 = NDArray[np.uint16]


@numba.njit(cache=True, inline="always")
def _outside(value: float, low: float, high: float) -> float:
    return max(low - value, value - high, 0.0)


@numba.njit(cache=True)
def _distance(x: float, z: float, box: F32) -> float:
    """Distance to an octagon as the larger of the distances to its two boxes: exact but at its blunt corners."""
    dx, dz = _outside(x, box[0], box[1]), _outside(z, box[2], box[3])
    du, dv = _outside(x + z, box[4], box[5]), _outside(x - z, box[6], box[7])
    return float(np.sqrt(max(dx * dx + dz * dz, 0.5 * (du * du + dv * dv))))


@numba.njit(cache=True)
def _obstacle(
    first: int, last: int, fragments: F32, low: float, high: float, ix: int, iz: int, dx: int, dz: int,
    floor: F32, cell: float, box: F32,
) -> None:  # fmt: skip
    """Write the octagon of what blocks the way into a column: its fragments between two heights, else its ledge."""
    box[0] = box[2] = box[4] = box[6] = np.inf
    box[1] = box[3] = box[5] = box[7] = -np.inf
    for k in range(first, last):
        part = fragments[k]
        if part[YMAX] > low and part[YMIN] < high:
            for i, lower in enumerate((X0, Z0, U0, V0)):
                box[2 * i] = min(box[2 * i], part[lower])
            for i, upper in enumerate((X1, Z1, U1, V1)):
                box[2 * i + 1] = max(box[2 * i + 1], part[upper])
    if box[0] <= box[1]:
        return
    # Nothing stands there: the floor ends. It may end within the last cell already.
    box[0], box[1] = (ix + dx) * cell, (ix + dx + 1) * cell
    box[2], box[3] = (iz + dz) * cell, (iz + dz + 1) * cell
    if dx > 0:
        box[0] = min(box[0], max(floor[1], ix * cell))
    elif dx < 0:
        box[1] = max(box[1], min(floor[0], (ix + 1) * cell))
    if dz > 0:
        box[2] = min(box[2], max(floor[3], iz * cell))
    elif dz < 0:
        box[3] = max(box[3], min(floor[2], (iz + 1) * cell))
    box[4] = box[6] = -np.inf
    box[5] = box[7] = np.inf


@numba.njit(cache=True)
def gaps(
    begin: I64, fragments: F32, start: I32, column: I32, y: F32, extent: F32, nbr: I32,
    nx: int, cell: float, agent_height: float, climb: float,
) -> F64:  # fmt: skip
    """Return the distance in the plane from each surface's centre to the nearest obstacle or ledge, (N,) metres.

    Every missing neighbour is an obstacle with an exact footprint; the nearest one is handed on from cell to cell in
    order of distance (a vector distance transform), along links only, so that other floors do not count.
    """
    n = column.size
    boxes = np.empty((1024, 8), np.float32)
    used = 0
    gap = np.full(n, np.inf)
    source = np.full(n, -1, np.int32)
    queue = [(0.0, np.int64(0)) for _ in range(0)]
    for s in range(n):
        ix, iz = column[s] % nx, column[s] // nx
        x, z = (ix + 0.5) * cell, (iz + 0.5) * cell
        for dx in range(-1, 2):
            for dz in range(-1, 2):
                if nbr[s, slot(dx, dz)] >= 0:
                    continue
                c = column[s] + dz * nx + dx
                if dx != 0 and dz != 0 and reachable(start, y, c, y[s], climb) >= 0:
                    continue
                if used == boxes.shape[0]:
                    boxes = np.concatenate((boxes, np.empty_like(boxes)))
                low, high = y[s] + climb + TOLERANCE, y[s] + agent_height
                box = boxes[used]
                _obstacle(begin[c], begin[c + 1], fragments, low, high, ix, iz, dx, dz, extent[s], cell, box)
                d = _distance(x, z, box)
                if d < gap[s]:
                    gap[s], source[s] = d, used
                used += 1
        if source[s] >= 0:
            heapq.heappush(queue, (gap[s], np.int64(s)))
    while len(queue) > 0:
        d, s = heapq.heappop(queue)
        if d > gap[s]:
            continue
        for k in range(9):
            t = nbr[s, k]
            if t < 0 or t == s:
                continue
            cx, cz = (column[t] % nx + 0.5) * cell, (column[t] // nx + 0.5) * cell
            e = _distance(cx, cz, boxes[source[s]])
            if e < gap[t]:
                gap[t], source[t] = e, source[s]
                heapq.heappush(queue, (e, np.int64(t)))
    return gap


@numba.njit(cache=True)
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
            if t >= 0 and grid.hops[t] != 0 and grid.nbr[t, 8 - k] == s and _hop(grid, s, t):
                grid.hops[s] |= 1 << k
                grid.hops[t] |= 1 << (8 - k)


@numba.njit(cache=True)
def _hop(grid: Grid, s: int, t: int) -> bool:
    """Whether the agent fits half-way between two neighbouring nodes, if need be after a small push."""
    surf, radius = grid.surf, grid.radius
    if min(surf[s, GAP], surf[t, GAP]) > radius + grid.frame[2]:
        return True
    x, z = 0.5 * (surf[s, QX] + surf[t, QX]), 0.5 * (surf[s, QZ] + surf[t, QZ])
    m = follow(grid, s, surf[s, QX], surf[s, QZ], x, z)
    return m >= 0 and push_out(grid, m, x, z, radius, 0.4 * grid.frame[2])[0] >= 0


@numba.njit(cache=True)
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


@numba.njit(cache=True)
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


@numba.njit(cache=True)
def lower_neighbours(
    start: I32, column: I32, y: F32, nbr: I32, island: I32, area: F64, sizes: F64, nx: int, drop: float
) -> tuple[I64, I64, I64, I64]:
    """Count per island: cells, cells above another sizeable island, border directions, those that fall onto a larger one.

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
            if nbr[s, slot(dx, dz)] >= 0:
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


@numba.njit(cache=True)
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
