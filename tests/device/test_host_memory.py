"""The host device's memory: its limit, and what becomes of freed pieces in test mode."""

from __future__ import annotations

import ctypes
import struct

import pytest

from ringflow.device.api import LaunchStatus
from ringflow.device.compiler.api import HOST, compile_source
from ringflow.device.host.device import HostDevice
from ringflow.device.host.memory import KEPT_BYTES_MAX, POISON
from ringflow.device.host.pool import PoolLaunch
from ringflow.errors import DeviceError, DeviceMemoryError, KernelStalledError

STALE = """
extern "C" __global__ void peek(const unsigned* freed, unsigned* seen) { seen[0] = freed[0]; }
extern "C" __global__ void poke(unsigned* freed, unsigned* seen) { freed[5] = 1; }
"""

LATCHED = """
extern "C" __global__ void await(volatile unsigned* word) { while (!*word) __nanosleep(1000); }
"""


def run(device: HostDevice, entry_point: str, *addresses: int) -> None:
    compiled = compile_source(STALE, entry_point=entry_point, target=HOST, cache=None)
    launch = device.launch(
        device.load(compiled),
        entry_point,
        grid=(1, 1, 1),
        block=(1, 1, 1),
        parameters=tuple(struct.pack("<Q", address) for address in addresses),
    )
    assert launch.wait(30.0) is LaunchStatus.COMPLETED


def test_limit_is_kept_to_the_byte() -> None:
    """What is allocated counts, what is freed counts no longer; poison counts neither."""
    for poison in (False, True):
        device = HostDevice("host:0", memory_limit_bytes=10_000, poison_freed=poison)
        first = device.allocate(6000, label="first")
        second = device.allocate(4000, label="second")
        with pytest.raises(DeviceMemoryError, match="host:0") as refused:
            device.allocate(1, label="third")
        assert isinstance(refused.value, DeviceError)
        assert device.free_bytes == 0
        device.free(first)
        assert device.free_bytes == 6000
        device.free(second)
        device.allocate(10_000, label="all")
        device.close()


def test_more_than_the_machine_has_is_a_device_error() -> None:
    """The system's refusal becomes the device's, and nothing is counted."""
    device = HostDevice("host:0", memory_limit_bytes=1 << 62)
    with pytest.raises(DeviceMemoryError):
        device.allocate(1 << 61, label="everything")
    assert device.free_bytes == 1 << 62
    device.close()


def test_domains_have_limits_of_their_own() -> None:
    """host:0 being full is nothing to host:1."""
    devices = [HostDevice(f"host:{n}", memory_limit_bytes=4096) for n in range(2)]
    devices[0].allocate(4096, label="all")
    with pytest.raises(DeviceMemoryError):
        devices[0].allocate(1, label="more")
    devices[1].allocate(4096, label="all")
    for device in devices:
        device.close()


def test_freed_memory_reads_as_poison() -> None:
    """A kernel with a stale pointer sees the pattern, not another kernel's data, and lives."""
    device = HostDevice("host:0", memory_limit_bytes=1 << 20, poison_freed=True)
    seen, freed = device.allocate(64, label="seen"), device.allocate(4096, label="freed")
    device.copy_in(freed, b"\x01" * 4096)
    device.free(freed)
    run(device, "peek", freed.address, seen.address)
    assert bytes(device.copy_out(seen, size_bytes=4)) == bytes([POISON]) * 4
    with pytest.raises(DeviceError, match="not an allocation"):
        device.copy_out(freed)
    device.close()


def test_write_to_freed_memory_is_found() -> None:
    """Closing names what was written to, after it has given everything back."""
    device = HostDevice("host:0", memory_limit_bytes=1 << 20, poison_freed=True)
    seen, freed = device.allocate(64, label="seen"), device.allocate(4096, label="wave/height")
    device.free(freed)
    run(device, "poke", freed.address, seen.address)
    with pytest.raises(DeviceError, match="wave/height") as found:
        device.close()
    assert found.value.code == "written after free"
    assert device.free_bytes == 1 << 20
    device.close()


def test_write_is_found_wherever_it_was() -> None:
    """First byte, last byte, and the borders of what is compared at once."""
    size_bytes = (2 << 20) + 8
    for offset in (0, (1 << 20) - 1, 1 << 20, 2 << 20, size_bytes - 1):
        device = HostDevice("host:0", poison_freed=True)
        freed = device.allocate(size_bytes, label="piece")
        device.free(freed)
        ctypes.c_ubyte.from_address(freed.address + offset).value = 0
        with pytest.raises(DeviceError, match="piece"):
            device.close()


def test_kept_memory_is_bounded() -> None:
    """The oldest pieces are checked and given back when new ones come."""
    device = HostDevice("host:0", poison_freed=True)
    size_bytes = KEPT_BYTES_MAX // 4
    freed = [device.allocate(size_bytes, label=f"piece {n}") for n in range(6)]
    device.free(freed[0])
    ctypes.c_ubyte.from_address(freed[0].address).value = 0
    for piece in freed[1:4]:
        device.free(piece)
    with pytest.raises(DeviceError, match="piece 0"):
        device.free(freed[4])
    device.free(freed[5])
    poisoned = device._arena._poisoned
    assert poisoned is not None
    assert poisoned._kept_bytes == KEPT_BYTES_MAX
    device.close()


@pytest.mark.parametrize(("value", "poisons"), [("1", True), ("0", False), (None, False)])
def test_environment_asks_for_poison(
    monkeypatch: pytest.MonkeyPatch, value: str | None, poisons: bool
) -> None:
    """RINGFLOW_HOST_POISON=1 does; an argument is stronger."""
    monkeypatch.delenv("RINGFLOW_HOST_POISON", raising=False)
    if value is not None:
        monkeypatch.setenv("RINGFLOW_HOST_POISON", value)
    assert (HostDevice("host:0")._arena._poisoned is not None) is poisons
    assert HostDevice("host:0", poison_freed=False)._arena._poisoned is None
    assert HostDevice("host:0", poison_freed=True)._arena._poisoned is not None


def test_memory_of_a_grid_that_cannot_be_stopped_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given back it would be another's, or no memory at all, while the grid writes to it."""
    device = HostDevice("host:0", memory_limit_bytes=10_000)
    word, other = device.allocate(4, label="word"), device.allocate(4, label="other")
    launch = device.launch(
        device.load(compile_source(LATCHED, entry_point="await", target=HOST, cache=None)),
        "await",
        grid=(1, 1, 1),
        block=(1, 1, 1),
        parameters=(struct.pack("<Q", word.address),),
        memory=(word,),
    )
    monkeypatch.setattr(PoolLaunch, "abort", lambda launch: launch.status)
    with pytest.raises(KernelStalledError, match=r"grid of 'await'.* end the process"):
        launch.abort()
    device.free(other)
    with pytest.raises(DeviceError, match="'word' may be used") as raised:
        device.free(word)
    assert raised.value.code == "busy"
    assert device.free_bytes == 10_000 - 4
    device.copy_in(word, b"\1\0\0\0")
    assert launch.wait(30.0) is LaunchStatus.COMPLETED
    device.free(word)
    assert device.free_bytes == 10_000
    device.close()
