"""Where a kernel goes when its user names no device."""

from __future__ import annotations

from collections.abc import Iterable

from ringflow.device.api import Device
from ringflow.errors import UsageError


def choose_device(devices: Iterable[Device]) -> Device:
    """Return the device with the most free memory, the first of equals, and none that is lost."""
    left = (device for device in devices if not device.lost)
    chosen = max(left, key=lambda device: device.free_bytes, default=None)
    if chosen is None:
        raise UsageError("the engine has no device left; open it with devices=['host:0']")
    return chosen
