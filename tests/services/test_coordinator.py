"""The coordinator: where kernels go, what it refuses, and that a refusal changes nothing."""

from __future__ import annotations

import pytest

from ringflow.clock import ManualClock
from ringflow.coordinator import LoadBalancing, MultiGpuBuilder, MultiGpuCoordinator
from ringflow.errors import (
    DeviceInUseError,
    DeviceMemoryError,
    DuplicateKernelError,
    KernelBusyError,
    LimitExceededError,
    SameDeviceError,
    UnknownDeviceError,
    UnknownKernelError,
    UsageError,
)
from ringflow.results import MigrationResult


def made(
    builder: MultiGpuBuilder | None = None, *, free_bytes: tuple[int, ...] = (1000, 1000, 1000)
) -> MultiGpuCoordinator:
    coordinator = (builder or MultiGpuBuilder()).build(clock=ManualClock())
    for name, free in zip("abc", free_bytes, strict=False):
        coordinator.register_device(name, memory_bytes=2000, free_bytes=free)
    return coordinator


def assign(coordinator: MultiGpuCoordinator, count: int, size_bytes: int = 0) -> str:
    names = [
        coordinator.assign_kernel(f"k{index}", size_bytes=size_bytes) for index in range(count)
    ]
    return "".join(names)


@pytest.mark.parametrize(
    ("strategy", "size_bytes", "expected"),
    [
        (LoadBalancing.LEAST_LOADED, 100, "cbacba"),
        (LoadBalancing.MOST_FREE_MEMORY, 100, "ccbcab"),
        (LoadBalancing.ROUND_ROBIN, 100, "abcabc"),
    ],
)
def test_each_strategy_places_by_its_rule(
    strategy: LoadBalancing, size_bytes: int, expected: str
) -> None:
    """Devices with 500, 600 and 790 bytes free get six kernels in the strategy's order."""
    coordinator = made(MultiGpuBuilder().load_balancing(strategy), free_bytes=(500, 600, 790))
    assert assign(coordinator, 6, size_bytes) == expected


def test_preferred_devices_are_filled_first() -> None:
    """While a preferred device has room the others get nothing."""
    builder = MultiGpuBuilder().preferred_devices(["b"]).max_kernels_per_device(2)
    assert assign(made(builder), 5) == "bbaca"


def test_a_builder_can_be_used_twice() -> None:
    """A step gives a new builder and leaves the one before alone."""
    base = MultiGpuBuilder().max_kernels_per_device(1)
    base.max_kernels_per_device(7)
    assert base.build().config.max_kernels_per_device == 1
    with pytest.raises(UsageError, match="max_kernels_per_device is 0"):
        base.max_kernels_per_device(0)


def test_a_full_device_is_refused_by_count_and_by_memory() -> None:
    """No device is overfilled, named or chosen, and the kernel is then nowhere."""
    coordinator = made(MultiGpuBuilder().max_kernels_per_device(1), free_bytes=(1000, 10))
    coordinator.assign_kernel("k", device="a")
    with pytest.raises(LimitExceededError):
        coordinator.assign_kernel("l", device="a")
    with pytest.raises(DeviceMemoryError):
        coordinator.assign_kernel("l", device="b", size_bytes=11)
    with pytest.raises((LimitExceededError, DeviceMemoryError)):
        coordinator.assign_kernel("l", size_bytes=11)
    assert coordinator.routes() == {"k": "a"}


def test_memory_comes_back_when_a_kernel_goes() -> None:
    """What is free is what was free less the kernels placed since."""
    coordinator = made(free_bytes=(100,))
    coordinator.assign_kernel("k", size_bytes=60)
    assert coordinator.devices()[0].free_bytes == 40
    coordinator.unassign_kernel("k")
    assert coordinator.devices()[0].free_bytes == 100


def test_what_is_not_known_is_told_with_what_is() -> None:
    """Unknown devices and kernels name the known ones; a second of a name is refused."""
    coordinator = made()
    coordinator.assign_kernel("k", device="a")
    with pytest.raises(UnknownDeviceError, match="there are: a, b, c; register_device"):
        coordinator.assign_kernel("l", device="z")
    with pytest.raises(UnknownKernelError, match="known kernels: k"):
        coordinator.device_of("l")
    with pytest.raises(DuplicateKernelError):
        coordinator.assign_kernel("k", device="b")
    with pytest.raises(UsageError, match="registered already"):
        coordinator.register_device("a", memory_bytes=1, free_bytes=1)
    with pytest.raises(UsageError, match="can't be"):
        coordinator.register_device("d", memory_bytes=1, free_bytes=2)
    assert coordinator.routes() == {"k": "a"}


def test_no_device_is_chosen_where_that_is_off_or_there_is_none() -> None:
    """A choice that can't be made is refused, never answered with the first device."""
    with pytest.raises(UsageError, match="chooses no device"):
        made(MultiGpuBuilder().auto_select_device(False)).assign_kernel("k")
    with pytest.raises(UsageError, match="no device to choose from"):
        MultiGpuCoordinator().assign_kernel("k")


def test_a_device_with_kernels_can_not_go() -> None:
    """The error tells which kernels are in the way; an empty device goes."""
    coordinator = made()
    coordinator.assign_kernel("k", device="a")
    with pytest.raises(DeviceInUseError, match="'k'"):
        coordinator.unregister_device("a")
    coordinator.unassign_kernel("k")
    coordinator.unregister_device("a")
    assert [load.name for load in coordinator.devices()] == ["b", "c"]


def test_a_migration_that_can_not_be_is_refused_at_once() -> None:
    """Unknown, same and full targets, and a kernel that an operation has."""
    coordinator = made(MultiGpuBuilder().max_kernels_per_device(1))
    coordinator.assign_kernel("k", device="a")
    coordinator.assign_kernel("l", device="b")
    with pytest.raises(UnknownDeviceError):
        coordinator.request_migration("k", "z")
    with pytest.raises(SameDeviceError):
        coordinator.request_migration("k", "a")
    with pytest.raises(LimitExceededError):
        coordinator.request_migration("k", "b")
    with coordinator.lease("k", "other"), pytest.raises(KernelBusyError, match="other"):
        coordinator.request_migration("k", "c")
    coordinator.request_migration("k", "c")


def test_a_migration_holds_room_on_its_target_and_the_kernel() -> None:
    """While it is under way nothing takes the room, the kernel or the target."""
    coordinator = made(MultiGpuBuilder().max_kernels_per_device(1))
    coordinator.assign_kernel("k", device="a")
    request = coordinator.request_migration("k", "b")
    with coordinator.migration(request):
        assert coordinator.migrations() == (request,)
        assert coordinator.device_of("k") == "a"
        with pytest.raises(LimitExceededError):
            coordinator.assign_kernel("l", device="b")
        with pytest.raises(DeviceInUseError, match="'k'"):
            coordinator.unregister_device("b")
        with pytest.raises(KernelBusyError, match=request.operation_id):
            coordinator.unassign_kernel("k")
        coordinator.commit_migration(request)
        assert coordinator.routes() == {"k": "b"}
        assert [load.kernel_count for load in coordinator.devices()] == [0, 1, 0]
    assert coordinator.lease_of("k") is None
    assert coordinator.migrations() == ()


def test_without_a_commit_the_table_stays() -> None:
    """A migration that ends without its commit point leaves the kernel where it was."""
    coordinator = made()
    coordinator.assign_kernel("k", device="a")
    with (
        pytest.raises(OSError, match="lost"),
        coordinator.migration(coordinator.request_migration("k", "b")),
    ):
        raise OSError("lost")
    assert coordinator.routes() == {"k": "a"}
    assert coordinator.lease_of("k") is None


def test_a_request_is_good_once_and_only_while_the_kernel_is_there() -> None:
    """A used request and one from before another migration are refused."""
    coordinator = made()
    coordinator.assign_kernel("k", device="a")
    used, stale = (coordinator.request_migration("k", "b") for _ in range(2))
    with coordinator.migration(used):
        coordinator.commit_migration(used)
    with pytest.raises(UsageError, match="carried out before"), coordinator.migration(used):
        pass
    with pytest.raises(UsageError, match="ask again"), coordinator.migration(stale):
        pass


def result(size_bytes: int, taken_s: float) -> MigrationResult:
    return MigrationResult(
        operation_id="mig",
        kernel_id="k",
        source_device="a",
        target_device="b",
        state_bytes=size_bytes,
        pause_s=0.0,
        parked_count=0,
        path="storage",
        digests={},
        step_s={"TransferState": taken_s},
    )


def test_estimates_come_from_what_was_measured() -> None:
    """No estimate before the first; two sizes give a line of latency and bandwidth."""
    coordinator = made()
    coordinator.assign_kernel("k", device="a")
    before = coordinator.request_migration("k", "b")
    assert (before.path, before.estimate_transfer_time(10)) == ("", None)
    coordinator.record_transfer(result(1000, 3.0))
    one = coordinator.request_migration("k", "b")
    assert one.estimate_transfer_time(2000) == pytest.approx(6.0)
    coordinator.record_transfer(result(3000, 5.0))
    both = coordinator.request_migration("k", "b")
    assert both.estimated_bandwidth == pytest.approx(1000.0)
    assert both.estimated_latency == pytest.approx(2.0)
    assert both.estimate_transfer_time(500) == pytest.approx(2.5)
    assert both.path == "storage"
    assert coordinator.request_migration("k", "c").estimated_bandwidth is None
