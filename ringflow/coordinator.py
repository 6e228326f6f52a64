"""Which kernel is on which device: devices, the routing table, leases, and migrations asked for.

- The routing table changes in three calls only: ``assign_kernel``, ``unassign_kernel``, and
  ``commit_migration``; each is one step with no await.
- Room on a migration's target is taken when it begins, so its commit can't be refused.
- What the coordinator knows it was told or has measured; it guesses no topology.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import final

import attrs

from ringflow.clock import Clock, SystemClock
from ringflow.errors import (
    DeviceInUseError,
    DuplicateKernelError,
    KernelBusyError,
    KernelStateError,
    SameDeviceError,
    UnknownDeviceError,
    UnknownKernelError,
    UsageError,
)
from ringflow.events.codec import Event
from ringflow.ids import Ids
from ringflow.placement import (
    DeviceLoad,
    LoadBalancing,
    MultiGpuConfig,
    check_room,
    choose_device,
)
from ringflow.rates import TransferRates
from ringflow.results import MigrationResult
from ringflow.statemachines.migration import MigrationState

__all__ = [
    "DeviceLoad",
    "LoadBalancing",
    "MigrationRequest",
    "MultiGpuBuilder",
    "MultiGpuConfig",
    "MultiGpuCoordinator",
]


@final
@attrs.define(kw_only=True)
class MigrationRequest:
    """A migration that was asked for; the migrator changes ``state`` and what follows it.

    Attributes:
        path: how the last migration between the two devices went, empty if there was none.
        estimated_bandwidth: measured bytes a second between the two devices, None if never.
        estimated_latency: measured seconds that a transfer takes beside its bytes, None if never.
        started_at: UNIX time in ns of the first step, 0 before.
        events: what has happened so far, as the events of the machine.
    """

    operation_id: str
    kernel_id: str
    source_device: str
    target_device: str
    actor: str = ""
    reason: str = ""
    path: str = ""
    estimated_bandwidth: float | None = None
    estimated_latency: float | None = None
    state: MigrationState = MigrationState.PENDING
    started_at: int = 0
    events: tuple[Event, ...] = ()

    def estimate_transfer_time(self, size_bytes: int) -> float | None:
        """Return about how many seconds the bytes take; None where nothing was measured yet."""
        if self.estimated_bandwidth is None or self.estimated_latency is None:
            return None
        return self.estimated_latency + size_bytes / self.estimated_bandwidth


@attrs.frozen
class _Placement:
    device: str
    size_bytes: int


@attrs.frozen(kw_only=True)
class MultiGpuBuilder:
    """Collects a coordinator's configuration; each method but ``build`` returns a new builder."""

    _config: MultiGpuConfig = attrs.field(factory=MultiGpuConfig, alias="config")

    def load_balancing(self, strategy: LoadBalancing) -> MultiGpuBuilder:
        return MultiGpuBuilder(config=attrs.evolve(self._config, load_balancing=strategy))

    def auto_select_device(self, enabled: bool) -> MultiGpuBuilder:
        return MultiGpuBuilder(config=attrs.evolve(self._config, auto_select_device=enabled))

    def max_kernels_per_device(self, count: int | None) -> MultiGpuBuilder:
        return MultiGpuBuilder(config=attrs.evolve(self._config, max_kernels_per_device=count))

    def preferred_devices(self, names: Iterable[str]) -> MultiGpuBuilder:
        return MultiGpuBuilder(config=attrs.evolve(self._config, preferred_devices=tuple(names)))

    def build(self, *, clock: Clock | None = None, ids: Ids | None = None) -> MultiGpuCoordinator:
        return MultiGpuCoordinator(self._config, clock=clock, ids=ids)


@final
class MultiGpuCoordinator:
    """Devices, and the kernels on them; it moves nothing itself, see ``KernelMigrator``.

    Args:
        config: how kernels are placed.
        clock, ids: where times and operation ids come from.
    """

    def __init__(
        self,
        config: MultiGpuConfig | None = None,
        *,
        clock: Clock | None = None,
        ids: Ids | None = None,
    ) -> None:
        self.config = config or MultiGpuConfig()
        self.clock = clock or SystemClock()
        self._ids = ids or Ids()
        self._devices: dict[str, tuple[int, int]] = {}
        self._routes: dict[str, _Placement] = {}
        self._leases: dict[str, str] = {}
        self._migrations: dict[str, MigrationRequest] = {}
        self._rates = TransferRates()
        self._turn = 0

    # Devices

    def register_device(self, name: str, *, memory_bytes: int, free_bytes: int) -> None:
        """Tell of a device; ``free_bytes`` is what it has for kernels assigned from now on."""
        if name in self._devices:
            raise UsageError(f"device {name!r} is registered already; unregister it first")
        if not name or not 0 <= free_bytes <= memory_bytes:
            raise UsageError(
                f"device {name!r} with {free_bytes} of {memory_bytes} bytes free can't be; give a "
                "name, and free_bytes from 0 to memory_bytes"
            )
        self._devices[name] = (memory_bytes, free_bytes)

    def unregister_device(self, name: str) -> None:
        """Forget a device; raises ``DeviceInUseError`` while a kernel is on it or moves to it."""
        self._check_device(name)
        kernels = (*self.kernels_on(name), *(r.kernel_id for r in self._moving_to(name)))
        if kernels:
            raise DeviceInUseError(name, kernels)
        del self._devices[name]
        self._rates.forget(name)

    def devices(self) -> tuple[DeviceLoad, ...]:
        """Return all devices in the order of their registration."""
        return tuple(self._load(name) for name in self._devices)

    def kernels_on(self, device: str) -> tuple[str, ...]:
        """Return the kernels that the routing table has on a device."""
        self._check_device(device)
        return tuple(k for k, placed in self._routes.items() if placed.device == device)

    # Kernels

    def assign_kernel(
        self, kernel_id: str, *, device: str | None = None, size_bytes: int = 0
    ) -> str:
        """Put a kernel into the routing table and return its device.

        Args:
            device: None to let the coordinator choose.
            size_bytes: device memory that the kernel takes.
        Raises:
            DuplicateKernelError, UnknownDeviceError: nothing was changed, as with all others.
            LimitExceededError, DeviceMemoryError: the device, or every device, is full.
            UsageError: no device is named and none is registered, or it isn't to be chosen.
        """
        if kernel_id in self._routes:
            raise DuplicateKernelError(kernel_id)
        if size_bytes < 0:
            raise UsageError(f"size_bytes is {size_bytes}; give 0 or more")
        if device is None:
            device = self._choose(size_bytes)
        else:
            self._check_room(device, size_bytes)
        self._routes[kernel_id] = _Placement(device, size_bytes)
        self._turn += 1
        return device

    def unassign_kernel(self, kernel_id: str) -> None:
        """Take a kernel out of the routing table; raises ``KernelBusyError`` while it is leased."""
        self._placement(kernel_id)
        self.check_free(kernel_id)
        del self._routes[kernel_id]

    def device_of(self, kernel_id: str) -> str:
        """Return the device that a kernel is on; the source until a migration has committed."""
        return self._placement(kernel_id).device

    def routes(self) -> Mapping[str, str]:
        """Return the routing table as it is now: device by kernel."""
        return {kernel_id: placed.device for kernel_id, placed in self._routes.items()}

    # Leases

    def lease_of(self, kernel_id: str) -> str | None:
        """Return the operation that has the kernel, None if none has."""
        return self._leases.get(kernel_id)

    def check_free(self, kernel_id: str) -> None:
        """Raise ``KernelBusyError`` if an operation has the kernel."""
        holder = self._leases.get(kernel_id)
        if holder is not None:
            raise KernelBusyError(kernel_id, holder)

    @contextmanager
    def lease(self, kernel_id: str, operation_id: str) -> Iterator[None]:
        """Keep all other operations off a kernel for the block; raises ``KernelBusyError``."""
        self._placement(kernel_id)
        self.check_free(kernel_id)
        self._leases[kernel_id] = operation_id
        try:
            yield
        finally:
            del self._leases[kernel_id]

    # Migrations

    def request_migration(
        self, kernel_id: str, target_device: str, *, actor: str = "", reason: str = ""
    ) -> MigrationRequest:
        """Return a request that a ``KernelMigrator`` can carry out; nothing is changed.

        Raises:
            UnknownKernelError, UnknownDeviceError, SameDeviceError, KernelBusyError,
            LimitExceededError, DeviceMemoryError: it could not be carried out now.
        """
        placed = self._placement(kernel_id)
        self._check_migration(kernel_id, placed.device, target_device)
        measured = self._rates.estimate(placed.device, target_device)
        return MigrationRequest(
            operation_id=self._ids.new("mig"),
            kernel_id=kernel_id,
            source_device=placed.device,
            target_device=target_device,
            actor=actor,
            reason=reason,
            path=measured.path if measured else "",
            estimated_bandwidth=measured.bandwidth if measured else None,
            estimated_latency=measured.latency_s if measured else None,
        )

    def migrations(self) -> tuple[MigrationRequest, ...]:
        """Return the migrations under way, in the order in which they began."""
        return tuple(self._migrations.values())

    @contextmanager
    def migration(self, request: MigrationRequest) -> Iterator[None]:
        """Hold the kernel's lease and room on the target for the block.

        The block calls ``commit_migration`` at the commit point; without it the routing table
        stays as it was.
        Raises:
            UsageError: the request was carried out before, or the kernel moved since.
        """
        kernel_id, source = request.kernel_id, self.device_of(request.kernel_id)
        if request.state is not MigrationState.PENDING or request.started_at:
            raise UsageError(
                f"request {request.operation_id!r} was carried out before "
                f"({request.state.value}); ask for the migration again"
            )
        if source != request.source_device:
            raise KernelStateError(
                kernel_id, f"on {source!r}", f"on {request.source_device!r}; ask again"
            )
        self._check_migration(kernel_id, source, request.target_device)
        with self.lease(kernel_id, request.operation_id):
            request.started_at = self.clock.now_ns()
            self._migrations[request.operation_id] = request
            try:
                yield
            finally:
                del self._migrations[request.operation_id]

    def commit_migration(self, request: MigrationRequest) -> None:
        """Let the routing table say the target; only within the request's ``migration`` block."""
        assert self._migrations.get(request.operation_id) is request
        placed = self._routes[request.kernel_id]
        self._routes[request.kernel_id] = attrs.evolve(placed, device=request.target_device)

    def record_transfer(self, result: MigrationResult) -> None:
        """Learn from a migration how fast the two devices exchange state."""
        self._rates.record(
            result.source_device,
            result.target_device,
            path=result.path,
            size_bytes=result.state_bytes,
            taken_s=result.transfer_s,
        )

    # Checks

    def _placement(self, kernel_id: str) -> _Placement:
        try:
            return self._routes[kernel_id]
        except KeyError:
            raise UnknownKernelError(kernel_id, tuple(self._routes)) from None

    def _check_device(self, name: str) -> None:
        if name not in self._devices:
            raise UnknownDeviceError(
                name, tuple(self._devices), advice="register_device() it first"
            )

    def _check_room(self, device: str, size_bytes: int) -> None:
        self._check_device(device)
        kernels_max = self.config.max_kernels_per_device
        check_room(self._load(device), size_bytes, kernels_max=kernels_max)

    def _check_migration(self, kernel_id: str, source: str, target: str) -> None:
        self._check_device(target)
        if source == target:
            raise SameDeviceError(kernel_id, target)
        self.check_free(kernel_id)
        self._check_room(target, self._routes[kernel_id].size_bytes)

    def _choose(self, size_bytes: int) -> str:
        if not self.config.auto_select_device:
            raise UsageError("this coordinator chooses no device; name one (device=...)")
        if not self._devices:
            raise UsageError("there is no device to choose from; register_device() one first")
        return choose_device(self.config, self.devices(), size_bytes, turn=self._turn)

    def _moving_to(self, device: str) -> tuple[MigrationRequest, ...]:
        return tuple(
            request
            for request in self._migrations.values()
            if request.target_device == device and self.device_of(request.kernel_id) != device
        )

    def _load(self, name: str) -> DeviceLoad:
        memory_bytes, free_bytes = self._devices[name]
        here = [placed for placed in self._routes.values() if placed.device == name]
        here += [self._routes[request.kernel_id] for request in self._moving_to(name)]
        taken_bytes = sum(placed.size_bytes for placed in here)
        return DeviceLoad(
            name=name,
            memory_bytes=memory_bytes,
            free_bytes=free_bytes - taken_bytes,
            kernel_count=len(here),
        )
