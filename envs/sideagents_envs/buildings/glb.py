"""A small glTF binary writer: meshes with texture, vertex colours, unlit materials and node extras in one file.

Normals are left out: unlit surfaces need none, and a viewer that wants them computes them (glTF 2.0, 3.7.2.1).
Every byte is fixed by the input: images are palette PNGs in stored (uncompressed) blocks, because compressed bytes
differ between zlib builds.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sideagents_envs.buildings.textures import Texture
from sideagents_envs.cache import atomic_path

_ARRAY_BUFFER, _ELEMENT_BUFFER = 34962, 34963
_FLOAT, _U8, _U16 = 5126, 5121, 5123


@dataclass(frozen=True)
class Node:
    """One object of the scene: name, `extras`, and one set of vertices for all its faces.

    `points` f32 (V,3), `uv` f32 (V,2), `colors` u8 (V,3); `faces` maps a texture's name to (F,3) indices.
    """

    name: str
    extras: dict[str, Any]
    points: NDArray[np.float32]
    uv: NDArray[np.float32]
    colors: NDArray[np.uint8]
    faces: dict[str, NDArray[np.int64]]


def png_bytes(texture: Texture) -> bytes:
    """Return the texture as an 8-bit palette PNG."""
    height, width = texture.index.shape
    raw = np.concatenate([np.zeros((height, 1), np.uint8), texture.index], axis=1).tobytes()
    blocks = [raw[i : i + 65535] for i in range(0, len(raw), 65535)]
    stored = b"".join(
        struct.pack("<BHH", int(i == len(blocks) - 1), len(b), len(b) ^ 0xFFFF) + b for i, b in enumerate(blocks)
    )
    data = b"\x78\x01" + stored + struct.pack(">I", zlib.adler32(raw))

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"PLTE", texture.palette.tobytes())
        + chunk(b"IDAT", data)
        + chunk(b"IEND", b"")
    )


class _Buffer:
    """The binary chunk while it grows, with its views and accessors."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def view(self, body: bytes, target: int | None = None) -> int:
        """Append bytes, padded to four, and return the view's number."""
        entry = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(body)}
        if target is not None:
            entry["target"] = target
        self.data += body + b"\0" * (-len(body) % 4)
        self.views.append(entry)
        return len(self.views) - 1

    def arrays(
        self, arrays: list[NDArray[Any]], component: int, kind: str, target: int, bounds: bool = False
    ) -> list[int]:
        """Put arrays of one type into one view and return an accessor number for each, with `bounds` if asked for."""
        view, offset, numbers = self.view(b"".join(a.tobytes() for a in arrays), target), 0, []
        for array in arrays:
            entry: dict[str, Any] = {
                "bufferView": view,
                "byteOffset": offset,
                "componentType": component,
                "count": len(array),
                "type": kind,
            }
            if component == _U8:
                entry["normalized"] = True
            if bounds:
                entry["min"], entry["max"] = array.min(axis=0).tolist(), array.max(axis=0).tolist()
            offset += array.nbytes
            self.accessors.append(entry)
            numbers.append(len(self.accessors) - 1)
        return numbers


def write_glb(path: Path, nodes: list[Node], textures: dict[str, Texture]) -> None:
    """Write a scene; only textures that a primitive uses go in, in the order of `textures`."""
    used = {texture for node in nodes for texture in node.faces}
    names = [name for name in textures if name in used]
    buffer = _Buffer()
    points = buffer.arrays([n.points for n in nodes], _FLOAT, "VEC3", _ARRAY_BUFFER, bounds=True)
    uvs = buffer.arrays([n.uv for n in nodes], _FLOAT, "VEC2", _ARRAY_BUFFER)
    rgba = [np.concatenate([n.colors, np.full((len(n.colors), 1), 255, np.uint8)], axis=1) for n in nodes]
    colors = buffer.arrays(rgba, _U8, "VEC4", _ARRAY_BUFFER)
    indices = [faces.astype("<u2").ravel() for n in nodes for faces in n.faces.values()]
    faces = iter(buffer.arrays(indices, _U16, "SCALAR", _ELEMENT_BUFFER))
    images = [{"bufferView": buffer.view(png_bytes(textures[n])), "mimeType": "image/png", "name": n} for n in names]
    meshes = []
    for i, node in enumerate(nodes):
        attributes = {"POSITION": points[i], "TEXCOORD_0": uvs[i], "COLOR_0": colors[i]}
        entries = [
            {"attributes": attributes, "indices": next(faces), "material": names.index(texture)}
            for texture in node.faces
        ]
        meshes.append({"primitives": entries})
    materials = [
        {
            "name": name,
            "pbrMetallicRoughness": {"baseColorTexture": {"index": i}, "metallicFactor": 0.0, "roughnessFactor": 1.0},
            "extensions": {"KHR_materials_unlit": {}},
            "doubleSided": True,
        }
        for i, name in enumerate(names)
    ]
    document = {
        "asset": {"version": "2.0", "generator": "sideagents"},
        "extensionsUsed": ["KHR_materials_unlit"],
        "scene": 0,
        "scenes": [{"nodes": list(range(len(nodes)))}],
        "nodes": [{"name": n.name, "mesh": i, "extras": n.extras} for i, n in enumerate(nodes)],
        "meshes": meshes,
        "materials": materials,
        "textures": [{"sampler": 0, "source": i} for i in range(len(names))],
        "samplers": [{"magFilter": 9729, "minFilter": 9987, "wrapS": 10497, "wrapT": 10497}],
        "images": images,
        "accessors": buffer.accessors,
        "bufferViews": buffer.views,
        "buffers": [{"byteLength": len(buffer.data)}],
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + len(buffer.data)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(struct.pack("<4sII", b"glTF", 2, total))
        file.write(struct.pack("<I4s", len(text), b"JSON") + text)
        file.write(struct.pack("<I4s", len(buffer.data), b"BIN\0") + bytes(buffer.data))
