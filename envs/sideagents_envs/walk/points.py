"""Points on walkable surfaces: settled on the floor, moved to the nearest free place, seen from above."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sideagents_envs.kernels import kernel, wide
from sideagents_envs.walk.geodesic import REACH
from sideagents_envs.walk.motion import Grid, Y, free, height, locate, probe, push_out

F64 = NDArray[np.float64]


@kernel
def settle_heights(grid: Grid, cells: NDArray[np.intp], points: F64) -> NDArray[np.bool_]:
    """Set each point's height to its surface's and return which points are free."""
    good = np.zeros(len(cells), np.bool_)
    for i in range(len(cells)):
        x, z = points[i, 0], points[i, 2]
        good[i] = probe(grid, cells[i], x, z)[0] >= grid.radius
        points[i, 1] = height(grid, cells[i], x, z)
    return good


@kernel
def snap(grid: Grid, island: NDArray[np.int32], point: F64, limit: float, out: F64) -> None:
    """Write the free point nearest to a point (3,) to `out`; it stays as it is when none is within `limit` metres."""
    x, y, z = point[0], point[1], point[2]
    here = locate(grid, x, y, z, REACH)
    if here >= 0 and island[here] >= 0 and free(grid, here, x, z):
        out[0], out[1], out[2] = x, height(grid, here, x, z), z
        return
    frame = grid.frame
    cell, nx, nz = frame[2], int(frame[3]), int(frame[4])
    if not (np.isfinite(x) and np.isfinite(y) and np.isfinite(z)):
        return
    ix, iz = int(np.floor((x - frame[0]) / cell)), int(np.floor((z - frame[1]) / cell))
    rings = int(np.ceil(limit / cell)) + 1
    best = limit * limit
    for jz in range(max(0, iz - rings), min(nz, iz + rings + 1)):
        for jx in range(max(0, ix - rings), min(nx, ix + rings + 1)):
            # the cell's point nearest to the given one, kept just inside
            left, near = frame[0] + jx * cell, frame[1] + jz * cell
            px = min(max(x, left + 1e-6), left + cell - 1e-6)
            pz = min(max(z, near + 1e-6), near + cell - 1e-6)
            plan = (px - x) ** 2 + (pz - z) ** 2
            if plan >= best:
                continue
            for s in range(wide(grid.start[jz * nx + jx]), wide(grid.start[jz * nx + jx + 1])):
                rise = grid.surf[s, Y] - y
                if island[s] < 0 or plan + rise * rise >= best:
                    continue
                t, qx, qz = push_out(grid, s, px, pz, grid.radius, cell)
                if t < 0:
                    continue
                level = height(grid, t, qx, qz)
                far = (qx - x) ** 2 + (level - y) ** 2 + (qz - z) ** 2
                if far < best:
                    best = far
                    out[0], out[1], out[2] = qx, level, qz


@kernel
def topdown(
    grid: Grid, island: NDArray[np.int32], x0: float, z0: float, pixel: float, level: float, image: NDArray[np.bool_]
) -> None:
    """Write to `image` [z, x] what is free within `REACH` of the height `level`; (x0, z0) is the corner of [0, 0]."""
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            x, z = x0 + (j + 0.5) * pixel, z0 + (i + 0.5) * pixel
            s = locate(grid, x, level, z, REACH)
            image[i, j] = s >= 0 and island[s] >= 0 and free(grid, s, x, z)
