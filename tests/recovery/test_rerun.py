"""Reruns: an exact kernel comes to the next recovery point again; one that is not, does not."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

import ringflow
from ringflow.cli import main
from ringflow.device.abi import BATCH_SLOTS, Command
from ringflow.device.api import LaunchStatus
from ringflow.device.posting import Posting
from ringflow.engine.instances import Instance
from ringflow.engine.rerun import rerun_kernel
from ringflow.engine.rerun_run import Run
from ringflow.limits import EngineLimits
from tests.device.doubles import ParkingDevice
from tests.device.kernels import compiled, resident
from tests.engine.kernels import MESSAGES, Add, adder, code
from tests.engine.story import send_all, state_of

pytestmark = pytest.mark.anyio

LIMITS = EngineLimits(recovery_points_kept=100)


def changed(old: str, new: str) -> ringflow.KernelCodeSource:
    """Return the adder's code with a piece replaced."""
    source = code().text
    assert old in source
    return ringflow.KernelCodeSource.from_cuda(source.replace(old, new, 1), "adder")


async def live(folder: Path, spec: ringflow.KernelSpec) -> None:
    """Make three recovery points, with ten messages before each, and more at the end."""
    async with ringflow.open_engine(folder, devices=["host:0"], limits=LIMITS) as engine:
        kernel = await engine.launch(spec, device="host:0")
        async with kernel.replies(consumer="nobody acknowledges"):
            pass
        for number in range(3):
            await send_all(kernel, range(number * 10, number * 10 + 9))
            await (await kernel.send(Add(7))).done()  # all ten are in the checkpoint
            await engine.checkpoint(spec.kernel_id, name=f"point-{number}")
        await (await kernel.send(Add(5))).done()


async def test_an_exact_kernel_comes_to_the_same_memory_again(folder: Path) -> None:
    """From each recovery point to the next, launch and close included."""
    await live(folder, adder())
    report = await rerun_kernel(folder, "adder")
    assert report.equal
    assert not [span.skipped for span in report.spans if span.skipped]
    assert sum(span.messages for span in report.spans) == 31
    assert sum(span.outputs for span in report.spans) == 31
    assert report.spans[0].start.startswith("adder@launch-")
    assert report.spans[0].end == "adder@point-0"


@ringflow.message(1)
class Raw:
    """Any bytes; the code reads two words."""


async def test_what_code_reads_behind_a_payload_is_the_same_again(folder: Path) -> None:
    """Zeros, also where an earlier message had bytes that a rerun from a later point never gets."""
    source = code().text.replace("Add::id", "Raw::id")
    second = "static_cast<const unsigned long long*>(m.data)[1]"
    spec = adder(
        code=ringflow.KernelCodeSource.from_cuda(
            source.replace("m.as<Add>().value", second), "adder"
        ),
        messages=(Raw, *MESSAGES[1:]),
    )
    async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
        kernel = await engine.launch(spec, device="host:0")
        for _ in range(BATCH_SLOTS):
            await (await kernel.send(1, bytes([1] * 16))).done()
        await engine.checkpoint("adder", name="point")
        for _ in range(BATCH_SLOTS):
            await (await kernel.send(1, bytes(8))).done()
        assert (await state_of(kernel))[1] == BATCH_SLOTS * int.from_bytes(bytes([1] * 8), "little")
    report = await rerun_kernel(folder, "adder")
    assert report.equal
    assert sum(span.messages for span in report.spans) == 2 * BATCH_SLOTS + 1


async def test_the_code_changes_where_a_reload_changed_it(folder: Path) -> None:
    """With the code of its first recovery point alone the sums would differ."""
    async with ringflow.open_engine(folder, devices=["host:0"], limits=LIMITS) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        await send_all(kernel, range(10))
        operation = await engine.start_reload(
            "adder", code("adder_double"), at_sequence=16, probation_messages=7
        )
        await send_all(kernel, range(30))
        await operation.result()
    report = await rerun_kernel(folder, "adder")
    assert report.equal
    assert not [span.skipped for span in report.spans if span.skipped]
    assert report.spans[0].messages >= 22
    assert report.spans[0].end.startswith("adder@reload-")


async def test_a_kernel_that_reads_a_clock_is_not_exact(folder: Path) -> None:
    """Region, block and byte are named."""
    clocked = changed("state[2] += 1;", "state[2] += 1; state[3] = clock64();")
    await live(folder, adder(code=clocked))
    report = await rerun_kernel(folder, "adder")
    assert not report.equal
    assert "region 'state', block 0, from byte 2" in report.spans[0].difference
    assert "at 24 the checkpoint has" in report.spans[0].difference


async def test_the_block_that_differs_is_named(folder: Path) -> None:
    """Not only the region: one float in its second block."""
    wild = changed("state[2] += 1;", "state[2] += 1; cells[20000] = (float)(clock64() & 65535);")
    regions = (
        ringflow.Region("state", dtype="uint64", shape=(4,)),
        ringflow.Region("cells", dtype="float32", shape=(40_000,)),
    )
    await live(folder, adder(code=wild, regions=regions))
    report = await rerun_kernel(folder, "adder")
    assert "region 'cells', block 1, from byte 800" in report.spans[0].difference


async def test_replies_that_differ_are_found_where_the_state_does_not(folder: Path) -> None:
    """The outbox of the later checkpoint holds what nobody acknowledged."""
    clocked = changed("self.reply(m, state[0]);", "self.reply(m, clock64());")
    await live(folder, adder(code=clocked))
    report = await rerun_kernel(folder, "adder")
    assert "output 0 of message 1: the checkpoint's outbox has" in report.spans[0].difference


async def test_what_messages_do_not_lead_over_is_named(folder: Path) -> None:
    """An explicit restore, and a reload that converts."""
    async with ringflow.open_engine(folder, devices=["host:0"], limits=LIMITS) as engine:
        kernel = await engine.launch(adder(), device="host:0")
        first = await kernel.checkpoint()
        await send_all(kernel, range(10))
        await kernel.restore(first)
        await send_all(kernel, range(10))
        wide = (*adder().regions, ringflow.Region("history", dtype="uint64", shape=(8,)))
        await engine.reload(
            "adder", code("adder_wide"), regions=wide, convert="widen", probation_messages=0
        )
        await send_all(kernel, range(3))
    report = await rerun_kernel(folder, "adder")
    skipped = [span.skipped for span in report.spans]
    assert "restore()" in skipped[0]
    assert "'adder_wide' converted regions" in skipped[1]
    assert skipped[2:] == [""]
    assert report.equal


async def test_a_missing_checkpoint_skips_its_spans(folder: Path) -> None:
    """A file that is gone is no difference, and is named."""
    await live(folder, adder())
    (folder / "checkpoints" / "adder@point-1.rkcp").unlink()
    report = await rerun_kernel(folder, "adder")
    assert [bool(span.skipped) for span in report.spans] == [False, True, True, False]
    assert "adder@point-1" in report.spans[1].skipped


async def test_only_exact_kernels_are_run_again(folder: Path) -> None:
    """For others a replay may give other values, and no kernel is no kernel."""
    await live(folder, adder(replay="checkpoint", release="at_once"))
    with pytest.raises(ringflow.UsageError, match="only an exact kernel"):
        await rerun_kernel(folder, "adder")
    with pytest.raises(ringflow.UnknownKernelError):
        await rerun_kernel(folder, "other")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_command_runs_a_kernel_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 0 and a line a span; 1 where one differs."""
    clocked = changed("state[2] += 1;", "state[2] += 1; state[3] = clock64();")
    await live(folder / "exact", adder())
    await live(folder / "clocked", adder(code=clocked))

    def command(name: str) -> int:
        monkeypatch.setattr(
            "sys.argv", ["ringflow", "replay", str(folder / name), "--kernel", "adder"]
        )
        with pytest.raises(SystemExit) as raised:
            main()
        return int(raised.value.code or 0)

    assert await anyio.to_thread.run_sync(command, "exact") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all(line.endswith("equal in every region") for line in lines)
    assert await anyio.to_thread.run_sync(command, "clocked") == 1
    assert "DIFFERS" in capsys.readouterr().out


def test_a_rerun_beside_a_load_is_done_when_its_grid_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parked in the moment in which it is to return the grid looks as if it had, and goes on."""
    device = ParkingDevice("host:8")
    kernel = resident(device, "counter")
    instance = Instance(device, kernel.spec, compiled("counter"), kernel.code, kernel)
    command, launch = kernel.command, device.launch
    goes_on, done = threading.Event(), threading.Event()
    early: list[bool] = []

    def launch_late(*given: Any, **options: Any) -> Any:
        goes_on.set()
        early.append(done.wait(0.3))
        return launch(*given, **options)

    def command_beside(given: Command) -> int:
        monkeypatch.setattr(device, "launch", launch_late)
        load.start()
        assert goes_on.wait(30)
        return command(given)

    load = threading.Thread(target=lambda: device.load(compiled("echo")))
    monkeypatch.setattr(kernel, "command", command_beside)
    run = Run(timeout_s=30)
    run.begin(0, output_index=0)
    run.through(instance, [Posting(1, 1, (5).to_bytes(8, "little"))], 1)
    done.set()
    load.join()
    assert early == [False]
    assert kernel.status is LaunchStatus.COMPLETED
    kernel.close()
    device.close()


def test_a_rerun_of_a_kernel_that_leaves_its_loop_says_so() -> None:
    """It was taken for one that needs more time."""
    device = ringflow.open_device("host:8")
    kernel = resident(device, "trouble")
    kernel.write_region("stop", b"\1" * kernel.regions["stop"].size_bytes)
    instance = Instance(device, kernel.spec, compiled("trouble"), kernel.code, kernel)
    run = Run(timeout_s=60)
    run.begin(0, output_index=0)
    leave = Posting(1, 8, b"")
    with pytest.raises(ringflow.KernelTrappedError, match="from its loop by itself while handling"):
        run.through(instance, [leave], 1)
    kernel.close()
    device.close()
