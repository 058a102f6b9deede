"""Shortest distances to one goal over walkable space, at any angle.

Every node stores the point from which it is reached in a straight line (its root: the goal or a node at a corner) as
in lazy Theta* (Nash, Koenig and Tovey 2010), but for all nodes at once: nodes are taken from a bucket queue in order
of distance, and a line of sight is only traced where two neighbours towards the root do not already vouch for it.
Lengths are sums of straight lines in space between turning points, as habitat-sim measures them.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sideagents_envs.kernels import kernel, wide
from sideagents_envs.walk.motion import QX, QZ, Grid, Y, height, locate, sees

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]

_BUCKETS = 256  # of a quarter cell each: wider than the longest hop
_STRAIGHT = 2e-5  # metres: a turning point that costs less is none
REACH = 0.5  # metres above or below a point in which its floor is looked for, as in habitat-sim


class Field(NamedTuple):
    """Distances to `goal` (3,): `distance` (N,) of the nodes, `root` (N,) the node each is reached from, -1: goal."""

    goal: F64
    distance: F64
    root: I32


@kernel
def _length(dx: float, dy: float, dz: float) -> float:
    return float(np.sqrt(dx * dx + dy * dy + dz * dz))


@kernel
def _point(grid: Grid, goal: F64, node: int) -> tuple[float, float, float]:
    if node < 0:
        return goal[0], goal[1], goal[2]
    surf = grid.surf
    return float(np.float64(surf[node, QX])), float(np.float64(surf[node, Y])), float(np.float64(surf[node, QZ]))


@kernel
def _remove(s: int, bucket: int, head: I32, after: I32, before: I32) -> None:
    if before[s] >= 0:
        after[before[s]] = after[s]
    else:
        head[bucket] = after[s]
    if after[s] >= 0:
        before[after[s]] = before[s]


@kernel
def _insert(s: int, bucket: int, head: I32, after: I32, before: I32) -> None:
    after[s], before[s] = head[bucket], -1
    if head[bucket] >= 0:
        before[head[bucket]] = s
    head[bucket] = s


@kernel
def _visible(grid: Grid, goal: F64, s: int, root: int, roots: I32, done: U8) -> bool:
    """Whether a node sees a root, mostly told from the two neighbours between which the line to the root passes.

    Where both see it, so does the node. Where one sees it and the other is reached around a corner that sees it, all
    beyond the line from the root through that corner is in its shadow. Else the line is walked.
    """
    x, _, z = _point(grid, goal, s)
    rx, _, rz = _point(grid, goal, root)
    dx, dz = rx - x, rz - z
    sx, sz = (1 if dx > 0 else -1), (1 if dz > 0 else -1)
    a = wide(grid.nbr[s, 4 + 3 * sx if abs(dx) >= abs(dz) else 4 + sz])
    b = wide(grid.nbr[s, 4 + 3 * sx + sz])
    if a >= 0 and b >= 0 and done[a] == 1 and done[b] == 1:
        lit_a, lit_b = a == root or roots[a] == root, b == root or roots[b] == root
        if lit_a and lit_b:
            return True
        if lit_a != lit_b:
            lit, dark = (a, b) if lit_a else (b, a)
            corner = wide(roots[dark])
            if corner >= 0 and lit != root and roots[corner] == root:
                cx, _, cz = _point(grid, goal, corner)
                lx, _, lz = _point(grid, goal, lit)
                side = (cx - rx) * (lz - rz) - (cz - rz) * (lx - rx)
                if ((cz - rz) * dx - (cx - rx) * dz) * side < 0.0:
                    return False
    return sees(grid, s, x, z, rx, rz) >= 0


@kernel
def _settle(
    grid: Grid, goal: F64, s: int, failed: int, distance: F64, roots: I32, done: U8, offered: I32, values: F64
) -> tuple[float, int]:
    """Return distance and root of a node that does not see the root it was offered.

    It is reached from a settled neighbour, from a neighbour's root, or from a node next to the corner (`failed`) that
    is just out of sight: from the best of them that it sees. `offered`, `values` (18,) are working space.
    """
    x, y, z = _point(grid, goal, s)
    best, root = np.inf, -1
    count = 0
    for k in range(18):
        if k < 9:
            t = wide(grid.nbr[s, k])
            if k == 4 or t < 0 or done[t] != 1 or not grid.hops[s] >> k & 1:
                continue
            tx, ty, tz = _point(grid, goal, t)
            d = distance[t] + _length(tx - x, ty - y, tz - z)
            if d < best:
                best, root = d, t
            r = wide(roots[t])
        else:
            r = wide(grid.nbr[failed, k - 9]) if failed >= 0 else -1
            if r < 0 or done[r] != 1:
                continue
        known = r == failed
        for i in range(count):
            known = known or offered[i] == r
        if not known:
            rx, ry, rz = _point(grid, goal, r)
            offered[count] = r
            values[count] = (distance[r] if r >= 0 else 0.0) + _length(rx - x, ry - y, rz - z)
            count += 1
    while count > 0:
        least = 0
        for i in range(1, count):
            if values[i] < values[least]:
                least = i
        # On a straight line both cost the same: the farther root is better, it serves more nodes behind this one.
        if values[least] > best + 1e-6:
            break
        if _visible(grid, goal, s, wide(offered[least]), roots, done):
            return values[least], offered[least]
        count -= 1
        offered[least], values[least] = offered[count], values[count]
    return best, root


@kernel
def _seed(grid: Grid, goal: F64, s: int, distance: F64, roots: I32, seeds: I32) -> int:
    """Give the nodes around the goal (surface `s`) that see it their distances; returns how many, at most 49."""
    count, width = 1, 1
    ring = np.empty(256, np.int32)  # the surfaces seen so far
    ring[0] = s
    found = 0
    for _ in range(3):
        for i in range(count):
            for k in range(9):
                t = grid.nbr[ring[i], k]
                known = t < 0 or width == ring.size
                for j in range(width):
                    known = known or ring[j] == t
                if not known:
                    ring[width] = t
                    width += 1
        count = width
        for i in range(width):
            t = wide(ring[i])
            if grid.hops[t] == 0 or distance[t] < np.inf:
                continue
            x, y, z = _point(grid, goal, t)
            if sees(grid, s, goal[0], goal[2], x, z) == t:
                distance[t] = _length(x - goal[0], y - goal[1], z - goal[2])
                roots[t] = -1
                seeds[found] = t
                found += 1
        if found > 0:
            break
    return found


@kernel
def solve(grid: Grid, goal: F64, s: int, distance: F64, roots: I32) -> None:
    """Fill `distance` (inf where unreachable) and `roots` for a goal that lies on surface `s`."""
    n = roots.size
    distance[:] = np.inf
    roots[:] = -2
    done, sure = np.zeros(n, np.uint8), np.zeros(n, np.uint8)
    failed = np.full(n, -2, np.int32)
    head = np.full(_BUCKETS, -1, np.int32)
    after, before = np.empty(n, np.int32), np.empty(n, np.int32)
    scale = 4.0 / grid.frame[2]
    seeds = np.empty(256, np.int32)
    offered, values = np.empty(18, np.int32), np.empty(18)
    waiting = _seed(grid, goal, s, distance, roots, seeds)
    for i in range(waiting):
        _insert(wide(seeds[i]), int(distance[seeds[i]] * scale) % _BUCKETS, head, after, before)
    now = 0
    while waiting > 0:
        s = wide(head[now % _BUCKETS])
        if s < 0:
            now += 1
            continue
        _remove(s, now % _BUCKETS, head, after, before)
        root = wide(roots[s])
        if not sure[s] and not _visible(grid, goal, s, root, roots, done):
            failed[s] = root
            sure[s] = 1
            distance[s], roots[s] = _settle(grid, goal, s, root, distance, roots, done, offered, values)
            bucket = max(now, int(distance[s] * scale))
            if bucket > now and distance[s] < np.inf:
                _insert(s, bucket % _BUCKETS, head, after, before)
                continue
            root = wide(roots[s])
        waiting -= 1
        done[s] = 1
        rx, ry, rz = _point(grid, goal, root)
        base = distance[root] if root >= 0 else 0.0
        hops = grid.hops[s]
        for k in range(9):
            t = wide(grid.nbr[s, k])
            if not hops >> k & 1 or done[t] == 1 or roots[t] == root or failed[t] == root:
                continue
            tx, ty, tz = _point(grid, goal, t)
            d = base + _length(tx - rx, ty - ry, tz - rz)
            if d < distance[t] - 1e-9:
                if distance[t] < np.inf:
                    _remove(t, int(max(now, distance[t] * scale)) % _BUCKETS, head, after, before)
                else:
                    waiting += 1
                distance[t], roots[t], sure[t] = d, root, 0
                _insert(t, int(max(now, d * scale)) % _BUCKETS, head, after, before)


@kernel
def _by_way_of_a_node(grid: Grid, field: Field, s: int, x: float, y: float, z: float) -> tuple[float, int]:
    """Return the least distance from a point on surface `s` over a node around it, and that node."""
    best, root = np.inf, -1
    for k in range(9):
        t = wide(grid.nbr[s, k])
        if t >= 0 and field.distance[t] < np.inf:
            tx, ty, tz = _point(grid, field.goal, t)
            d = field.distance[t] + _length(tx - x, ty - y, tz - z)
            if d < best:
                best, root = d, t
    return best, root


@kernel
def _aim(grid: Grid, field: Field, s: int, x: float, y: float, z: float) -> tuple[float, int]:
    """As `aim`, for a point on surface `s`."""
    goal, distance, roots = field.goal, field.distance, field.root
    offered = np.empty(9, np.int32)
    values = np.empty(9)
    count = 0
    for k in range(9):
        t = wide(grid.nbr[s, k])
        if t < 0 or distance[t] == np.inf:
            continue
        r = wide(roots[t])
        known = False
        for i in range(count):
            known = known or offered[i] == r
        if not known:
            rx, ry, rz = _point(grid, goal, r)
            offered[count] = r
            values[count] = (distance[r] if r >= 0 else 0.0) + _length(rx - x, ry - y, rz - z)
            count += 1
    if count == 1:
        return values[0], offered[0]
    best, root = np.inf, -1
    while count > 0:
        i = 0
        for j in range(1, count):
            if values[j] < values[i]:
                i = j
        if values[i] >= best:
            break
        rx, _, rz = _point(grid, goal, wide(offered[i]))
        if sees(grid, s, x, z, rx, rz) >= 0:
            return values[i], offered[i]
        if root < 0:  # the nearest root is out of sight, so it may be shorter by way of a node than to the next root
            best, root = _by_way_of_a_node(grid, field, s, x, y, z)
        count -= 1
        values[i], offered[i] = values[count], offered[count]
    return best, root


@kernel
def aim(grid: Grid, field: Field, x: float, y: float, z: float) -> tuple[float, int]:
    """Return the distance from a point to the goal and the node (-1: the goal) to walk to first; inf: unreachable."""
    s = locate(grid, x, y, z, REACH)
    if s < 0:
        return np.inf, -1
    return _aim(grid, field, s, x, height(grid, s, x, z), z)


@kernel
def evaluate(grid: Grid, field: Field, points: F64, out: F64) -> None:
    """Write the distances from points (K,3) to the goal."""
    for i in range(points.shape[0]):
        out[i] = aim(grid, field, points[i, 0], points[i, 1], points[i, 2])[0]


class DistanceField:
    """Shortest walking distances, in metres, from anywhere to one goal."""

    def __init__(self, grid: Grid, goal: F64, surface: int) -> None:
        n = len(grid.hops)
        self.goal = goal
        self.grid = grid
        self.field = Field(goal, np.empty(n), np.empty(n, np.int32))
        solve(grid, goal, surface, self.field.distance, self.field.root)

    def value(self, point: ArrayLike) -> float:
        """Return the distance from a point (3,); inf where the goal cannot be reached."""
        x, y, z = np.asarray(point, np.float64)
        return float(aim(self.grid, self.field, x, y, z)[0])

    def values(self, points: ArrayLike) -> F64:
        """Return the distances from points (K,3), float64 (K,); inf where the goal cannot be reached."""
        rows = np.ascontiguousarray(points, dtype=np.float64).reshape(-1, 3)
        out = np.empty(len(rows))
        evaluate(self.grid, self.field, rows, out)
        return out

    def path(self, start: ArrayLike) -> F64:
        """Return the turning points from `start` to the goal, both included, (K,3); empty (0,3) when unreachable.

        Its length is the value at `start` (to a millimetre or so: points on a straight line are left out).
        """
        x, y, z = np.asarray(start, np.float64)
        value, root = aim(self.grid, self.field, x, y, z)
        if not np.isfinite(value):
            return np.empty((0, 3))
        points = [(x, y, z)]
        while root >= 0:
            points.append(_point(self.grid, self.goal, root))
            root = int(self.field.root[root])
        points.append(tuple(self.goal))
        kept = [np.array(points[0])]
        for point, after in itertools.pairwise(points):
            if _detour(kept[-1], np.array(point), np.array(after)) > _STRAIGHT:
                kept.append(np.array(point))
        return np.array([*kept, self.goal])


def _detour(a: F64, b: F64, c: F64) -> float:
    return float(np.linalg.norm(b - a) + np.linalg.norm(c - b) - np.linalg.norm(c - a))
