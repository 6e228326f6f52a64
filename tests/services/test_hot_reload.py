"""The reload manager over users' own kernels: new code takes over whole, or nothing changed."""

from __future__ import annotations

from typing import Any

import anyio
import attrs
import pytest

from ringflow.clock import NS_PER_S, Clock, ManualClock
from ringflow.code_source import KernelCodeSource
from ringflow.coordinator import MultiGpuCoordinator
from ringflow.device.compiler.api import CompileTarget
from ringflow.errors import (
    DisabledError,
    DuplicateKernelError,
    KernelBusyError,
    OperationFailedError,
    UnknownKernelError,
    UsageError,
)
from ringflow.events.reload import ReloadCompiled, ReloadRequested
from ringflow.hot_reload import HotReloadConfig, HotReloadManager, HotReloadRequest
from ringflow.ids import Ids
from ringflow.results import ReloadResult
from ringflow.statemachines.hot_reload import ReloadState
from tests.services.kernels import FaultyStorage, Hang, LiveAdder, code

pytestmark = pytest.mark.anyio

QUICK = HotReloadConfig(validate_before_swap=False, max_retries=0)


class Bench:
    """A kernel with some work behind it under version 1, and its manager."""

    def __init__(
        self,
        config: HotReloadConfig = QUICK,
        *,
        clock: Clock | None = None,
        coordinator: MultiGpuCoordinator | None = None,
    ) -> None:
        self.clock = ManualClock()
        self.storage = FaultyStorage()
        self.manager = HotReloadManager(
            config,
            storage=self.storage,
            coordinator=coordinator,
            clock=clock or self.clock,
            ids=Ids(1),
        )
        self.kernel = LiveAdder()
        for number in (3, 4, 11):
            self.kernel.send(number)
        self.before = self.kernel.image()
        self.manager.register_kernel("adder", code(1))

    def request(self, new: KernelCodeSource | None = None) -> HotReloadRequest:
        return self.manager.request_reload("adder", new or code(10), actor="ops", reason="test")

    async def reload(self, factor: int = 10) -> ReloadResult:
        return await self.manager.execute_reload(self.request(code(factor)), self.kernel)

    async def check_as_before(self) -> None:
        """The old code works on its own state; nothing holds the kernel or is left over."""
        assert self.kernel.image() == self.before
        assert (self.kernel.factor, self.kernel.running) == (1, True)
        assert self.manager.get_current_version("adder") == "1"
        assert not self.manager.is_reload_in_progress("adder")
        assert await self.storage.list() == ()


async def test_new_code_takes_over_the_state_and_the_waiting_messages() -> None:
    """What was sent in the pause is handled once, by the new code, on the old state."""
    bench = Bench()

    def send_in_the_pause() -> None:
        bench.kernel.send(5)
        bench.clock.advance(0.5)
        assert bench.manager.is_reload_in_progress("adder")

    bench.kernel.faults.arm("swapped", send_in_the_pause)
    result = await bench.reload()
    _, step, sums = bench.before
    sums[5] += 50
    assert bench.kernel.image() == ("a", step + 1, sums)
    assert (result.old_version, result.new_version, result.at_sequence) == ("1", "10", 4)
    assert (result.state_preserved, result.checkpoint_size) == (True, 64)
    assert (result.swap_s, result.pause_s, result.total_s) == (0.5, 0.5, 0.5)
    assert bench.manager.get_current_code("adder") == code(10)
    assert not bench.manager.is_reload_in_progress("adder")
    assert await bench.storage.list() == ()


async def test_fresh_regions_where_no_state_is_to_be_preserved() -> None:
    """With ``preserve_state`` off the new code starts from nothing and restores nothing."""
    bench = Bench(HotReloadConfig(validate_before_swap=False, preserve_state=False))
    result = await bench.reload()
    assert bench.kernel.image() == ("a", 0, [0] * 8)
    assert "restore" not in bench.kernel.faults.calls
    assert not result.state_preserved


STEPS = [
    *("drain", "checkpoint", "swap", "swapped", "restore", "restored", "resume", "resumed"),
    *("save", "saved", "load"),
]


@pytest.mark.parametrize("preserve_state", [True, False])
@pytest.mark.parametrize("step", STEPS)
async def test_a_failure_at_any_step_puts_code_and_state_back(
    step: str, preserve_state: bool
) -> None:
    """The old code then works on the state that it had; the next try succeeds."""
    if step in ("restore", "restored") and not preserve_state:
        step = "checkpoint"
    config = HotReloadConfig(
        validate_before_swap=False, max_retries=0, preserve_state=preserve_state
    )
    bench = Bench(config)
    bench.kernel.faults.fail(step)
    bench.storage.faults.fail(step)
    request = bench.request()
    with pytest.raises(OperationFailedError, match=f"{step} broke") as failed:
        await bench.manager.execute_reload(request, bench.kernel)
    assert failed.value.state == "rolled_back"
    assert (request.state, request.attempts) == (ReloadState.ROLLED_BACK, 1)
    await bench.check_as_before()
    await bench.reload()
    assert bench.manager.get_current_version("adder") == "10"
    stats = bench.manager.stats
    assert (stats.successful, stats.failed, stats.retries) == (1, 1, 0)


@pytest.mark.parametrize("cancelled", [True, False])
@pytest.mark.parametrize("step", STEPS)
async def test_a_step_that_hangs_or_is_cancelled_puts_code_and_state_back(
    step: str, cancelled: bool
) -> None:
    """The deadline of the whole reload, or the caller's cancellation, ends a step that hangs."""
    bench, hang = Bench(), Hang()
    bench.kernel.faults.arm(step, hang)
    bench.storage.faults.arm(step, hang)
    request = bench.request()

    async def reload() -> None:
        with pytest.raises(OperationFailedError, match="not done within 30 s"):
            await bench.manager.execute_reload(request, bench.kernel)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reload)
        await hang.reached.wait()
        if cancelled:
            tasks.cancel_scope.cancel()
        else:
            bench.clock.advance(30.0)
    expected = ReloadState.CANCELLED if cancelled else ReloadState.ROLLED_BACK
    assert request.state is expected
    await bench.check_as_before()


async def test_a_cancellation_while_the_new_code_starts_comes_too_late() -> None:
    """Once the new code takes messages it stays: going back would lose them."""
    bench = Bench()
    request = bench.request()
    with anyio.CancelScope() as scope:
        bench.kernel.faults.arm("resumed", scope.cancel)
        bench.kernel.faults.arm("swap", lambda: bench.kernel.send(6))
        await bench.manager.execute_reload(request, bench.kernel)
    assert request.state is ReloadState.COMPLETED
    assert bench.manager.get_current_version("adder") == "10"
    assert bench.kernel.sums[6] == bench.before[2][6] + 60


async def test_new_code_that_fails_to_start_is_drained_before_the_old_code_returns() -> None:
    """A message that comes while the old code is put back waits for it, and is handled once."""
    bench = Bench()
    bench.kernel.faults.fail("resumed")
    bench.kernel.faults.arm("swap", lambda: bench.kernel.send(5), after=1)
    with pytest.raises(OperationFailedError, match="resumed broke"):
        await bench.reload()
    device, step, sums = bench.before
    sums[5] += 5
    assert bench.kernel.image() == (device, step + 1, sums)


async def test_state_that_the_new_code_changes_is_put_back() -> None:
    """A region that both codes have must have equal digests after the swap."""
    bench = Bench()

    def lose() -> None:
        bench.kernel.sums[6] = 0

    bench.kernel.faults.arm("restored", lose)
    with pytest.raises(OperationFailedError, match="kept regions changed in the swap: sums"):
        await bench.reload()
    await bench.check_as_before()


class SkippingClock:
    """A clock on which a wait is over at once and noted, and no deadline ever comes."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self._now_ns = 0

    def now_ns(self) -> int:
        return self._now_ns + 1

    def monotonic_ns(self) -> int:
        return self._now_ns

    async def sleep(self, duration_s: float) -> None:
        self.waits.append(duration_s)
        self._now_ns += round(duration_s * NS_PER_S)

    async def sleep_until(self, deadline_ns: int) -> None:
        await anyio.sleep_forever()

    def timeout(self, duration_s: float | None) -> anyio.CancelScope:
        return anyio.CancelScope()


def retrying(**changes: Any) -> tuple[Bench, SkippingClock]:
    clock, config = SkippingClock(), HotReloadConfig(validate_before_swap=False)
    return Bench(attrs.evolve(config, **changes), clock=clock), clock


async def test_what_may_pass_is_tried_again_after_a_doubled_wait() -> None:
    """Two failures, waits of 0.5 s and 1 s, and the third attempt succeeds."""
    bench, clock = retrying()
    bench.kernel.faults.fail("drain", after=0)
    bench.kernel.faults.fail("drain", after=1)
    request = bench.request()
    await bench.manager.execute_reload(request, bench.kernel)
    assert clock.waits == [0.5, 1.0]
    assert (request.attempts, request.state) == (3, ReloadState.COMPLETED)
    assert (bench.manager.stats.retries, bench.manager.stats.failed) == (2, 0)
    begun = [event for event in request.events if isinstance(event, ReloadRequested)]
    assert len({event.operation_id for event in begun}) == 3


@pytest.mark.parametrize(
    ("changes", "attempts"), [({"max_retries": 2}, 3), ({"reload_timeout_s": 1.2}, 2)]
)
async def test_retries_end_with_their_count_and_with_the_time(
    changes: dict[str, Any], attempts: int
) -> None:
    """No attempt beyond ``max_retries``, and none that would begin after the deadline."""
    bench, _ = retrying(**changes)
    for after in range(9):
        bench.kernel.faults.fail("drain", after=after)
    request = bench.request()
    with pytest.raises(OperationFailedError, match="drain broke"):
        await bench.manager.execute_reload(request, bench.kernel)
    assert request.attempts == attempts
    await bench.check_as_before()


async def test_a_kernel_in_the_middle_of_something_is_tried_again() -> None:
    """``can_checkpoint`` refuses an attempt before the kernel is drained."""
    bench, clock = retrying(max_retries=1)
    bench.kernel.ready = False
    with pytest.raises(OperationFailedError, match="busy"):
        await bench.reload()
    assert (bench.kernel.faults.calls, clock.waits) == ([], [0.5])
    await bench.check_as_before()


async def test_where_the_way_back_fails_too_the_checkpoint_is_kept_and_named() -> None:
    """No further attempt is made on a kernel that could not be put back."""
    bench, clock = retrying()
    bench.kernel.faults.fail("swapped")
    bench.kernel.faults.fail("swap", after=1)
    with pytest.raises(OperationFailedError, match="kept as checkpoint") as failed:
        await bench.reload()
    assert failed.value.state == "failed"
    (name,) = await bench.storage.list()
    assert name in failed.value.reason
    assert clock.waits == []
    assert bench.manager.get_current_version("adder") == "1"


BROKEN = 'extern "C" __global__ void adds(float* total) { total[0] += missing; }'


@pytest.mark.parametrize(
    ("new", "match"),
    [
        (code(10, BROKEN), "missing"),
        (code(10, entry_point="other"), "other"),
        (KernelCodeSource.from_ptx(".visible .entry adds()", "other"), "other"),
    ],
)
async def test_code_that_does_not_compile_never_touches_the_kernel(
    new: KernelCodeSource, match: str
) -> None:
    """The compiler's own words are in the error; nothing is tried twice."""
    bench, clock = retrying(validate_before_swap=True)
    with pytest.raises(OperationFailedError, match=match):
        await bench.manager.execute_reload(bench.request(new), bench.kernel)
    assert (bench.kernel.faults.calls, clock.waits) == ([], [])
    await bench.check_as_before()


async def test_code_is_compiled_for_the_kernels_own_target() -> None:
    """PTX for the host is refused for a kernel on a GPU, before anything is touched."""
    bench, _ = retrying(validate_before_swap=True)
    bench.manager.register_kernel("gpu", code(1), target=CompileTarget("sm_90"))
    request = bench.manager.request_reload("gpu", KernelCodeSource.from_ptx("x", "adds"))
    with pytest.raises(OperationFailedError, match="'sm_90' does not run ptx"):
        await bench.manager.execute_reload(request, LiveAdder("gpu"))


async def test_good_code_is_compiled_and_translated_before_the_drain() -> None:
    """A reload with all checks on, through the real compiler."""
    bench, _ = retrying(validate_before_swap=True)
    request = bench.request()
    await bench.manager.execute_reload(request, bench.kernel)
    (compiled,) = [event for event in request.events if isinstance(event, ReloadCompiled)]
    assert len(compiled.code_digest) == 64
    assert compiled.code_digest != code(10).hash
    assert bench.manager.get_current_version("adder") == "10"


async def test_rollback_runs_the_version_before_on_the_present_state() -> None:
    """Versions go back one by one, and the state goes on."""
    bench = Bench()
    await bench.reload(10)
    await bench.reload(100)
    bench.kernel.send(2)
    state = bench.kernel.image()
    for factor in (10, 1):
        result = await bench.manager.rollback("adder")
        assert result.new_version == str(factor) == bench.manager.get_current_version("adder")
        assert (bench.kernel.factor, bench.kernel.image()) == (factor, state)
    with pytest.raises(UsageError, match="no earlier version"):
        await bench.manager.rollback("adder")
    assert bench.manager.stats.rollbacks == 2


async def test_a_rollback_that_fails_leaves_the_present_version() -> None:
    """The version that can be gone back to stays so."""
    bench = Bench()
    await bench.reload(10)
    state = bench.kernel.image()
    bench.kernel.faults.fail("swap", after=1)
    with pytest.raises(OperationFailedError):
        await bench.manager.rollback("adder")
    assert (bench.kernel.factor, bench.kernel.image()) == (10, state)
    await bench.manager.rollback("adder")
    assert bench.kernel.factor == 1


@pytest.mark.parametrize(("changes", "kept"), [({"history": 2}, 2), ({"keep_fallback": False}, 0)])
async def test_so_many_versions_are_kept_as_the_configuration_says(
    changes: dict[str, Any], kept: int
) -> None:
    """Older ones are forgotten; with ``keep_fallback`` off all are."""
    bench = Bench(attrs.evolve(QUICK, **changes))
    for factor in (10, 20, 30, 40):
        await bench.reload(factor)
    for _ in range(kept):
        await bench.manager.rollback("adder")
    with pytest.raises(UsageError, match="no earlier version"):
        await bench.manager.rollback("adder")


async def test_one_operation_at_a_time() -> None:
    """During a reload a second one, unregistering, and a migration are refused."""
    coordinator = MultiGpuCoordinator()
    for name in "ab":
        coordinator.register_device(name, memory_bytes=100, free_bytes=100)
    coordinator.assign_kernel("adder", device="a")
    bench = Bench(coordinator=coordinator)
    second = bench.request()
    refused = []

    async def try_others() -> None:
        with pytest.raises(KernelBusyError):
            await bench.manager.execute_reload(second, bench.kernel)
        for call in (
            bench.request,
            lambda: bench.manager.unregister_kernel("adder"),
            lambda: coordinator.request_migration("adder", "b"),
        ):
            with pytest.raises(KernelBusyError):
                call()
            refused.append(call)

    bench.kernel.faults.arm("swap", try_others)
    await bench.reload()
    assert len(refused) == 3
    with coordinator.lease("adder", "other"), pytest.raises(KernelBusyError, match="other"):
        await bench.reload(20)
    assert bench.manager.get_current_version("adder") == "10"
    await bench.manager.execute_reload(second, bench.kernel)


async def test_what_can_not_be_is_refused_and_changes_nothing() -> None:
    """Unknown and double kernels, used requests, a manager that is off, a bad configuration."""
    bench = Bench()
    with pytest.raises(UnknownKernelError, match="known kernels: adder"):
        bench.manager.request_reload("other", code(2))
    with pytest.raises(DuplicateKernelError):
        bench.manager.register_kernel("adder", code(2))
    request = bench.request()
    await bench.manager.execute_reload(request, bench.kernel)
    with pytest.raises(UsageError, match="carried out before"):
        await bench.manager.execute_reload(request, bench.kernel)
    off = HotReloadManager(HotReloadConfig(enabled=False))
    off.register_kernel("adder", code(1))
    assert not off.is_enabled
    with pytest.raises(DisabledError):
        off.request_reload("adder", code(2))
    with pytest.raises(DisabledError):
        await off.execute_reload(bench.request(), bench.kernel)
    with pytest.raises(UsageError, match="history"):
        HotReloadConfig(history=0)


def test_registered_kernels_are_listed_until_they_go() -> None:
    """Versions of kernels that are not registered are None, never a guess."""
    manager = HotReloadManager.with_defaults()
    assert manager.config == HotReloadConfig()
    manager.register_kernel("adder", code(1))
    assert (manager.list_kernels(), manager.is_registered("adder")) == (("adder",), True)
    manager.unregister_kernel("adder")
    assert (manager.list_kernels(), manager.is_registered("adder")) == ((), False)
    assert (manager.get_current_version("adder"), manager.get_current_code("adder")) == (None, None)


class Hosted:
    """A kernel whose host reloads it, as an engine does."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.asked: list[tuple[str, str, str]] = []

    async def reload_to(self, code: KernelCodeSource, *, actor: str, reason: str) -> ReloadResult:
        self.asked.append((code.version_id, actor, reason))
        if self.fails:
            raise OperationFailedError("op", "rolled_back", "probation failed")
        return ReloadResult(
            operation_id="op",
            kernel_id="adder",
            old_version="1",
            new_version=code.version_id,
            at_sequence=4,
            state_bytes=64,
            pause_s=0.0,
            parked_count=0,
            digests={},
            step_s={},
        )


async def test_an_engines_kernel_is_reloaded_by_its_engine() -> None:
    """The version follows its result, and so does a rollback."""
    bench, hosted = Bench(), Hosted()
    await bench.manager.execute_reload(bench.request(), hosted)
    assert bench.manager.get_current_version("adder") == "10"
    await bench.manager.rollback("adder")
    assert hosted.asked == [("10", "ops", "test"), ("1", "", "rollback")]
    assert bench.manager.get_current_version("adder") == "1"


async def test_an_engine_that_rolled_back_leaves_the_version() -> None:
    """And one is not asked to forget state that it always keeps."""
    bench = Bench()
    with pytest.raises(OperationFailedError, match="probation"):
        await bench.manager.execute_reload(bench.request(), Hosted(fails=True))
    assert bench.manager.get_current_version("adder") == "1"
    fresh, hosted = Bench(attrs.evolve(QUICK, preserve_state=False)), Hosted()
    with pytest.raises(UsageError, match="preserve_state"):
        await fresh.manager.execute_reload(fresh.request(), hosted)
    assert hosted.asked == []
