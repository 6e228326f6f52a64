"""Devices by name; what a name needs is imported only when one is opened."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from ringflow.device.api import Device
from ringflow.errors import UnknownDeviceError, UsageError

KNOWN_FORMS: Final = ("host:0", "host:1", "host:N", "cuda:0", "cuda:1", "cuda:N", "cuda:GPU-UUID")
_HOST: Final = re.compile(r"host:(0|[1-9]\d{0,3})\Z")
CUDA_NAME: Final = re.compile(r"cuda:(?:(0|[1-9]\d{0,3})|((?:GPU|MIG)-[0-9A-Fa-f-]{36}))\Z")
"""A GPU's ordinal, or its UUID."""


def open_device(
    name: str,
    *,
    memory_limit_bytes: int | None = None,
    deterministic_seed: int | None = None,
    poison_freed: bool | None = None,
    memcheck: bool | None = None,
    mapped_limit_bytes: int | None = None,
    local_memory_bytes: int | None = None,
) -> Device:
    """Open a device.

    Args:
        name: ``"host:N"``; each N is a memory domain of its own. ``"cuda:N"``, a GPU in the
            driver's order, or ``"cuda:GPU-..."`` by the UUID that nvidia-smi shows, which stays
            the same when the order changes.
        memory_limit_bytes: what kernels may allocate there; all that there is by default. A GPU's
            memory is taken when it is opened: by default nine tenths of what is free then.
        deterministic_seed: kernels go on in the caller's thread only, one seed the same way in
            every process; see ``HostDevice``.
        poison_freed: freed memory is filled and watched, see ``HostDevice``; by default only if
            the environment has ``RINGFLOW_HOST_POISON=1``.
        memcheck: accesses and collectives are checked, see ``HostDevice``; by default only if the
            environment has ``RINGFLOW_HOST_MEMCHECK=1``.
        mapped_limit_bytes, local_memory_bytes: see ``CudaDevice``; for GPUs only.
    Raises:
        UnknownDeviceError: no device has a name of this form, or there is no such GPU.
        UsageError: an option is for devices of another kind, or a size is not above 0.
        DeviceError: the GPU can't be used; the text says why.
    """
    of_host = {
        "deterministic_seed": deterministic_seed,
        "poison_freed": poison_freed,
        "memcheck": memcheck,
    }
    sizes = {
        "memory_limit_bytes": memory_limit_bytes,
        "mapped_limit_bytes": mapped_limit_bytes,
        "local_memory_bytes": local_memory_bytes,
    }
    for option, value in sizes.items():
        if value is not None and value <= 0:
            raise UsageError(f"{option} is {value}; it must be above 0")
    of_gpus = {"mapped_limit_bytes": mapped_limit_bytes, "local_memory_bytes": local_memory_bytes}
    if CUDA_NAME.match(name):
        _refuse_options(name, "host devices", of_host)
        from ringflow.device.cuda.device import CudaDevice

        return CudaDevice(
            name,
            memory_limit_bytes=memory_limit_bytes,
            mapped_limit_bytes=mapped_limit_bytes,
            local_memory_bytes=local_memory_bytes,
        )
    if not _HOST.match(name):
        raise UnknownDeviceError(name, KNOWN_FORMS, advice="name one of these forms")
    _refuse_options(name, "GPUs", of_gpus)
    from ringflow.device.host.device import HostDevice

    return HostDevice(
        name,
        memory_limit_bytes=memory_limit_bytes,
        deterministic_seed=deterministic_seed,
        poison_freed=poison_freed,
        memcheck=memcheck,
    )


def _refuse_options(name: str, kind: str, options: Mapping[str, object]) -> None:
    given = [option for option, value in options.items() if value is not None]
    if given:
        raise UsageError(f"{', '.join(given)} is for {kind}; leave it out for {name!r}")
