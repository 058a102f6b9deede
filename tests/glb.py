"""Writes small binary glTF files for tests, from scratch, so that the loader is not tested by its own inverse."""

from __future__ import annotations

import io
import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

_COMPONENT = {"int8": 5120, "uint8": 5121, "int16": 5122, "uint16": 5123, "uint32": 5125, "float32": 5126}
_TYPE = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4"}


@dataclass
class Part:
    """A node with a mesh of one primitive: (V, 3) vertices, (F, 3) faces, optional appearance, transform, children."""

    vertices: Any
    faces: Any
    name: str = "part"
    extras: dict[str, Any] | None = None
    color: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    uv: Any = None
    texture: Any = None
    vertex_colors: Any = None
    unlit: bool = False
    transform: dict[str, Any] = field(default_factory=dict)
    children: list[Part] = field(default_factory=list)
    texture_info: dict[str, Any] = field(default_factory=dict)
    mode: int = 4


def quad(a: Any, b: Any, c: Any, d: Any, **options: Any) -> Part:
    """Make a quadrilateral of two triangles; texture corners (0, 1), (1, 1), (1, 0), (0, 0): a is the bottom left."""
    options.setdefault("uv", [(0, 1), (1, 1), (1, 0), (0, 0)])
    return Part([a, b, c, d], [(0, 1, 2), (0, 2, 3)], **options)


def box(low: Any, high: Any, **options: Any) -> Part:
    """Make a closed axis-aligned box of twelve triangles that face outwards."""
    corners = [[(low, high)[(i >> axis) & 1][axis] for axis in range(3)] for i in range(8)]
    sides = [(0, 4, 6, 2), (1, 3, 7, 5), (0, 1, 5, 4), (2, 6, 7, 3), (0, 2, 3, 1), (4, 5, 7, 6)]
    return Part(corners, [face for a, b, c, d in sides for face in ((a, b, c), (a, c, d))], **options)


class Builder:
    """Collects the binary chunk and the JSON tree of one file."""

    def __init__(self) -> None:
        self.binary = bytearray()
        self.tree: dict[str, Any] = {
            "asset": {"version": "2.0"},
            "scene": 0,
            "scenes": [{"nodes": []}],
            **{key: [] for key in ("nodes", "meshes", "accessors", "bufferViews", "materials", "textures", "images")},
        }

    def append(self, kind: str, entry: dict[str, Any]) -> int:
        self.tree[kind].append(entry)
        return len(self.tree[kind]) - 1

    def view(self, data: bytes) -> int:
        self.binary += b"\0" * (-len(self.binary) % 4)
        index = self.append("bufferViews", {"buffer": 0, "byteOffset": len(self.binary), "byteLength": len(data)})
        self.binary += data
        return index

    def accessor(self, values: Any, **options: Any) -> int:
        array = np.ascontiguousarray(values)
        array = array.reshape(len(array), -1)
        entry = {"componentType": _COMPONENT[array.dtype.name], "type": _TYPE[array.shape[1]], "count": len(array)}
        return self.append("accessors", {"bufferView": self.view(array.tobytes()), **entry, **options})

    def material(self, part: Part) -> int:
        pbr: dict[str, Any] = {"baseColorFactor": list(part.color)}
        if part.texture is not None:
            file = io.BytesIO()
            Image.fromarray(np.asarray(part.texture, np.uint8)).save(file, "PNG")
            image = self.append("images", {"bufferView": self.view(file.getvalue()), "mimeType": "image/png"})
            pbr["baseColorTexture"] = {"index": self.append("textures", {"source": image}), **part.texture_info}
        extensions = {"extensions": {"KHR_materials_unlit": {}}} if part.unlit else {}
        return self.append("materials", {"pbrMetallicRoughness": pbr, **extensions})

    def node(self, part: Part) -> int:
        attributes = {"POSITION": self.accessor(np.asarray(part.vertices, np.float32))}
        if part.uv is not None:
            attributes["TEXCOORD_0"] = self.accessor(np.asarray(part.uv, np.float32))
        if part.vertex_colors is not None:
            colors = np.asarray(part.vertex_colors)
            attributes["COLOR_0"] = self.accessor(colors, normalized=colors.dtype.kind == "u")
        primitive = {"attributes": attributes, "material": self.material(part), "mode": part.mode}
        if part.faces is not None:
            primitive["indices"] = self.accessor(np.asarray(part.faces, np.uint32).reshape(-1))
        mesh = self.append("meshes", {"name": part.name, "primitives": [primitive]})
        node: dict[str, Any] = {"name": part.name, "mesh": mesh, **part.transform}
        if part.extras is not None:
            node["extras"] = part.extras
        if part.children:
            node["children"] = [self.node(child) for child in part.children]
        return self.append("nodes", node)

    def data(self) -> bytes:
        self.tree["buffers"] = [{"byteLength": len(self.binary)}]
        text = json.dumps({key: value for key, value in self.tree.items() if value != []}).encode()
        text += b" " * (-len(text) % 4)
        binary = bytes(self.binary) + b"\0" * (-len(self.binary) % 4)
        chunks = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(binary), 0x004E4942) + binary
        return b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks


def write_glb(path: Path, parts: list[Part]) -> Path:
    """Write the parts as root nodes of one file and return its path."""
    builder = Builder()
    builder.tree["scenes"][0]["nodes"] = [builder.node(part) for part in parts]
    path.write_bytes(builder.data())
    return path
