"""Buildings: any binary glTF file as flat triangle arrays with colours, textures and object labels."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sideagents_envs.errors import SceneError
from sideagents_envs.scenes.gltf import Gltf, read_glb
from sideagents_envs.scenes.stage import find_stage

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
UInt8 = npt.NDArray[np.uint8]

# What one building may unfold to: a few bytes can name one mesh, or one texture, over and over.
MOST_TRIANGLES = 10_000_000
_MOST_VERTICES = 30_000_000
_MOST_PARTS = 200_000  # nodes, and meshes' primitives as often as nodes show them
_FURTHEST_M = 1e5  # from the origin: beyond it single precision holds no centimetre
_MOST_REPEATS = 1e6  # of a texture, likewise


@dataclass(frozen=True)
class SceneObject:
    """One labelled thing: node name, class, instance number within the building, type of the room it stands in."""

    name: str
    category: str
    instance: int
    room: str


@dataclass(frozen=True, eq=False)
class SceneMesh:
    """A building in metres, Y up, world transforms applied.

    vertices (V, 3) float32; faces (F, 3) int32; uv (F, 3, 2) float32 per corner, origin at the image's top left;
    colors (F, 3, 3) uint8 per corner = base colour factor x vertex colour; texture_id (F,) int32 into `textures`, -1
    for none; textures uint8 (h, w, 3); unlit (F,) bool: the colour is shown as it is (unlit material, texture or
    vertex colours), else a head light shows the shape; semantic_id (F,) int32 into `objects`.
    """

    name: str
    path: Path
    vertices: Float32
    faces: Int32
    uv: Float32
    colors: UInt8
    texture_id: Int32
    textures: tuple[UInt8, ...]
    unlit: npt.NDArray[np.bool_]
    semantic_id: Int32
    objects: tuple[SceneObject, ...]

    @property
    def bounds(self) -> Float32:
        """Lowest and highest corner, (2, 3) metres."""
        used = self.vertices[self.faces.reshape(-1)]
        return np.stack([used.min(axis=0), used.max(axis=0)])

    @property
    def n_triangles(self) -> int:
        """Number of triangles."""
        return len(self.faces)


def scene_digest(path: str | Path) -> str:
    """Return the SHA-256 of a building's file, and of how it is turned, in hex; SceneError when it cannot be read."""
    stage = find_stage(path)
    turned = b"" if stage.rotation is None else stage.rotation.tobytes()
    return hashlib.sha256(read_glb(stage.asset) + turned).hexdigest()


def load_scene(path: str | Path) -> SceneMesh:
    """Read a binary glTF building (.glb), or the one that a Habitat stage configuration names and turns.

    Understands nested node transforms, several meshes and primitives (triangles, strips, fans), base colour textures
    (repeating) and factors, vertex colours, KHR_materials_unlit, KHR_texture_transform, and object labels in node
    `extras` (`category`, `instance`, `room`, inherited by child nodes; without them a node is an object of its own,
    its class read from its name). Every surface is seen from both sides; alpha, skins and morph targets are ignored.
    Raises SceneError, one line with the file's name, for files that are missing, damaged, without triangles, or larger
    than a building can be.
    """
    stage = find_stage(path)
    path = stage.asset
    try:
        # whatever overflows is found where the arrays are checked
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            gltf = Gltf(path)
            parts = _Parts(gltf)
            nodes = list(_mesh_nodes(gltf))
            _check_size(gltf, [node["mesh"] for node, _, _ in nodes])
            for node, label, matrix in nodes:
                mesh = gltf.entry("meshes", node["mesh"])
                semantic_id = parts.object_id(node, mesh, label)
                for primitive in mesh.get("primitives", []):
                    parts.add(primitive, matrix, semantic_id)
            return parts.mesh(path, stage.rotation)
    except SceneError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        reason = f"missing {error}" if isinstance(error, KeyError) else str(error)
        raise SceneError(f"{path}: malformed glTF ({reason})") from None
    except MemoryError:
        raise SceneError(f"{path}: asks for more memory than there is; the file is damaged or too large") from None


def _check_size(gltf: Gltf, meshes: list[Any]) -> None:
    """Raise SceneError when the meshes, shown as often as `meshes` names them, are more than a building can be.

    Told from what the file declares, before anything is made of it.
    """
    declared: dict[int, tuple[int, int, int]] = {}
    totals = np.zeros(3, np.float64)
    for index in meshes:
        mesh = gltf.entry("meshes", index)
        if index not in declared:
            parts = [_declared(gltf, primitive) for primitive in mesh.get("primitives", [])]
            declared[index] = (len(parts), sum(part[0] for part in parts), sum(part[1] for part in parts))
        totals += declared[index]
    limits = {"parts": _MOST_PARTS, "triangles": MOST_TRIANGLES, "vertices": _MOST_VERTICES}
    for (name, most), total in zip(limits.items(), totals, strict=True):
        if total > most:
            raise SceneError(
                f"{gltf.path}: shows {total:,.0f} {name} in all, at most {most:,} are supported; simplify or cut it"
            )


def _declared(gltf: Gltf, primitive: dict[str, Any]) -> tuple[int, int]:
    """Numbers of triangles and vertices of a primitive, as its accessors have them."""
    vertices = int(gltf.entry("accessors", primitive["attributes"]["POSITION"])["count"])
    corners = int(gltf.entry("accessors", primitive["indices"])["count"]) if "indices" in primitive else vertices
    return (corners // 3 if primitive.get("mode", 4) == 4 else corners), vertices


def _mesh_nodes(gltf: Gltf) -> Iterator[tuple[dict[str, Any], _Label, Float64]]:
    """Walk the file's scene; yield each node that has a mesh, its label, and its (4, 4) world matrix."""
    if gltf.tree.get("scenes"):
        roots = gltf.entry("scenes", gltf.tree.get("scene", 0)).get("nodes", [])
    else:
        children = {c for n in gltf.tree.get("nodes", []) for c in n.get("children", [])}
        roots = [i for i in range(len(gltf.tree.get("nodes", []))) if i not in children]
    if len(gltf.tree.get("nodes", [])) > _MOST_PARTS:
        raise SceneError(f"{gltf.path}: has more than {_MOST_PARTS:,} nodes; join them when exporting")
    stack: list[tuple[Any, _Label, Float64]] = [(i, _Label(), np.eye(4)) for i in reversed(roots)]
    visited: set[int] = set()
    while stack:
        index, label, parent = stack.pop()
        node = gltf.entry("nodes", index)
        if index in visited:
            raise SceneError(f"{gltf.path}: nodes[{index}] has two parents or is its own ancestor")
        visited.add(index)
        matrix = parent @ _local_matrix(node)
        label = label.of_node(index, node)
        if "mesh" in node:
            yield node, label, matrix
        stack.extend((child, label, matrix) for child in reversed(node.get("children", [])))


def _local_matrix(node: dict[str, Any]) -> Float64:
    """Node transform (4, 4): its column-major matrix, or translation x rotation (x, y, z, w) x scale."""
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    x, y, z, w = np.array(node.get("rotation", (0, 0, 0, 1)), np.float64).reshape(4)
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * np.array(node.get("scale", (1, 1, 1)), np.float64).reshape(3)
    matrix[:3, 3] = np.array(node.get("translation", (0, 0, 0)), np.float64).reshape(3)
    return matrix


@dataclass(frozen=True)
class _Label:
    """Labels in force at a node: its own `extras`, else those of the nearest ancestor that has any."""

    owner: int = -1
    name: str = ""
    extras: dict[str, Any] = field(default_factory=dict)

    def of_node(self, index: int, node: dict[str, Any]) -> _Label:
        extras = node.get("extras")
        if isinstance(extras, dict) and "category" in extras:
            return _Label(index, str(node.get("name", "")), extras)
        return self


def _category_of(name: str) -> str:
    """Class from a node's name: `DiningChair_01_003.2` -> `diningchair`."""
    stem = re.split(r"[.:|]", name)[0]
    return re.sub(r"([_\- ]*\d+)+$", "", stem).strip("_- ").lower() or name.lower()


class _Primitive(NamedTuple):
    """A decoded primitive before its transform: positions (V, 3), faces (F, 3), appearance as in `SceneMesh`."""

    positions: Float64
    faces: npt.NDArray[np.int64]
    colors: UInt8
    uv: Float32
    texture_id: int
    unlit: bool


class _Parts:
    """Collects the primitives of a file into one set of arrays."""

    def __init__(self, gltf: Gltf) -> None:
        self._gltf = gltf
        self._n_vertices = 0
        self._arrays: dict[str, list[npt.NDArray[Any]]] = {
            key: [] for key in ("vertices", "faces", "uv", "colors", "texture_id", "unlit", "semantic_id")
        }
        self._textures: dict[int, int] = {}  # image index -> index into textures
        self._pixels: list[UInt8] = []
        self._objects: dict[tuple[Any, ...], int] = {}
        self._described: list[SceneObject] = []
        self._read: dict[int, _Primitive | None] = {}  # by the identity of the primitive: nodes may share a mesh

    def object_id(self, node: dict[str, Any], mesh: dict[str, Any], label: _Label) -> int:
        """Index of the object that a node's mesh belongs to."""
        number = len(self._described)
        name = str(node.get("name") or mesh.get("name") or f"object_{number}")
        if label.owner < 0:
            self._described.append(SceneObject(name, _category_of(name), number, ""))
            return number
        category, room = str(label.extras["category"]), str(label.extras.get("room", ""))
        instance = label.extras.get("instance")
        has_instance = isinstance(instance, int) and not isinstance(instance, bool)
        key = (category, instance, room) if has_instance else (label.owner,)
        if key not in self._objects:
            self._objects[key] = number
            self._described.append(
                SceneObject(label.name or name, category, int(instance) if has_instance else number, room)  # type: ignore[arg-type]
            )
        return self._objects[key]

    def add(self, primitive: dict[str, Any], matrix: Float64, semantic_id: int) -> None:
        """Append one primitive, transformed; points and lines are passed over."""
        if id(primitive) not in self._read:
            self._read[id(primitive)] = self._primitive(primitive)
        part = self._read[id(primitive)]
        if part is None:
            return
        # a mirroring transform turns triangles inside out
        order = slice(None, None, -1 if np.cross(matrix[:3, 0], matrix[:3, 1]) @ matrix[:3, 2] < 0 else 1)
        count = len(part.faces)
        arrays = self._arrays
        arrays["vertices"].append((part.positions @ matrix[:3, :3].T + matrix[:3, 3]).astype(np.float32))
        arrays["faces"].append((part.faces[:, order] + self._n_vertices).astype(np.int32))
        arrays["uv"].append(part.uv[:, order])
        arrays["colors"].append(part.colors[:, order])
        arrays["texture_id"].append(np.full(count, part.texture_id, np.int32))
        arrays["unlit"].append(np.full(count, part.unlit, np.bool_))
        arrays["semantic_id"].append(np.full(count, semantic_id, np.int32))
        self._n_vertices += len(part.positions)

    def _primitive(self, primitive: dict[str, Any]) -> _Primitive | None:
        """Decode a primitive; None for one without triangles."""
        mode = primitive.get("mode", 4)
        if mode not in (4, 5, 6):
            return None
        attributes = primitive["attributes"]
        positions = self._gltf.accessor(attributes["POSITION"], 3, scaled=True).astype(np.float64)
        faces = self._faces(primitive, mode, len(positions))
        if not len(faces):
            return None
        return _Primitive(positions, faces, *self._appearance(primitive, attributes, faces, len(positions)))

    def _faces(self, primitive: dict[str, Any], mode: int, n_vertices: int) -> npt.NDArray[np.int64]:
        if "indices" in primitive:
            flat = self._gltf.accessor(primitive["indices"], 1)[:, 0].astype(np.int64)
        else:
            flat = np.arange(n_vertices)
        if mode == 4:
            faces = flat[: len(flat) // 3 * 3].reshape(-1, 3)
        elif len(flat) < 3:
            faces = flat[:0].reshape(0, 3)
        elif mode == 5:
            faces = np.stack([flat[:-2], flat[1:-1], flat[2:]], axis=1)
            faces[1::2] = faces[1::2, ::-1]
        else:
            faces = np.stack([np.broadcast_to(flat[0], len(flat) - 2), flat[1:-1], flat[2:]], axis=1)
        if len(faces) and not 0 <= faces.min() <= faces.max() < n_vertices:
            raise SceneError(f"{self._gltf.path}: a triangle refers to vertex {faces.max()} of {n_vertices}")
        return faces

    def _appearance(
        self, primitive: dict[str, Any], attributes: dict[str, Any], faces: npt.NDArray[np.int64], n_vertices: int
    ) -> tuple[UInt8, Float32, int, bool]:
        """Corner colours (F, 3, 3), corner texture coordinates (F, 3, 2), texture id, shown without light."""
        gltf = self._gltf
        material = gltf.entry("materials", primitive["material"]) if "material" in primitive else {}
        pbr = material.get("pbrMetallicRoughness", {})
        factor = np.array(pbr.get("baseColorFactor", (1, 1, 1, 1)), np.float64)
        if not np.isfinite(factor).all():
            raise SceneError(f"{gltf.path}: a material's baseColorFactor {factor.tolist()} is not finite")
        color = np.broadcast_to(factor[:3], (n_vertices, 3))
        if "COLOR_0" in attributes:
            color = color * self._per_vertex(attributes["COLOR_0"], 3, n_vertices)
        # colours are multiplied as stored, as Habitat's flat shading does
        corners = np.clip(np.rint(color * 255), 0, 255).astype(np.uint8)[faces]
        uv = np.zeros((len(faces), 3, 2), np.float32)
        texture_id = -1
        texture = pbr.get("baseColorTexture")
        if texture is not None:
            transform = texture.get("extensions", {}).get("KHR_texture_transform", {})
            coordinates = f"TEXCOORD_{transform.get('texCoord', texture.get('texCoord', 0))}"
            texture_id = self._texture(texture["index"])
            if coordinates in attributes:
                uv = _transformed(self._per_vertex(attributes[coordinates], 2, n_vertices), transform)[faces]
                largest = float(np.abs(uv).max())
                if not largest <= _MOST_REPEATS:
                    raise SceneError(
                        f"{gltf.path}: accessors[{attributes[coordinates]}] holds texture coordinates up to "
                        f"{largest:.3g}; a texture is repeated at most {_MOST_REPEATS:,.0f} times"
                    )
        unlit = "KHR_materials_unlit" in material.get("extensions", {})
        return corners, uv, texture_id, unlit or texture_id >= 0 or "COLOR_0" in attributes

    def _per_vertex(self, index: Any, width: int, n_vertices: int) -> Float32:
        values = self._gltf.accessor(index, width, scaled=True).astype(np.float32)
        if len(values) != n_vertices:
            raise SceneError(f"{self._gltf.path}: accessors[{index}] has {len(values)} rows for {n_vertices} vertices")
        if not np.isfinite(values).all():
            raise SceneError(f"{self._gltf.path}: accessors[{index}] holds nan or infinite values")
        return values

    def _texture(self, index: Any) -> int:
        image, pixels = self._gltf.image(index)
        if image not in self._textures:
            self._textures[image] = len(self._pixels)
            self._pixels.append(pixels)
        return self._textures[image]

    def mesh(self, path: Path, rotation: Float64 | None = None) -> SceneMesh:
        """Join what was collected, turned by `rotation` (3, 3).

        Raises SceneError when there is nothing, or a vertex that is not finite.
        """
        if not self._arrays["faces"]:
            raise SceneError(f"{path}: has no triangles; a building needs at least one mesh in its scene")
        joined = {key: np.concatenate(parts) for key, parts in self._arrays.items()}
        bad = int((~np.isfinite(joined["vertices"]).all(axis=1)).sum())
        if bad:
            raise SceneError(f"{path}: {bad} of {self._n_vertices} vertices are nan or infinite")
        furthest = float(np.abs(joined["vertices"]).max())
        if furthest > _FURTHEST_M:
            raise SceneError(
                f"{path}: reaches {furthest:.3g} m from the origin, at most {_FURTHEST_M:,.0f} m are supported; "
                "the unit must be the metre"
            )
        if rotation is not None:
            joined["vertices"] = (joined["vertices"].astype(np.float64) @ rotation.T).astype(np.float32)
        return SceneMesh(
            name=path.stem, path=path, textures=tuple(self._pixels), objects=tuple(self._described), **joined
        )


def _transformed(uv: Float32, transform: dict[str, Any]) -> Float32:
    """Apply KHR_texture_transform: offset + rotation x scale."""
    if not transform:
        return uv
    angle = float(transform.get("rotation", 0.0))
    c, s = math.cos(angle), math.sin(angle)
    scaled = uv * np.array(transform.get("scale", (1, 1)), np.float32)
    turned = scaled @ np.array([[c, s], [-s, c]], np.float32).T
    return (turned + np.array(transform.get("offset", (0, 0)), np.float32)).astype(np.float32)
