"""Devices that are dropped, closed, or opened and given up: what is refused, what stays taken."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable

import pytest

from ringflow.device.cuda import priming
from ringflow.device.cuda.device import opened_on
from ringflow.device.cuda.grids import has_live
from ringflow.errors import DeviceError
from ringflow.storage.blocks import block_digests
from tests.cuda.kernels import opened, plain, plain_launch, until
from tests.cuda.standin import Fault, FaultKind, Standin


def test_a_device_that_nobody_holds_is_open_still(gpus: Standin) -> None:
    """What would wait for its kernels is refused, as long as they run."""
    device = opened()
    code = device.load(plain())
    word, out = (device.allocate(4, label=label) for label in ("word", "out"))
    launch = plain_launch(device, code, word, out)
    del device
    gc.collect()
    found = opened_on(0)
    assert found is not None
    with pytest.raises(DeviceError, match="can't open while kernels run"):
        opened()
    found.copy_in(word, b"\1\0\0\0")
    launch.wait(30.0)
    found.close()


def test_digests_need_no_memory_that_is_all_taken(gpus: Standin) -> None:
    """Without room for a launch's status word the bytes are digested on the host."""
    device = opened(mapped_limit_bytes=1 << 20)
    source = device.allocate(100_000, label="source")
    taken = device.allocate_mapped(device.mapped_free_bytes, label="all")
    assert device.digest_blocks(source) == block_digests(bytes(100_000))
    device.free(taken)
    device.close()


def test_an_opening_that_is_stuck_frees_nothing(
    gpus: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release would wait for the kernel that doesn't end; it comes with a later opening."""
    gpus.arm(Fault("cuLaunchCooperativeKernel", kind=FaultKind.STALL_WORK))
    with monkeypatch.context() as soon:
        soon.setattr(priming, "DEADLINE_S", 0.1)
        with pytest.raises(DeviceError, match=r"not ended on 'cuda:0' within 0\.1 s") as raised:
            opened()
    assert raised.value.code == "timeout"
    assert gpus.calls("cuModuleUnload", "cuMemFree", "cuMemFreeHost") == []
    with pytest.raises(DeviceError, match="can't open while kernels run"):
        opened()
    gpus.release()
    until(lambda: not has_live(0))
    opened().close()


def test_an_opening_whose_first_launch_is_refused_takes_nothing(gpus: Standin) -> None:
    """No kernel runs then, so all is given back at once."""
    gpus.arm(Fault("cuLaunchCooperativeKernel", code=999))
    with pytest.raises(DeviceError, match="999"):
        opened()
    assert len(gpus.calls("cuModuleUnload")) == len(gpus.calls("cuModuleLoadData")) == 1


def test_a_gpu_opens_beside_one_that_is_dead(gpus: Standin) -> None:
    """What the driver answers for access between the two is the other's death."""
    first = opened()
    gpus.kill(0)
    second = opened("cuda:1")
    assert (bool(first.lost), second.lost) == (True, "")
    second.allocate(256, label="works")
    second.close()
    first.close()


def test_a_closed_device_refuses_all_use(gpus: Standin) -> None:
    """Its memory is gone; pieces may still be freed, as those who hold them do."""
    device, other = opened(), opened("cuda:1")
    code = device.load(plain())
    there = other.allocate(256, label="there")
    piece, mapped = device.allocate(256, label="a"), device.allocate_mapped(256, label="m")
    device.close()
    uses: list[Callable[[], object]] = [
        lambda: device.allocate(256, label="x"),
        lambda: device.allocate_mapped(256, label="x"),
        lambda: device.copy_in(piece, bytes(4)),
        lambda: device.copy_in(mapped, bytes(4)),
        lambda: device.copy_out(piece),
        lambda: device.copy_out(mapped),
        lambda: device.view(mapped),
        lambda: device.lend(piece),
        lambda: device.digest_blocks(piece),
        lambda: device.copy_to_peer(piece, other, there),
        lambda: other.copy_to_peer(there, device, piece),
        lambda: device.load(plain()),
        lambda: device.grid_that_fits(code, "count", (32, 1, 1)),
        lambda: plain_launch(device, code, piece, entry_point="count"),
    ]
    for use in uses:
        with pytest.raises(DeviceError, match="'cuda:0' is closed; open it again") as raised:
            use()
        assert raised.value.code == "closed"
    device.unload(code)
    device.free(piece)
    device.free(mapped)
    other.close()


def test_only_the_devices_own_memory_is_lent(gpus: Standin) -> None:
    """Loans are kept by the GPU's arena: what it has not could not be taken back."""
    device = opened()
    code = device.load(plain())
    (variable,) = code.globals
    mapped = device.allocate_mapped(256, label="mapped")
    for foreign in (mapped, device.memory._variables[variable.address]):
        with pytest.raises(DeviceError, match="can't be lent") as raised:
            device.lend(foreign)
        assert raised.value.code == "not lendable"
    device.free(mapped)
    assert device.free_bytes == device.memory_bytes
    device.unload(code)
    device.close()


@pytest.mark.parametrize("call", ["cuMemHostAlloc", "cuMemFreeHost"])
def test_nothing_is_launched_while_the_gpu_is_opened_again_or_closed(
    gpus: Standin, call: str
) -> None:
    """Each call of either may wait for all kernels; so launches wait for its end."""
    device = opened()
    others = [opened()] if call == "cuMemFreeHost" else []
    code = device.load(plain())
    out = device.allocate(4, label="out")
    before = len(gpus.calls(call))
    gpus.arm(Fault(call, kind=FaultKind.STALL))
    opens_or_closes = threading.Thread(
        target=others.pop().close if others else lambda: others.append(opened())
    )
    launcher = threading.Thread(target=plain_launch, args=(device, code, out, out))
    opens_or_closes.start()
    until(lambda: len(gpus.calls(call)) > before)
    device.copy_in(out, b"\1\0\0\0")
    launcher.start()
    launcher.join(0.2)
    assert launcher.is_alive()
    assert gpus.live(0) == 0
    gpus.release()
    opens_or_closes.join(30.0)
    launcher.join(30.0)
    until(lambda: not device.launches.live)
    for one in (*others, device):
        one.close()
