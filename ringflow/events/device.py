"""Events of a device (stream ``device/<name>``)."""

from __future__ import annotations

from typing import ClassVar, Final

from ringflow.events.base import event


@event
class DeviceLost:
    """The device and all that was on it is lost until the process ends; its kernels go elsewhere.

    Attributes:
        kernels: those that were on it.
    """

    wire_name: ClassVar[str] = "device.lost.v1"
    device: str
    uuid: str
    kernels: tuple[str, ...]
    reason: str


@event
class KernelsParked:
    """Grids had to return for a moment, since the device can't do something beside them.

    Attributes:
        purpose: ``"load"`` or ``"unload"``: what was done meanwhile.
        kernels: those that were parked; they went on as if nothing had been.
        pause_ns: from the first return asked for until all went on.
        failure: why nothing was done after all; empty if it was.
    """

    wire_name: ClassVar[str] = "device.kernels_parked.v1"
    device: str
    purpose: str
    kernels: tuple[str, ...]
    pause_ns: int
    failure: str


EVENT_TYPES: Final = (DeviceLost, KernelsParked)
