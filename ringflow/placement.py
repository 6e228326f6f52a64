"""Which device a kernel goes to: a pure choice from what each device has left.

- A device without room is never chosen; where none has room nothing is.
- Equals are decided by their order, so the same loads give the same choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import assert_never

import attrs

from ringflow.errors import DeviceMemoryError, LimitExceededError, UsageError


class LoadBalancing(Enum):
    """How a device is chosen among those that have room; the first of equals."""

    LEAST_LOADED = "least_loaded"
    MOST_FREE_MEMORY = "most_free_memory"
    ROUND_ROBIN = "round_robin"


@attrs.frozen(kw_only=True)
class DeviceLoad:
    """A device as it is counted now.

    Attributes:
        free_bytes: what was free when it was registered, less the kernels placed on it since.
        kernel_count: kernels on it and on their way to it.
    """

    name: str
    memory_bytes: int
    free_bytes: int
    kernel_count: int


@attrs.frozen(kw_only=True)
class MultiGpuConfig:
    """How kernels are placed.

    Attributes:
        auto_select_device: whether a kernel may be assigned without naming a device.
        max_kernels_per_device: None for as many as have room.
        preferred_devices: chosen from first, while one of them has room.
    """

    load_balancing: LoadBalancing = LoadBalancing.LEAST_LOADED
    auto_select_device: bool = True
    max_kernels_per_device: int | None = None
    preferred_devices: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        limit = self.max_kernels_per_device
        if limit is not None and limit < 1:
            raise UsageError(f"max_kernels_per_device is {limit}; give 1 or more, or None")


def check_room(load: DeviceLoad, size_bytes: int, *, kernels_max: int | None) -> None:
    """Raise ``LimitExceededError`` or ``DeviceMemoryError`` if one more kernel doesn't fit."""
    if kernels_max is not None and load.kernel_count >= kernels_max:
        raise LimitExceededError(
            f"the count of kernels on device {load.name!r}",
            load.kernel_count + 1,
            kernels_max,
            "migrate one away, or raise max_kernels_per_device",
        )
    if size_bytes > load.free_bytes:
        raise DeviceMemoryError(load.name, size_bytes, load.free_bytes)


def choose_device(
    config: MultiGpuConfig, loads: Sequence[DeviceLoad], size_bytes: int, *, turn: int
) -> str:
    """Return the device for one more kernel.

    Args:
        loads: at least one, in the order of registration.
        turn: how many kernels were placed before; round robin starts after them.
    Raises:
        LimitExceededError, DeviceMemoryError: no device has room; of the one that came nearest.
    """
    start = turn % len(loads) if config.load_balancing is LoadBalancing.ROUND_ROBIN else 0
    ordered = sorted([*loads[start:], *loads[:start]], key=lambda load: _rank(config, load))
    refusal: Exception | None = None
    for load in ordered:
        try:
            check_room(load, size_bytes, kernels_max=config.max_kernels_per_device)
        except (LimitExceededError, DeviceMemoryError) as error:
            refusal = refusal or error
        else:
            return load.name
    assert refusal is not None
    raise refusal


def _rank(config: MultiGpuConfig, load: DeviceLoad) -> tuple[bool, int, int]:
    """Return a sort key: preferred devices first, then what the strategy says."""
    other = load.name not in config.preferred_devices
    match config.load_balancing:
        case LoadBalancing.LEAST_LOADED:
            return other, load.kernel_count, -load.free_bytes
        case LoadBalancing.MOST_FREE_MEMORY:
            return other, -load.free_bytes, 0
        case LoadBalancing.ROUND_ROBIN:
            return other, 0, 0
        case _:
            assert_never(config.load_balancing)
