"""Opening an engine's folder, recovering it, serving it, closing it in order.

- Whatever ends the engine, no grid outlives it and the journal is closed last.
- Closing quiesces every kernel and commits a last recovery point, so that a reopening is short.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import anyio

from ringflow.clock import Clock, SystemClock
from ringflow.device.api import Device
from ringflow.device.compiler.cache import CompileCache
from ringflow.device.pump import Pump, PumpReport
from ringflow.device.registry import open_device
from ringflow.engine import launching, requests
from ringflow.engine.core import JOURNAL_FAILED, RECOVERY, Core
from ringflow.engine.devices import noting_pauses
from ringflow.engine.engine import Engine
from ringflow.engine.folder import check_has_journal, set_aside
from ringflow.engine.folding import Fold, code_identity
from ringflow.engine.periodic import Checkpointer
from ringflow.engine.pumping import pump_server
from ringflow.engine.quiescing import quiesce
from ringflow.engine.recovery import announce_lost, orphans, recover
from ringflow.engine.routing import closing_marks
from ringflow.engine.runtime import KernelRuntime
from ringflow.engine.state_snapshots import StateSnapshots, keep_snapshots
from ringflow.errors import DeviceError, RingflowError, StorageError, UsageError
from ringflow.events.codec import Event
from ringflow.events.engine import EngineClosed, EngineOpened, TornTailCut
from ringflow.events.payloads import PayloadCodec
from ringflow.events.registry import default_codec
from ringflow.files import FileSystem, SystemFiles
from ringflow.ids import Ids
from ringflow.journal.api import JournalLimits
from ringflow.journal.opening import open_journal
from ringflow.limits import EngineLimits
from ringflow.storage import FileStorage, ObjectStore
from ringflow.storage.api import CHECKPOINT_FOLDER, CHECKPOINT_SUFFIX
from ringflow.storage.folders import remove_leftovers
from ringflow.version import __version__
from ringflow.workers import in_thread

_DEATHS_TOLD: Final = 2
_log: Final = logging.getLogger("ringflow")


@asynccontextmanager
async def open_engine(
    folder: Path | str,
    *,
    devices: Sequence[str | Device] = ("host:0",),
    limits: EngineLimits | None = None,
    journal_limits: JournalLimits | None = None,
    files: FileSystem | None = None,
    clock: Clock | None = None,
    ids: Ids | None = None,
    compile_cache: CompileCache | None = None,
    payload_codec: PayloadCodec | None = None,
) -> AsyncIterator[Engine]:
    """Open a folder and yield its engine, with every kernel at work that was when it ended.

    Args:
        devices: names such as ``"host:0"``, or open devices, which stay open.
        ids: a seeded source makes ids repeatable.
        compile_cache: where compiled code is kept; the user's cache folder if None.
        payload_codec: encrypts payloads in the journal, or leaves them out of it.
    Raises:
        FolderInUseError: another process has the folder open.
        NotFoundError: it has checkpoints or objects and no journal; nothing was changed.
        CorruptJournalError: a durable part of the journal is damaged; nothing was changed.
        UnknownDeviceError: a device's name is none.
    """
    _check_kind("limits", limits, EngineLimits)
    _check_kind("journal_limits", journal_limits, JournalLimits)
    root, clock, files = Path(folder), clock or SystemClock(), files or SystemFiles()
    opened, owned = await _open_devices(devices)
    failure: Exception | None = None
    try:
        check_has_journal(files, root)
        codec = default_codec()
        snapshots = StateSnapshots(files, root)
        fold = Fold(codec, snapshots.load())
        async with open_journal(
            root,
            files=files,
            clock=clock,
            limits=journal_limits,
            replay=fold,
            payload_codec=payload_codec,
        ) as journal:
            native_pump = await in_thread(Pump)
            async with anyio.create_task_group() as tasks:
                core = Core(
                    folder=root,
                    files=files,
                    journal=journal,
                    clock=clock,
                    ids=ids or Ids(),
                    state=fold.state,
                    devices=opened,
                    checkpoints=FileStorage(root / CHECKPOINT_FOLDER, files=files),
                    objects=ObjectStore(root / "objects", files=files),
                    cache=compile_cache or CompileCache.default(),
                    pump=native_pump,
                    limits=limits or EngineLimits(),
                    tasks=tasks,
                )
                keeper = partial(keep_snapshots, core, snapshots, codec, newest=fold.begun_at)
                tasks.start_soon(keeper)
                try:
                    async with _serving(core):
                        yield Engine(core)
                except Exception as error:  # raised below as it is, not wrapped in a group
                    failure = error
                tasks.cancel_scope.cancel()
    finally:
        left_open = await _close_devices(owned)
    if (first := failure or left_open) is not None:
        raise first


@asynccontextmanager
async def _serving(core: Core) -> AsyncIterator[None]:
    """Recover what the folder holds, serve it for the block, and close in order."""
    for name, suffix in ((CHECKPOINT_FOLDER, CHECKPOINT_SUFFIX), ("objects", "")):
        await core.in_thread(partial(remove_leftovers, core.files, core.folder / name, suffix))
    checkpointer = Checkpointer(core)
    core.lease_ended = partial(_after_lease, core, checkpointer)
    core.withheld.on_change(core.deliver)
    on_report = partial(_on_report, core, checkpointer)
    pump = pump_server(core.pump, tuple(core.devices.values()), on_report)
    core.tasks.start_soon(pump.run)
    core.tasks.start_soon(core.starter.run, core.tasks)
    core.tasks.start_soon(core.deadlines.run)
    core.tasks.start_soon(_watch_journal, core, core.journal.failed)
    with noting_pauses(core):
        try:
            _warn_of_deaths(core)
            if core.state.repaired:
                await set_aside(core, await orphans(core))
            # Before any kernel works: what a crash costs it is told by who finds this opening.
            await core.journal.until_durable(core.record("engine", _opened(core)))
            await recover(core)
            yield
        finally:
            with anyio.CancelScope(shield=True):
                try:
                    await _close(core)
                finally:
                    pump.close()


def _check_kind(name: str, given: object, kind: type) -> None:
    if given is not None and not isinstance(given, kind):
        raise UsageError(f"{name} is {given!r}; give a ringflow.{kind.__name__}(...)")


async def _open_devices(given: Sequence[str | Device]) -> tuple[dict[str, Device], list[Device]]:
    """Return all devices by name, and those that were opened here; none of them if it raises."""
    if isinstance(given, str):
        raise UsageError(f"devices are a list; give [{given!r}]")
    names = [one if isinstance(one, str) else one.name for one in given]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"device {name!r} is named twice; name each once")
    opened: dict[str, Device] = {}
    owned: list[Device] = []
    try:
        for name, one in zip(names, given, strict=True):
            if isinstance(one, str):
                owned.append(await in_thread(partial(open_device, one)))
            opened[name] = owned[-1] if isinstance(one, str) else one
    except BaseException:
        await _close_devices(owned)
        raise
    return opened, owned


async def _close_devices(owned: Sequence[Device]) -> DeviceError | None:
    """Close each device; return the first error, which keeps no other one open."""
    failure: DeviceError | None = None
    with anyio.CancelScope(shield=True):
        for device in owned:
            try:
                await in_thread(device.close)
            except DeviceError as error:
                failure = failure or error
    return failure


def _warn_of_deaths(core: Core) -> None:
    """Say that engines died one after the other: this one may before anybody asks it.

    Those of simulated worlds die because somebody wants them to.
    """
    died = core.state.fruitless
    if died >= _DEATHS_TOLD and isinstance(core.files, SystemFiles):
        _log.warning(
            "the last %d engines of %r died before any kernel got on; if a kernel of a host device "
            "kills the process, open the folder with RINGFLOW_HOST_MEMCHECK=1 (docs/memcheck.md): "
            "its message then halts it, and engine.resume(kernel, 'skip') leaves that out",
            died,
            str(core.folder),
        )


def _opened(core: Core) -> list[Event]:
    digest = code_identity()["tables"]
    torn = [
        TornTailCut(segment=tail.segment, cut_bytes=tail.size_bytes, backup=tail.backup)
        for tail in core.journal.report.torn
    ]
    return [
        *torn,
        EngineOpened(version=__version__, devices=tuple(core.devices), tables_digest=digest),
    ]


def _on_report(core: Core, checkpointer: Checkpointer, report: PumpReport) -> None:
    """Bring a kernel's news to its runtime; a key that nobody has any more is old news."""
    for runtime in core.runtimes.values():
        if runtime.pump_key == report.key:
            runtime.on_report(report)
            if runtime.trapped or runtime.gone:
                requests.recover_if_ended(core, runtime)
            else:
                checkpointer.consider(runtime)
            return


def _after_lease(core: Core, checkpointer: Checkpointer, kernel_id: str) -> None:
    """What waited for the kernel's lease: recovery from a trap, a checkpoint that is due."""
    if (runtime := core.runtimes.get(kernel_id)) is not None and not core.closing:
        requests.recover_if_ended(core, runtime)
        checkpointer.consider(runtime)


async def _watch_journal(core: Core, failed: anyio.Event) -> None:
    """Close the engine when its journal has failed: what was evolved ahead is never seen."""
    await failed.wait()
    core.closed = JOURNAL_FAILED
    for runtime in tuple(core.runtimes.values()):
        runtime.end(halted="the journal failed")


async def _close(core: Core) -> None:
    core.closing = True
    for operation in tuple(core.running.values()):
        await operation.cancel()
    for scope in tuple(core.works):
        scope.cancel()
    await core.rested.until(lambda: not core.works and RECOVERY not in core.busy.values())
    ends = [await _rest(core, runtime) for runtime in tuple(core.runtimes.values())]
    await _record_closing(core)
    for left in filter(None, ends):  # their grids live on: whoever leaves the block has to know
        raise left


async def _record_closing(core: Core) -> None:
    if core.closed:
        return
    try:
        await core.journal.until_durable(
            core.record("engine", [*closing_marks(core), EngineClosed()])
        )
    except StorageError:  # found out by the last record, or a moment before: that is no difference
        core.closed = JOURNAL_FAILED
    else:
        core.closed = "its block was left"


async def _rest(core: Core, runtime: KernelRuntime) -> DeviceError | None:
    """Quiesce a kernel and commit its state; if that fails, its journal still has everything.

    Returns why its grid lives on, if it does.
    """
    if not core.closed and not runtime.halted and not runtime.trapped:
        try:
            applied = await quiesce(core, runtime, purpose="close")
            await launching.commit_resting(core, runtime, applied, reason="close")
        except RingflowError:
            pass  # the older recovery point and the messages are what a restart uses
    if points := core.state.kernels[runtime.kernel_id].recovery_points:
        applied, why = points[-1].applied_sequence, "the engine was closed"
        announce_lost(core, runtime, applied_sequence=applied, why=why)
    return await launching.dismantle(core, runtime)
