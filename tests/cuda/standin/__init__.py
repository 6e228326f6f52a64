"""A stand-in for the NVIDIA driver: a TEST DOUBLE, never part of the package.

``install`` loads it as this process's ``libcuda.so.1``; it shows no device until ``plug`` puts some
in. It checks the order of calls, their arguments, lifetimes and errors, and models the driver's
hazards; what it can't vouch for is listed in docs/gpu.md.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from tests.cuda.standin import child, origins
from tests.cuda.standin.build import library_path
from tests.cuda.standin.layout import DEVICES_MAX, DeviceSettings, Settings, bind
from tests.cuda.standin.look import attribute_numbers, device_settings
from tests.cuda.standin.seen import Call, Fault, FaultKind, Hazard, Standin

__all__ = [
    "ALL_HAZARDS",
    "LOADING",
    "Call",
    "Fault",
    "FaultKind",
    "Hazard",
    "Standin",
    "install",
    "plug",
]

EAGER_BY_ENVIRONMENT: Final = 2


@functools.cache
def install() -> Any:
    """Load the stand-in as the process's ``libcuda.so.1``, before anything calls the driver."""
    origins.watch_compiler()
    return bind(ctypes.CDLL(str(library_path())))


LOADING: Final = ("cuModuleLoadData", "cuLibraryLoadData", "cuFuncLoad", "cuFuncSetAttribute")
"""What a load calls."""
ALL_HAZARDS: Final = Hazard(255) & ~Hazard.ALLOCATE
_plugging = threading.Lock()


@contextmanager
def plug(
    devices: int = 2,
    *,
    memory_bytes: int = 256 << 20,
    sm_count: int = 4,
    architecture: tuple[int, int] = (9, 0),
    name: str = "Stand-in GPU (a test double)",
    peer_access: bool | Sequence[tuple[int, int]] = True,
    attributes: Mapping[str, int] | None = None,
    faults: Sequence[Fault] = (),
    hazards: Hazard = ALL_HAZARDS,
    loads_while_running: bool = False,
    asks_child: bool = False,
    driver_version: int = 13050,
    eager: bool | None = None,
    connections: int = 0,
    fill: bool = True,
    memcheck: bool = True,
    deadline_s: float = 10.0,
    wait_deadline_s: float = 60.0,
    delay_s: float = 100e-6,
    check: bool = True,
) -> Iterator[Standin]:
    """Plug devices in for the block; at its end they go, and what is left of them is a failure.

    Child processes that use the driver have devices of the same kind, and of their own.

    Args:
        memory_bytes: of each device.
        peer_access: whether each may reach each, or the pairs that may (from, to).
        attributes: by name without ``CU_DEVICE_ATTRIBUTE_``, other than the usual ones.
        hazards: which calls wait for the kernels of their context.
        loads_while_running: takes the hazard of loading code out.
        asks_child: let the library find that out by itself, in a child process; by default it is
            told, as a user can.
        eager: module loading; by default as ``CUDA_MODULE_LOADING`` says at ``cuInit``.
        connections: hardware queues; by default as ``CUDA_DEVICE_MAX_CONNECTIONS`` says.
        fill: new memory holds garbage, as a GPU's may.
        memcheck: every access of the kernels is checked against what their device may touch.
        deadline_s: for a call that waits for kernels: past it that is a deadlock, a failure.
        wait_deadline_s: for any other wait.
        delay_s: how much later than its call work starts, at least: who reuses a buffer before its
            copy has been made is then found.
        check: problems fail the test.
    """
    environment = child.environment(locals())
    from ringflow.device.cuda.loading import OVERRIDE  # not when a run of other tests starts
    from tests.cuda.standin.launching import Launcher

    library = install()
    assert 0 <= devices <= DEVICES_MAX, f"{devices} devices"
    names = [f"sm_{architecture[0]}{architecture[1]}"] * devices
    launcher = Launcher(library, names, memcheck=memcheck)
    rows = (DeviceSettings * DEVICES_MAX)()
    for ordinal in range(devices):
        rows[ordinal] = device_settings(
            ordinal,
            name=name,
            memory_bytes=memory_bytes,
            peers=_peers(ordinal, devices, peer_access),
            attributes=attribute_numbers(sm_count, architecture, attributes or {}),
        )
    if loads_while_running:
        hazards &= ~Hazard.LOAD
    if not asks_child:
        environment[OVERRIDE] = "no" if hazards & Hazard.LOAD else "yes"
    given = Settings(
        device_count=devices,
        driver_version=driver_version,
        hazards=int(hazards),
        eager=EAGER_BY_ENVIRONMENT if eager is None else int(eager),
        connections=connections,
        fill=int(fill),
        deadline_ns=int(deadline_s * 1e9),
        wait_deadline_ns=int(wait_deadline_s * 1e9),
        delay_ns=int(delay_s * 1e9),
    )
    assert _plugging.acquire(blocking=False), "devices are plugged in already"
    try:
        assert not library.standin_plug(given, rows, launcher.table)
        standin = Standin(library, launcher)
        if loads_while_running:
            standin.allow(*LOADING)
        standin.arm(*faults)
        try:
            with child.environ(environment):
                yield standin
        finally:
            library.standin_unplug()
    finally:
        _plugging.release()
        launcher.children += child.take_report(environment[child.REPORT])
    if check and standin.problems:
        raise AssertionError("the stand-in driver found:\n- " + "\n- ".join(standin.problems))


def _peers(ordinal: int, devices: int, access: bool | Sequence[tuple[int, int]]) -> list[int]:
    others = [peer for peer in range(devices) if peer != ordinal]
    if isinstance(access, bool):
        return others if access else []
    return [peer for peer in others if (ordinal, peer) in access]
