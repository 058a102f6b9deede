"""Smooth normals and principal curvatures of a triangle mesh, from its geometry alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

CREASE_DEG = 50.0  # facets that meet at a smaller angle are pieces of one round surface
_WELD = 1e4  # vertices closer than a tenth of a millimetre are one


def _weld(vertices: F64, faces: I64, groups: I64) -> I64:
    """Return corner ids (F,3): equal where corners of one group lie at the same place."""
    keys = np.empty((len(faces), 3, 4), np.int64)
    keys[..., :3] = np.rint(vertices * _WELD).astype(np.int64)[faces]
    keys[..., 3] = groups[:, None]
    _, inverse = np.unique(keys.reshape(-1, 4), axis=0, return_inverse=True)
    ids: I64 = inverse.reshape(-1, 3).astype(np.int64)
    return ids


def smoothing_groups(faces: ArrayLike, objects: ArrayLike) -> I64:
    """Return a number for each triangle (F,): triangles that share vertices of the file belong together.

    Files keep a vertex twice where a surface has an edge, so that a flat panel that runs on into a round one stays
    flat. Triangles that share no vertex at all, as in a triangle soup, are grouped by their object (F,).
    """
    triangles, owner = np.asarray(faces, np.int64), np.asarray(objects, np.int64)
    used, compact = np.unique(triangles, return_inverse=True)
    compact = compact.reshape(-1, 3)
    links = coo_matrix(
        (np.ones(2 * len(triangles)), (compact[:, (0, 1)].ravel(), compact[:, (1, 2)].ravel())), (len(used), len(used))
    )
    _, part = connected_components(links, directed=False)
    group: I64 = part[compact[:, 0]].astype(np.int64)
    lone = np.bincount(group)[group] == 1
    return np.where(lone, -1 - owner, group)


def _unit(vectors: NDArray[Any]) -> F64:
    """Return vectors (..., 3) at length one; those of no length stay zero."""
    length = np.sqrt(np.einsum("...k,...k->...", vectors, vectors))[..., None]
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 1e-12)


def face_normals(vertices: ArrayLike, faces: ArrayLike) -> F64:
    """Return unit normals (F,3) by the winding; zero for triangles without area."""
    corner = np.asarray(vertices, np.float64)[np.asarray(faces)]
    return _unit(np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]))


def _corner_pairs(ids: I64) -> tuple[I64, I64]:
    """Return all ordered pairs of corners that share an id, as two arrays of corner numbers."""
    flat = ids.ravel()
    order = np.argsort(flat, kind="stable")
    counts = np.bincount(flat)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    partners = counts[flat[order]]
    first = np.repeat(order, partners)
    within = np.arange(len(first)) - np.repeat(np.cumsum(partners) - partners, partners)
    second = order[np.repeat(starts[flat[order]], partners) + within]
    return first, second


def corner_normals(vertices: ArrayLike, faces: ArrayLike, groups: ArrayLike, crease_deg: float = CREASE_DEG) -> F64:
    """Return a unit normal for each corner of each triangle, (F,3,3).

    It is the mean of the normals of all triangles of the same group (`groups` (F,)) that meet there at less than
    `crease_deg` to this one, weighted by their angles: round surfaces become smooth, edges of boxes stay sharp.
    """
    points, triangles = np.asarray(vertices, np.float64), np.asarray(faces, np.int64)
    flat = face_normals(points, triangles)
    corner = points[triangles]
    edges = corner[:, (1, 2, 0)] - corner
    sides = [_unit(edges[:, k]) for k in range(3)]
    angles = np.stack([np.arccos(np.clip(-(sides[k] * sides[k - 1]).sum(1), -1, 1)) for k in range(3)], axis=1)
    first, second = _corner_pairs(_weld(points, triangles, np.asarray(groups, np.int64)))
    alike = np.einsum("ij,ij->i", flat[first // 3], flat[second // 3]) > np.cos(np.radians(crease_deg))
    first, second = first[alike], second[alike]
    weighted = flat[second // 3] * angles.ravel()[second, None]
    total = np.stack([np.bincount(first, weighted[:, k], angles.size) for k in range(3)], axis=1)
    smooth = _unit(total.reshape(-1, 3, 3))
    smooth = np.where((smooth == 0).all(axis=2, keepdims=True), flat[:, None], smooth)
    return _continued(smooth, flat)


def _continued(smooth: F64, flat: F64) -> F64:
    """Repair corners at the border of a round surface, where no neighbour turns the normal from the triangle's own.

    The surface is taken to bend on as it does on the triangle's other side: the normals there are mirrored.
    """
    bent = np.einsum("fck,fk->fc", smooth, flat) < 1 - 1e-6
    beyond = _unit((smooth * bent[..., None]).sum(axis=1))
    mirrored = 2 * np.einsum("fk,fk->f", beyond, flat)[:, None] * flat - beyond
    at_border = ~bent & bent.any(axis=1, keepdims=True)
    return np.where(at_border[..., None], mirrored[:, None], smooth)


def principal_curvatures(vertices: ArrayLike, faces: ArrayLike, normals: F64) -> F64:
    """Return the principal curvatures (F,2) of each triangle in 1/m, the larger first.

    Positive is convex as the winding sees it: a ball of radius r has (1/r, 1/r), a cylinder (1/r, 0), a plane (0, 0).
    The second fundamental form is fitted to how the corner normals (F,3,3) change along the edges (Rusinkiewicz,
    Estimating curvatures and their derivatives on triangle meshes, 2004, section 3).
    """
    corner = np.asarray(vertices, np.float64)[np.asarray(faces)]
    edges = corner[:, (2, 0, 1)] - corner[:, (1, 2, 0)]
    turns = normals[:, (2, 0, 1)] - normals[:, (1, 2, 0)]
    u = _unit(edges[:, 0])
    v = np.cross(_unit(np.cross(edges[:, 0], edges[:, 1])), u)
    eu, ev = np.einsum("fek,fk->fe", edges, u), np.einsum("fek,fk->fe", edges, v)
    du, dv = np.einsum("fek,fk->fe", turns, u), np.einsum("fek,fk->fe", turns, v)
    # Least squares of [eu ev 0; 0 eu ev] (a, b, c) = (du, dv) over three edges: normal equations, 3 x 3 per triangle.
    uu, uv, vv = (eu * eu).sum(1), (eu * ev).sum(1), (ev * ev).sum(1)
    zero = np.zeros_like(uu)
    matrix = np.stack([uu, uv, zero, uv, uu + vv, uv, zero, uv, vv], axis=1).reshape(-1, 3, 3)
    right = np.stack([(eu * du).sum(1), (ev * du + eu * dv).sum(1), (ev * dv).sum(1)], axis=1)
    solid = np.linalg.det(matrix) > 1e-9 * np.maximum(uu + vv, 1e-12) ** 3  # not for slivers
    form = np.zeros_like(right)
    form[solid] = np.linalg.solve(matrix[solid], right[solid][..., None])[..., 0]
    a, b, c = form.T
    middle, spread = (a + c) / 2, np.sqrt(((a - c) / 2) ** 2 + b * b)
    return np.stack([middle + spread, middle - spread], axis=1)
