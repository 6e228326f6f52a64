"""The migrator over users' own kernels: every step real, every failure leaves all as it was."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest

from ringflow.clock import ManualClock
from ringflow.coordinator import MigrationRequest, MultiGpuCoordinator
from ringflow.errors import KernelBusyError, OperationFailedError, UsageError
from ringflow.events.migration import MigrationRerouted, MigrationStepFailed
from ringflow.ids import Ids
from ringflow.migration import KernelMigrator
from ringflow.results import MigrationResult
from ringflow.statemachines.migration import MigrationState
from ringflow.storage import MemoryStorage
from tests.services.kernels import Adder, FaultyStorage, Hang, LiveAdder

pytestmark = pytest.mark.anyio


class Bench:
    """A kernel with some work behind it on device ``a``, and all that moves it to ``b``."""

    def __init__(self, kernel: Adder | None = None) -> None:
        self.clock = ManualClock()
        self.coordinator = MultiGpuCoordinator(clock=self.clock, ids=Ids(1))
        for name in "ab":
            self.coordinator.register_device(name, memory_bytes=1000, free_bytes=1000)
        self.storage = FaultyStorage()
        self.migrator = KernelMigrator(self.coordinator, self.storage, step_timeout_s=5.0)
        self.kernel = LiveAdder() if kernel is None else kernel
        self.coordinator.assign_kernel("adder", device="a", size_bytes=64)
        if isinstance(self.kernel, LiveAdder):
            for number in (3, 4, 11):
                self.kernel.send(number)
        self.before = self.kernel.image()

    def request(self) -> MigrationRequest:
        return self.coordinator.request_migration("adder", "b", actor="ops", reason="test")

    async def migrate(self) -> MigrationResult:
        return await self.migrator.migrate_with_checkpoint(self.kernel, self.request())

    async def check_as_before(self) -> None:
        """The kernel works on the source, with its state; nothing holds it or is left over."""
        assert self.kernel.image() == self.before
        assert self.coordinator.device_of("adder") == "a"
        assert self.coordinator.lease_of("adder") is None
        assert await self.storage.list() == ()
        if isinstance(self.kernel, LiveAdder):
            assert self.kernel.running


async def test_a_live_kernel_moves_with_its_state_and_its_waiting_messages() -> None:
    """State lies on the target, messages sent in the pause are applied once, all is told."""
    bench = Bench()
    kernel = bench.kernel
    assert isinstance(kernel, LiveAdder)

    def send_in_the_pause() -> None:
        kernel.send(5)
        bench.clock.advance(0.25)

    bench.storage.faults.arm("saved", send_in_the_pause)
    result = await bench.migrate()
    assert kernel.device == "b"
    assert list(kernel.memory) == ["b"]
    _, step, sums = bench.before
    sums[5] += 5
    assert kernel.image() == ("b", step + 1, sums)
    assert bench.coordinator.device_of("adder") == "b"
    assert kernel.faults.calls.count("resume") == 1
    assert (result.source_device, result.target_device, result.path) == ("a", "b", "storage")
    assert (result.checkpoint_size, result.transfer_s, result.pause_s) == (64, 0.25, 0.25)
    assert set(result.digests) == {"sums"}
    assert await bench.storage.list() == ()


async def test_a_plain_kernel_is_restored_from_the_storage() -> None:
    """An object that only checkpoints keeps its state; the table says the target."""
    bench = Bench(Adder())
    await bench.migrate()
    assert bench.kernel.image() == bench.before
    assert bench.kernel.faults.calls == ["checkpoint", "restore", "restored", "checkpoint"]
    assert bench.coordinator.device_of("adder") == "b"


async def test_state_moves_into_another_object() -> None:
    """With ``target`` the source stays quiesced and the other object takes messages."""
    bench, target = Bench(), LiveAdder(device="b")
    target.running = False
    await bench.migrator.migrate_with_checkpoint(bench.kernel, bench.request(), target=target)
    assert target.image() == ("b", *bench.before[1:])
    assert target.running
    assert isinstance(bench.kernel, LiveAdder)
    assert not bench.kernel.running


STEPS = ["quiesce", "checkpoint", "place", "restore", "restored", "save", "saved", "load"]


@pytest.mark.parametrize("step", STEPS)
async def test_a_failure_at_any_step_leaves_the_kernel_where_it_was(step: str) -> None:
    """What raises is told with the step; the kernel then works on the source as before."""
    bench = Bench()
    bench.kernel.faults.fail(step)
    bench.storage.faults.fail(step)
    request = bench.request()
    with pytest.raises(OperationFailedError, match=f"{step} broke") as failed:
        await bench.migrator.migrate_with_checkpoint(bench.kernel, request)
    assert failed.value.state == "rolled_back"
    assert request.state is MigrationState.ROLLED_BACK
    await bench.check_as_before()
    assert (bench.migrator.stats.successful, bench.migrator.stats.failed) == (0, 1)
    await bench.migrate()
    assert bench.coordinator.device_of("adder") == "b"


@pytest.mark.parametrize("step", STEPS)
async def test_a_step_that_hangs_is_ended_by_its_deadline(step: str) -> None:
    """After ``step_timeout_s`` of the clock the step has failed and the kernel works on."""
    bench, hang = Bench(), Hang()
    bench.kernel.faults.arm(step, hang)
    bench.storage.faults.arm(step, hang)

    async def migrate() -> None:
        with pytest.raises(OperationFailedError, match="not done within 5 s"):
            await bench.migrate()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(migrate)
        await hang.reached.wait()
        bench.clock.advance(5.0)
    await bench.check_as_before()


@pytest.mark.parametrize("step", STEPS)
async def test_a_cancelled_caller_waits_for_the_way_back(step: str) -> None:
    """Before the commit point a cancellation leaves the kernel working on the source."""
    bench, hang = Bench(), Hang()
    bench.kernel.faults.arm(step, hang)
    bench.storage.faults.arm(step, hang)
    request = bench.request()
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bench.migrator.migrate_with_checkpoint, bench.kernel, request)
            await hang.reached.wait()
            scope.cancel()
    assert scope.cancelled_caught
    assert request.state is MigrationState.CANCELLED
    await bench.check_as_before()


async def test_after_the_commit_point_a_cancellation_comes_too_late() -> None:
    """Cancelled while the target is resumed, the migration is completed all the same."""
    bench = Bench()
    request = bench.request()
    with anyio.CancelScope() as scope:
        bench.kernel.faults.arm("resume", scope.cancel)
        await bench.migrator.migrate_with_checkpoint(bench.kernel, request)
    assert request.state is MigrationState.COMPLETED
    assert bench.kernel.image() == ("b", *bench.before[1:])
    assert bench.coordinator.device_of("adder") == "b"
    assert bench.coordinator.lease_of("adder") is None
    assert await bench.storage.list() == ()


async def test_wrong_state_on_the_target_is_never_routed_to() -> None:
    """A restore that loses a value is found by its digest, and undone."""
    bench = Bench()

    def lose() -> None:
        bench.kernel.sums[6] = 0

    bench.kernel.faults.arm("restored", lose)
    request = bench.request()
    with pytest.raises(OperationFailedError, match="differs from the source's in sums"):
        await bench.migrator.migrate_with_checkpoint(bench.kernel, request)
    assert not any(isinstance(event, MigrationRerouted) for event in request.events)
    await bench.check_as_before()


async def test_a_wrong_step_on_the_target_is_never_routed_to() -> None:
    """A restore that forgets how far the state is would apply messages twice."""
    bench = Bench()

    def forget() -> None:
        bench.kernel.step = 1

    bench.kernel.faults.arm("restored", forget)
    with pytest.raises(OperationFailedError, match="at step 1, it was taken at 3"):
        await bench.migrate()
    await bench.check_as_before()


async def test_a_storage_that_gives_back_another_state_is_found_out() -> None:
    """What was loaded must be what was saved, before anything is placed."""
    bench = Bench()
    other = await LiveAdder().checkpoint()

    async def replace() -> None:
        name = (await bench.storage.list())[0]
        await MemoryStorage.save(bench.storage, other, name)

    bench.storage.faults.arm("saved", replace)
    with pytest.raises(OperationFailedError, match="another state than it was given"):
        await bench.migrate()
    assert "place" not in bench.kernel.faults.calls
    await bench.check_as_before()


async def test_another_kernel_than_the_requests_is_refused() -> None:
    """The table never flips for a kernel that did not move."""
    bench = Bench()
    with pytest.raises(OperationFailedError, match="'other''s, not 'adder''s"):
        await bench.migrator.migrate_with_checkpoint(LiveAdder("other"), bench.request())
    await bench.check_as_before()


async def test_a_kernel_in_the_middle_of_something_is_left_alone() -> None:
    """``can_checkpoint`` is asked before the kernel is quiesced."""
    bench = Bench()
    bench.kernel.ready = False
    with pytest.raises(OperationFailedError, match="busy"):
        await bench.migrate()
    assert bench.kernel.faults.calls == []
    await bench.check_as_before()


async def test_a_kernel_migrates_once_at_a_time() -> None:
    """A second migration under way is refused and disturbs nothing."""
    bench = Bench()
    second = bench.request()
    refused: list[str] = []

    async def try_second() -> None:
        with pytest.raises(KernelBusyError) as busy:
            await bench.migrator.migrate_with_checkpoint(bench.kernel, second)
        refused.append(busy.value.operation_id)

    bench.storage.faults.arm("saved", try_second)
    result = await bench.migrate()
    assert refused == [result.operation_id]
    with pytest.raises(UsageError, match="ask again"):
        await bench.migrator.migrate_with_checkpoint(bench.kernel, second)
    assert bench.migrator.stats.successful == 1


async def test_where_the_way_back_fails_too_the_checkpoint_is_kept_and_named() -> None:
    """Nobody is told that the kernel works; its state can be loaded by the name in the error."""
    bench = Bench()
    expected = bench.kernel.sums.copy()
    bench.kernel.faults.fail("restored")
    bench.kernel.faults.fail("restore", after=1)
    with pytest.raises(OperationFailedError, match="kept as checkpoint") as failed:
        await bench.migrate()
    assert failed.value.state == "failed"
    assert "restored broke" in failed.value.reason
    assert "restore broke" in failed.value.reason
    (name,) = await bench.storage.list()
    assert name in failed.value.reason
    region = (await bench.storage.load(name)).get_device_memory("sums")
    assert region is not None
    assert (region.numpy() == expected).all()
    assert bench.coordinator.lease_of("adder") is None


async def test_a_target_that_can_not_be_resumed_is_told_but_not_undone() -> None:
    """After the commit point the kernel is on the target, and the error says what to do."""
    bench = Bench()
    bench.kernel.faults.fail("resume")
    with pytest.raises(OperationFailedError, match="not resumed there") as failed:
        await bench.migrate()
    assert failed.value.state == "completed"
    assert bench.coordinator.device_of("adder") == "b"
    assert len(await bench.storage.list()) == 1


async def test_a_checkpoint_left_over_fails_no_migration() -> None:
    """The result tells that something was left behind, and why."""
    bench = Bench()
    bench.storage.faults.fail("delete")
    result = await bench.migrate()
    assert "delete broke" in result.retire_failure
    assert bench.coordinator.device_of("adder") == "b"


async def test_statistics_and_estimates_follow_from_what_was_done() -> None:
    """Averages and the next request's estimate come from the measured steps."""
    bench = Bench()
    bench.storage.faults.arm("saved", lambda: bench.clock.advance(0.5))
    bench.kernel.faults.arm("restored", lambda: bench.clock.advance(0.25))
    await bench.migrate()
    stats = bench.migrator.stats
    assert (stats.successful, stats.failed, stats.bytes_transferred) == (1, 0, 64)
    assert stats.average_restore_s == 0.25
    back = bench.coordinator.request_migration("adder", "a")
    await bench.migrator.migrate_with_checkpoint(bench.kernel, back)
    assert bench.migrator.stats.average_restore_s == 0.125
    again = bench.request()
    assert again.estimated_bandwidth == 128.0
    assert again.estimate_transfer_time(256) == 2.0


async def test_events_tell_the_story_in_order() -> None:
    """The request holds the machine's events, the failed step among them."""
    bench = Bench()
    bench.storage.faults.fail("load")
    request = bench.request()
    with pytest.raises(OperationFailedError):
        await bench.migrator.migrate_with_checkpoint(bench.kernel, request)
    assert [event.wire_name.split(".")[1] for event in request.events] == [
        *("requested", "preparation_started", "target_prepared", "source_quiesced"),
        *("checkpointed", "step_failed", "rolled_back"),
    ]
    failed = request.events[-2]
    assert isinstance(failed, MigrationStepFailed)
    assert (failed.step, failed.reason) == ("TransferState", "OSError: load broke")


class Hosted:
    """A kernel whose host migrates it, as an engine does."""

    def __init__(self, to: str | None = None) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self.to = to
        self.before_return: Callable[[], object] = list

    async def migrate_to(self, device: str, *, actor: str, reason: str) -> MigrationResult:
        self.asked.append((device, actor, reason))
        if self.to is None:
            raise OperationFailedError("op", "rolled_back", "no room")
        self.before_return()
        await anyio.lowlevel.checkpoint()
        return MigrationResult(
            operation_id="op",
            kernel_id="adder",
            source_device="a",
            target_device=self.to,
            state_bytes=64,
            pause_s=0.0,
            parked_count=0,
            path="peer",
            digests={},
            step_s={"TransferState": 0.5},
        )


async def test_an_engines_kernel_is_migrated_by_its_engine() -> None:
    """The table follows its result; a failure leaves the table alone."""
    bench, hosted = Bench(), Hosted("b")
    result = await bench.migrator.migrate_with_checkpoint(hosted, bench.request())
    assert result.path == "peer"
    assert hosted.asked == [("b", "ops", "test")]
    assert bench.coordinator.device_of("adder") == "b"
    assert bench.kernel.faults.calls == []


@pytest.mark.parametrize("to", [None, "c"])
async def test_an_engine_that_did_not_do_it_changes_no_table(to: str | None) -> None:
    """Neither a failure nor a result for another device reroutes anything."""
    bench = Bench()
    with pytest.raises(OperationFailedError):
        await bench.migrator.migrate_with_checkpoint(Hosted(to), bench.request())
    await bench.check_as_before()


async def test_a_cancellation_can_not_part_the_table_from_the_engine() -> None:
    """Cancelled while the engine works, the table still follows what the engine did."""
    bench, hosted = Bench(), Hosted("b")
    with anyio.CancelScope() as scope:
        hosted.before_return = scope.cancel
        await bench.migrator.migrate_with_checkpoint(hosted, bench.request())
    assert bench.coordinator.device_of("adder") == "b"
