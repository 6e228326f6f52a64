"""Devices by name; what a name needs is imported only when one is opened."""

from __future__ import annotations

import re
from typing import Final

from ringflow.device.api import Device
from ringflow.errors import UnknownDeviceError

KNOWN_FORMS: Final = ("host:0", "host:1", "host:N")
_HOST: Final = re.compile(r"host:(0|[1-9]\d{0,3})\Z")


def open_device(
    name: str,
    *,
    memory_limit_bytes: int | None = None,
    deterministic_seed: int | None = None,
    poison_freed: bool | None = None,
    memcheck: bool | None = None,
) -> Device:
    """Open a device.

    Args:
        name: ``"host:N"``; each N is a memory domain of its own.
        memory_limit_bytes: what kernels may allocate there; all that there is by default.
        deterministic_seed: kernels go on in the caller's thread only, one seed the same way in
            every process; see ``HostDevice``.
        poison_freed: freed memory is filled and watched, see ``HostDevice``; by default only if
            the environment has ``RINGFLOW_HOST_POISON=1``.
        memcheck: accesses and collectives are checked, see ``HostDevice``; by default only if the
            environment has ``RINGFLOW_HOST_MEMCHECK=1``.
    Raises:
        UnknownDeviceError: no device has a name of this form.
    """
    if not _HOST.match(name):
        raise UnknownDeviceError(name, KNOWN_FORMS)
    from ringflow.device.host.device import HostDevice

    return HostDevice(
        name,
        memory_limit_bytes=memory_limit_bytes,
        deterministic_seed=deterministic_seed,
        poison_freed=poison_freed,
        memcheck=memcheck,
    )
