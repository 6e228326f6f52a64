"""What happens to devices: they are lost, and their kernels go elsewhere; their grids are parked.

- A loss is recorded once an opening, by whoever finds out first.
- Kernels of a lost device go to one like it before they go to one of another kind; one that traps
  again goes to a host device, which it can't take along.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import TypeVar

from ringflow.device.api import Device
from ringflow.device.parking import Pause, lot_of
from ringflow.engine.core import Core
from ringflow.engine.placing import choose_device
from ringflow.errors import DeviceError, DeviceLostError, RingflowError
from ringflow.events.device import DeviceLost, KernelsParked
from ringflow.statemachines.lifecycle import KernelLife

T = TypeVar("T")


def note_loss(core: Core, device: Device) -> None:
    """Record that a device is lost, unless that is recorded already."""
    if not device.lost or device.name in core.lost or core.closed:
        return
    core.lost.add(device.name)
    lives = core.state.kernels.values()
    lost = DeviceLost(
        device=device.name,
        uuid=device.uuid,
        kernels=tuple(
            life.kernel_id for life in lives if life.device == device.name and not life.is_terminal
        ),
        reason=device.lost,
    )
    core.record(f"device/{device.name}", [lost])


def places_for(core: Core, device: Device, *, wary: bool = False) -> tuple[Device, ...]:
    """Return where a kernel of a device can be rebuilt, the best first: there, if it is not lost.

    Args:
        wary: the kernel may lose each GPU that it is put on; a host device comes first then.
    Raises:
        DeviceLostError: there is no other device.
    """
    if not device.lost:
        return (device,)
    note_loss(core, device)
    left = [one for one in core.devices.values() if not one.lost]
    on_host = wary or device.target.is_host
    left.sort(key=lambda one: (one.target.is_host != on_host, -one.free_bytes))
    if not left:
        raise DeviceLostError(device.name, f"{device.lost}, and no other device is left")
    return tuple(left)


async def on_some_place(
    core: Core, device: Device, work: Callable[[Device], Awaitable[T]], *, wary: bool = False
) -> T:
    """Return what work on a kernel's device gives, or on another one if that is lost.

    Raises:
        DeviceError: the device refused, or is lost and all others refused.
    """
    tried: set[str] = set()
    failure: DeviceError | None = None
    while True:
        places = places_for(core, device, wary=wary)
        place = next((one for one in places if one.name not in tried), None)
        if place is None:
            assert failure is not None
            raise failure
        tried.add(place.name)
        try:
            return await work(place)
        except DeviceError as error:
            if not device.lost:
                raise
            failure = error


def device_of(core: Core, life: KernelLife) -> Device:
    """Return the kernel's device, or another one if it is lost or this engine does not have it."""
    device = core.devices.get(life.device)
    return choose_device(core.devices.values()) if device is None else places_for(core, device)[0]


def others_like(core: Core, device: Device) -> list[Device]:
    """Return the other devices for the same code that are left, the one with most room first."""
    others = [one for one in core.devices.values() if one is not device and not one.lost]
    alike = [one for one in others if one.target.name == device.target.name]
    return sorted(alike, key=lambda one: -one.free_bytes)


@contextmanager
def noting_pauses(core: Core) -> Iterator[None]:
    """Record within the block when grids of the engine's devices are parked."""
    with ExitStack() as stack:
        for device in core.devices.values():
            if (lot := lot_of(device)) is not None:
                stack.enter_context(lot.heard_by(partial(_hear, core)))
        yield


def _hear(core: Core, pause: Pause) -> None:
    async def record() -> None:
        with suppress(RingflowError):  # a note: it must not end the engine
            core.record(f"device/{pause.device}", [parked])

    parked = KernelsParked(
        device=pause.device,
        purpose=pause.purpose,
        kernels=pause.kernels,
        pause_ns=pause.pause_ns,
        failure=pause.failure,
    )
    core.starter.start(record)
