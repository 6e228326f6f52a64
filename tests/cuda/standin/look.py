"""How the stand-in's devices show themselves: names, UUIDs, attributes, links."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Final

from tests.cuda.standin.layout import DeviceSettings

_UUID_SPACE: Final = uuid.UUID("7d8a3c52-90f5-4e0a-8b4a-3f62f1f5d0aa")
USUAL: Final[Mapping[str, int]] = {
    "MAX_THREADS_PER_BLOCK": 1024,
    "MAX_BLOCK_DIM_X": 1024,
    "MAX_BLOCK_DIM_Y": 1024,
    "MAX_BLOCK_DIM_Z": 64,
    "MAX_GRID_DIM_X": 2**31 - 1,
    "MAX_GRID_DIM_Y": 65535,
    "MAX_GRID_DIM_Z": 65535,
    "MAX_SHARED_MEMORY_PER_BLOCK": 48 << 10,
    "TOTAL_CONSTANT_MEMORY": 64 << 10,
    "WARP_SIZE": 32,
    "MAX_REGISTERS_PER_BLOCK": 65536,
    "CLOCK_RATE": 1_755_000,
    "GPU_OVERLAP": 1,
    "CAN_MAP_HOST_MEMORY": 1,
    "CONCURRENT_KERNELS": 1,
    "MAX_THREADS_PER_MULTIPROCESSOR": 2048,
    "ASYNC_ENGINE_COUNT": 3,
    "UNIFIED_ADDRESSING": 1,
    "STREAM_PRIORITIES_SUPPORTED": 1,
    "MAX_SHARED_MEMORY_PER_MULTIPROCESSOR": 228 << 10,
    "MAX_REGISTERS_PER_MULTIPROCESSOR": 65536,
    "COMPUTE_PREEMPTION_SUPPORTED": 1,
    "CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM": 1,
    "CAN_USE_64_BIT_STREAM_MEM_OPS": 1,
    "CAN_USE_STREAM_WAIT_VALUE_NOR": 1,
    "COOPERATIVE_LAUNCH": 1,
    "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN": 227 << 10,
    "HOST_REGISTER_SUPPORTED": 1,
    "MAX_BLOCKS_PER_MULTIPROCESSOR": 32,
    "RESERVED_SHARED_MEMORY_PER_BLOCK": 1 << 10,
    "MEMORY_POOLS_SUPPORTED": 1,
}


def attribute_numbers(
    sm_count: int, architecture: tuple[int, int], given: Mapping[str, int]
) -> dict[int, int]:
    """Return the attributes of a device by their numbers."""
    from cuda.bindings import driver

    named = {
        **USUAL,
        "MULTIPROCESSOR_COUNT": sm_count,
        "COMPUTE_CAPABILITY_MAJOR": architecture[0],
        "COMPUTE_CAPABILITY_MINOR": architecture[1],
        **given,
    }
    numbers = driver.CUdevice_attribute
    return {
        int(getattr(numbers, f"CU_DEVICE_ATTRIBUTE_{name}")): value for name, value in named.items()
    }


def device_settings(
    ordinal: int,
    *,
    name: str,
    memory_bytes: int,
    peers: Sequence[int],
    attributes: Mapping[int, int],
) -> DeviceSettings:
    """Return what the stand-in is told of one device."""
    made = DeviceSettings(name=name.encode(), memory_bytes=memory_bytes)
    made.uuid = b"\0" * 16
    identity = uuid.uuid5(_UUID_SPACE, f"device {ordinal}").bytes
    offset = DeviceSettings.uuid.offset
    memoryview(made).cast("B")[offset : offset + 16] = identity
    made.bus_id = f"0000:{0x10 + ordinal:02x}:00.0".encode()
    for number, value in attributes.items():
        made.attributes[number] = value
    for peer in peers:
        made.access[peer] = made.atomics[peer] = 1
    return made
