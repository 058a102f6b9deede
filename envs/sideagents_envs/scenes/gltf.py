"""Reads the parts of binary glTF 2.0 that a building needs: JSON tree, accessors, base colour images.

trimesh reads geometry well, but leaves out what the renderer must know (KHR_materials_unlit, second texture coordinate
set, KHR_texture_transform, normalised integer coordinates) and passes over broken images in silence; the tests compare
positions with trimesh's.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
import urllib.parse
from pathlib import Path
from typing import Any

import numpy as np

from sideagents_envs.errors import SceneError
from sideagents_envs.reading import MEGABYTE, decoded, read_regular, shortened

_DTYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_JSON_CHUNK, _BIN_CHUNK = 0x4E4F534A, 0x004E4942
# Of one file. Real scans stay far below them; what is above could fill the memory from a few bytes.
_MOST_BYTES, _MOST_JSON = 2048 * MEGABYTE, 64 * MEGABYTE
_MOST_TEXELS = 400_000_000
_MOST_NUMBERS = 200_000_000  # in an accessor that has no data, which stands for noughts
_UNDERSTOOD = {
    "EXT_texture_webp",
    "KHR_lights_punctual",
    "KHR_materials_clearcoat",
    "KHR_materials_emissive_strength",
    "KHR_materials_ior",
    "KHR_materials_specular",
    "KHR_materials_unlit",
    "KHR_mesh_quantization",
    "KHR_texture_transform",
}


class Gltf:
    """One parsed file: `tree` is the JSON, `accessor` and `image` decode what it points to.

    Raises SceneError (one line with the file's name) for whatever is missing, cut off or malformed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tree, self._bin = _split(path, read_glb(path))
        unknown = sorted(set(self.tree.get("extensionsRequired", [])) - _UNDERSTOOD)
        if unknown:
            raise SceneError(
                f"{path}: needs the glTF extension {', '.join(unknown)}, which is not supported; "
                "export the file again without mesh or texture compression"
            )
        self._buffers: dict[int, bytes] = {}
        self._accessors: dict[int, np.ndarray[Any, np.dtype[Any]]] = {}
        self._images: dict[int, np.ndarray[Any, np.dtype[np.uint8]]] = {}
        self._texels = 0

    def entry(self, kind: str, index: Any) -> dict[str, Any]:
        """Return entry `index` of the top-level list `kind` ("meshes", "nodes", ...)."""
        entries = self.tree.get(kind, [])
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(entries):
            raise SceneError(
                f"{self.path}: refers to {kind}[{shortened(index)}], but the file has {len(entries)} {kind}"
            )
        entry = entries[index]
        if not isinstance(entry, dict):
            raise SceneError(f"{self.path}: {kind}[{index}] is not a JSON object")
        return entry

    def accessor(self, index: Any, width: int, *, scaled: bool = False) -> np.ndarray[Any, np.dtype[Any]]:
        """Return accessor `index` as (count, width); `scaled` maps normalised integers to [0, 1] floats.

        Sparse accessors, interleaved buffer views and accessors without a view (zeros) are resolved.
        """
        if index in self._accessors:
            array = self._accessors[index]
        else:
            array = self._accessors[index] = self._read_accessor(index)
        if array.shape[1] != width and not (width == 3 and array.shape[1] == 4):
            raise SceneError(f"{self.path}: accessors[{index}] has {array.shape[1]} columns, expected {width}")
        array = array[:, :width]
        if scaled and self.entry("accessors", index).get("normalized") and array.dtype.kind in "iu":
            return np.maximum(array.astype(np.float32) / np.float32(np.iinfo(array.dtype).max), -1.0)
        return array

    def _read_accessor(self, index: Any) -> np.ndarray[Any, np.dtype[Any]]:
        accessor = self.entry("accessors", index)
        where = f"{self.path}: accessors[{index}]"
        try:
            dtype, width = np.dtype(_DTYPES[accessor["componentType"]]), _WIDTHS[accessor["type"]]
            count = int(accessor["count"])
        except (KeyError, TypeError, ValueError):
            raise SceneError(f"{where} has no valid componentType, type and count") from None
        if "bufferView" in accessor:
            offset = int(accessor.get("byteOffset", 0))
            array = self._strided(where, accessor["bufferView"], offset, dtype, count, width)
        elif count * width > _MOST_NUMBERS:
            raise SceneError(
                f"{where} declares {count:,} rows that have no data; at most {_MOST_NUMBERS // width:,} do"
            )
        else:
            array = np.zeros((count, width), dtype)
        sparse = accessor.get("sparse")
        if sparse:
            array = array.copy()
            rows, values = sparse["indices"], sparse["values"]
            n = int(sparse["count"])
            row_type = np.dtype(_DTYPES[rows["componentType"]])
            at = self._strided(where, rows["bufferView"], int(rows.get("byteOffset", 0)), row_type, n, 1)[:, 0]
            if n and at.max() >= count:
                raise SceneError(f"{where} has a sparse index {at.max()} beyond its {count} rows")
            array[at] = self._strided(where, values["bufferView"], int(values.get("byteOffset", 0)), dtype, n, width)
        return array

    def _strided(
        self, where: str, view_index: Any, offset: int, dtype: np.dtype[Any], count: int, width: int
    ) -> np.ndarray[Any, np.dtype[Any]]:
        view = self.entry("bufferViews", view_index)
        data = self._view(view_index)
        stride = int(view.get("byteStride", 0)) or dtype.itemsize * width
        needed = offset + stride * (count - 1) + dtype.itemsize * width if count else 0
        if count < 0 or offset < 0 or needed > len(data):
            raise SceneError(f"{where} needs {needed} bytes of bufferViews[{view_index}], which has {len(data)}")
        strides = (stride, dtype.itemsize)
        return np.ndarray((count, width), dtype, buffer=data, offset=offset if count else 0, strides=strides)

    def _view(self, index: Any) -> bytes:
        view = self.entry("bufferViews", index)
        buffer = self._buffer(view.get("buffer"))
        start, length = int(view.get("byteOffset", 0)), int(view.get("byteLength", 0))
        if start < 0 or length < 0 or start + length > len(buffer):
            raise SceneError(
                f"{self.path}: bufferViews[{index}] ends at byte {start + length} of a buffer of {len(buffer)} bytes; "
                "the file is cut off or damaged"
            )
        return buffer[start : start + length]

    def _buffer(self, index: Any) -> bytes:
        if index not in self._buffers:
            entry = self.entry("buffers", index)
            if "uri" in entry:
                self._buffers[index] = self._resource(str(entry["uri"]), f"buffers[{index}]")
            elif index == 0 and self._bin is not None:
                self._buffers[index] = self._bin
            else:
                raise SceneError(f"{self.path}: buffers[{index}] has no data in the file")
        return self._buffers[index]

    def _resource(self, uri: str, what: str) -> bytes:
        if uri.startswith("data:"):
            try:
                return base64.b64decode(uri.split(",", 1)[1], validate=True)
            except (IndexError, binascii.Error):
                raise SceneError(f"{self.path}: {what} has a malformed data URI") from None
        if "://" in uri:
            raise SceneError(f"{self.path}: {what} points to {shortened(uri)}; only files beside the building are read")
        try:
            folder = self.path.parent.resolve()
            file = (folder / urllib.parse.unquote(uri)).resolve()
            # A downloaded building must not make us read a device, a pipe or someone's files.
            if not (file.is_relative_to(folder) and file.is_file()):
                raise FileNotFoundError
        except (OSError, ValueError, RuntimeError):  # also for a zero byte in the name and links in a circle
            raise SceneError(
                f"{self.path}: {what} needs the file {shortened(uri)}, which is not beside the building"
            ) from None
        return read_regular(file, f"the file of {what}", _MOST_BYTES, SceneError)

    def image(self, texture_index: Any) -> tuple[int, np.ndarray[Any, np.dtype[np.uint8]]]:
        """Return (image index, uint8 RGB (h, w, 3)) of texture `texture_index`."""
        texture = self.entry("textures", texture_index)
        source = texture.get("extensions", {}).get("EXT_texture_webp", {}).get("source", texture.get("source"))
        if source in self._images:
            return source, self._images[source]
        entry = self.entry("images", source)
        what = f"images[{source}]"
        data = self._resource(str(entry["uri"]), what) if "uri" in entry else self._view(entry.get("bufferView"))
        try:
            pixels = decoded(data, _MOST_TEXELS - self._texels)
        except ValueError as error:
            raise SceneError(f"{self.path}: {what} cannot be decoded ({error})") from None
        self._texels += pixels.shape[0] * pixels.shape[1]
        self._images[int(source)] = pixels
        return int(source), pixels


def read_glb(path: Path) -> bytes:
    """Return the bytes of a building's file; raises SceneError."""
    return read_regular(path, "a binary glTF file (.glb)", _MOST_BYTES, SceneError)


def _split(path: Path, data: bytes) -> tuple[dict[str, Any], bytes | None]:
    """Cut a GLB container into its JSON tree and its binary chunk."""
    if len(data) < 12 or data[:4] != b"glTF":
        raise SceneError(f"{path}: not a binary glTF file (.glb): it does not start with 'glTF'")
    version, total = struct.unpack_from("<II", data, 4)
    if version != 2:
        raise SceneError(f"{path}: glTF version {version}, only version 2 is supported")
    if total > len(data):
        raise SceneError(f"{path}: cut off: {len(data)} of {total} bytes are there")
    chunks: dict[int, bytes] = {}
    at = 12
    while at + 8 <= total:
        length, kind = struct.unpack_from("<II", data, at)
        if at + 8 + length > total:
            raise SceneError(f"{path}: a chunk ends beyond the file's {total} bytes; the file is damaged")
        chunks.setdefault(kind, data[at + 8 : at + 8 + length])
        at += 8 + length
    if _JSON_CHUNK not in chunks:
        raise SceneError(f"{path}: has no JSON chunk; the file is damaged")
    if len(chunks[_JSON_CHUNK]) > _MOST_JSON:
        raise SceneError(
            f"{path}: its JSON chunk has more than {_MOST_JSON // MEGABYTE} MB; use fewer nodes and meshes"
        )
    try:
        tree = json.loads(chunks[_JSON_CHUNK])
    except (ValueError, RecursionError) as error:
        raise SceneError(f"{path}: its JSON chunk cannot be parsed ({error})") from None
    if not isinstance(tree, dict):
        raise SceneError(f"{path}: its JSON chunk is not an object")
    return tree, chunks.get(_BIN_CHUNK)
