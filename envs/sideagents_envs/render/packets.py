"""Rays eight at a time: Embree's own library, of which embreex's classes cast one ray after another.

The library is the one that embreex has loaded. Compiled code calls it by its address, so that nothing of Python lies
between rays. Eight is what every x86 processor with AVX does at once; where it is not, or the library is another, there
are no packets. The width is not chosen by speed: hits of other widths differ in the last bit, and a run that is resumed
must see what it saw.
"""

from __future__ import annotations

import ctypes
import weakref
from functools import lru_cache
from typing import Any, NamedTuple

import embreex.rtcore_scene
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import extending
from numba.core import cgutils, types

from sideagents_envs.kernels import kernel

LANES = 8

# rows of eight in a packet, RTCRayHit8 of Embree 4
ORIGIN, DIRECTION, REACH, MASK, NORMAL, HIT_U, HIT_V, FACE, MESH_ID, INSTANCE = 0, 4, 8, 9, 12, 15, 16, 17, 18, 19
_VALID, _SETTINGS = 21, 22  # behind what any version of it has
PACKET = 24 * LANES  # numbers of one

_VERSIONS = range(40_000, 50_000)
_PROPERTY_VERSION, _PROPERTY_NATIVE_8 = 0, 33
_TRIANGLES, _INDICES, _VERTICES, _UINT3, _FLOAT3 = 0, 0, 1, 0x5003, 0x9003
_ROBUST = 1 << 2
_COHERENT = 1 << 16  # neighbouring rays go the same way
_EVERY_FEATURE = 0xFFFFFFFF

_intrinsic: Any = extending.intrinsic  # untyped, as the next
_memcpy: Any = cgutils.raw_memcpy
_Handle = ctypes.c_void_p
_CALLS: dict[str, tuple[Any, list[Any]]] = {
    "rtcNewDevice": (_Handle, [ctypes.c_char_p]),
    "rtcGetDeviceProperty": (ctypes.c_ssize_t, [_Handle, ctypes.c_int]),
    "rtcNewScene": (_Handle, [_Handle]),
    "rtcSetSceneFlags": (None, [_Handle, ctypes.c_int]),
    "rtcNewGeometry": (_Handle, [_Handle, ctypes.c_int]),
    "rtcSetNewGeometryBuffer": (
        _Handle,
        [_Handle, ctypes.c_int, ctypes.c_uint, ctypes.c_int, ctypes.c_size_t, ctypes.c_size_t],
    ),
    "rtcCommitGeometry": (None, [_Handle]),
    "rtcAttachGeometry": (ctypes.c_uint, [_Handle, _Handle]),
    "rtcReleaseGeometry": (None, [_Handle]),
    "rtcCommitScene": (None, [_Handle]),
    "rtcReleaseScene": (None, [_Handle]),
    "rtcIntersect8": (None, [_Handle] * 4),
}


class Library(NamedTuple):
    """Embree: its functions, a device, and the address of `rtcIntersect8`."""

    calls: ctypes.CDLL
    device: int
    intersect: int


@lru_cache(maxsize=1)
def packet_library() -> Library | None:
    """Return Embree; None where it is not version 4, or does not cast eight rays at once on this processor."""
    try:
        calls = ctypes.CDLL(embreex.rtcore_scene.__file__)  # which finds what that module is linked to
        for name, (result, arguments) in _CALLS.items():
            function = getattr(calls, name)
            function.restype, function.argtypes = result, arguments
    except (AttributeError, OSError):
        return None
    device = calls.rtcNewDevice(None)
    if device is None:
        return None
    if calls.rtcGetDeviceProperty(device, _PROPERTY_VERSION) not in _VERSIONS:
        return None
    if not calls.rtcGetDeviceProperty(device, _PROPERTY_NATIVE_8):
        return None
    address = ctypes.cast(calls.rtcIntersect8, _Handle).value
    return Library(calls, device, address or 0)


class PacketScene:
    """One mesh, vertices (V, 3) float32 and faces (F, 3), in Embree's structure; robust: no ray slips between them."""

    def __init__(
        self, library: Library, vertices: npt.NDArray[np.float32], faces: npt.NDArray[np.int32], *, robust: bool
    ) -> None:
        calls = library.calls
        self.handle: int = calls.rtcNewScene(library.device)
        weakref.finalize(self, calls.rtcReleaseScene, self.handle)
        if robust:
            calls.rtcSetSceneFlags(self.handle, _ROBUST)
        geometry = calls.rtcNewGeometry(library.device, _TRIANGLES)
        for kind, layout, values in (
            (_VERTICES, _FLOAT3, np.ascontiguousarray(vertices, np.float32)),
            (_INDICES, _UINT3, np.ascontiguousarray(faces, np.uint32)),
        ):
            held = calls.rtcSetNewGeometryBuffer(geometry, kind, 0, layout, 12, len(values))
            ctypes.memmove(held, values.ctypes.data, values.nbytes)
        calls.rtcCommitGeometry(geometry)
        calls.rtcAttachGeometry(self.handle, geometry)
        calls.rtcReleaseGeometry(geometry)
        calls.rtcCommitScene(self.handle)


class Packets(NamedTuple):
    """What calls of Embree read and write: rows of eight, as floats and as the integers that they also are.

    A packet has `PACKET` numbers: the rows of its rays, one that says which of them count, and Embree's settings.
    """

    floats: npt.NDArray[np.float32]
    integers: npt.NDArray[np.int32]
    address: int


def new_packets(count: int) -> Packets:
    """Return packets whose rays may begin anywhere and reach everything."""
    floats = aligned(count * PACKET)
    integers = floats.view(np.int32)
    for packet in integers.reshape(count, PACKET // LANES, LANES):
        packet[[MASK, MESH_ID, INSTANCE, INSTANCE + 1, _VALID]] = -1
        packet[_SETTINGS, :2] = np.array([_COHERENT, _EVERY_FEATURE], np.uint32).view(np.int32)
    return Packets(floats, integers, floats.ctypes.data)


def aligned(count: int) -> npt.NDArray[np.float32]:
    """Return zeros (count,) that begin at a cache line, as Embree's vectors must."""
    raw = np.zeros(4 * count + 64, np.uint8)
    begin = -raw.ctypes.data % 64
    return raw[begin : begin + 4 * count].view(np.float32)


@_intrinsic
def _call(typing: Any, intersect: Any, valid: Any, scene: Any, rays: Any, settings: Any) -> Any:
    """Call the function at an address with four pointers."""

    def generate(context: Any, builder: Any, signature: Any, addresses: Any) -> Any:
        pointer = ir.IntType(8).as_pointer()
        function = ir.FunctionType(ir.VoidType(), [pointer] * 4).as_pointer()
        given = [builder.inttoptr(address, pointer) for address in addresses[1:]]
        builder.call(builder.inttoptr(addresses[0], function), given)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


@_intrinsic
def _copy(typing: Any, to: Any, source: Any, size: Any) -> Any:
    """Copy bytes from one address to another; of a constant size it is a vector's load and store."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        pointer = ir.IntType(8).as_pointer()
        begin, end = (builder.inttoptr(address, pointer) for address in given[:2])
        _memcpy(builder, begin, end, given[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@_intrinsic
def _spread(typing: Any, to: Any, value: Any) -> Any:
    """Write a number of 32 bits eight times from an address on."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        vector = ir.VectorType(given[1].type, LANES)
        lane = builder.insert_element(ir.Constant(vector, ir.Undefined), given[1], ir.IntType(32)(0))
        lanes = builder.shuffle_vector(lane, lane, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))
        builder.store(lanes, builder.inttoptr(given[0], vector.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, value), generate


@kernel
def copy_lanes(to: int, source: int) -> None:
    """Copy eight numbers of 32 bits from one address to another."""
    _copy(to, source, 4 * LANES)


@kernel
def fill_lanes(to: int, value: Any) -> None:
    """Write one number of 32 bits eight times from an address on."""
    _spread(to, value)


@kernel
def cast_packet(library: int, scene: int, robust: int, integers: npt.NDArray[np.int32], address: int, at: int) -> int:
    """Cast a packet's rays, and those that hit nothing once more in the scene `robust`; return how many those are.

    Scenes and library are addresses, as `address` of `integers`, the packets; `at` is the packet's first number.
    Without `robust` (0) nothing is cast again. Where none of eight neighbours hits anything, they look past the
    building, since an edge can be on the way of a few at most: one of them is asked again, the others only if that one
    was lost.
    """
    rays = address + 4 * at
    valid = at + _VALID * LANES
    _call(library, address + 4 * valid, scene, rays, rays + 4 * _SETTINGS * LANES)
    lost = 0
    for lane in range(LANES):
        lost += integers[at + MESH_ID * LANES + lane] != 0
    if lost == 0 or robust == 0:
        return lost
    chosen = 1 if lost == LANES else LANES
    for lane in range(LANES):
        missed = integers[at + MESH_ID * LANES + lane] != 0
        integers[valid + lane] = -1 if missed and lane < chosen else 0
    _call(library, address + 4 * valid, robust, rays, rays + 4 * _SETTINGS * LANES)
    if chosen == 1 and integers[at + MESH_ID * LANES] == 0:
        for lane in range(LANES):
            integers[valid + lane] = -1 if lane > 0 else 0
        _call(library, address + 4 * valid, robust, rays, rays + 4 * _SETTINGS * LANES)
    for lane in range(LANES):
        integers[valid + lane] = -1
    return lost
