"""Persistent kernels on a GPU keep what they keep on the host: the same tests, on the stand-in."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from ringflow.device.abi import Command
from ringflow.device.cuda.device import CudaDevice
from tests.cuda.kernels import DEADLINE_S, opened
from tests.cuda.standin import plug
from tests.device import test_dirty as dirty
from tests.device import test_resident as kernels
from tests.device.kernels import resident

HOLDS = (
    kernels.test_echo_comes_back,
    kernels.test_counter_answers_10000_messages_in_order,
    kernels.test_hold_shows_consistent_memory_while_messages_are_posted,
    kernels.test_return_drained_finishes_the_ring,
    kernels.test_closed_gate_applies_nothing,
    kernels.test_hold_can_be_followed_by_return,
    kernels.test_output_before_the_first_message,
    kernels.test_relaunch_may_be_the_first_launch,
    kernels.test_waiting_kernel_answers_a_ping,
    kernels.test_tiny_reply_ring_never_blocks_a_kernel,
    kernels.test_full_reply_ring_does_not_block_a_return,
    kernels.test_emitted_outputs_leave_room_for_replies,
    kernels.test_free_running_kernel_steps_between_messages,
    kernels.test_closed_emissions_come_within_messages_alone,
    kernels.test_kernel_that_never_receives_is_a_stall,
    kernels.test_regions_are_checked_and_digested,
)
MARKS = (
    dirty.test_marks_survive_the_end_of_a_launch,
    dirty.test_a_held_kernel_swaps,
)


@pytest.fixture
def device() -> Iterator[CudaDevice]:
    """A GPU of the stand-in, with room for the tests' kernels."""
    with plug(1, sm_count=16):
        made = opened(memory_limit_bytes=64 << 20, mapped_limit_bytes=32 << 20)
        yield made
        while kernels.OPENED:
            kernels.OPENED.pop().close()
        made.close()


@pytest.mark.parametrize("holds", HOLDS, ids=lambda test: test.__name__[5:])
def test_it_holds_on_a_gpu(device: CudaDevice, holds: Callable[[CudaDevice], None]) -> None:
    """Through mapped memory alone, with nothing that rings."""
    holds(device)


@pytest.mark.parametrize("blocks", [2, 7])
def test_blocks_meet_on_a_gpu(device: CudaDevice, blocks: int) -> None:
    """A barrier over blocks that the ledger has made room for."""
    kernels.test_blocks_meet_at_sync(device, blocks, 32)  # type: ignore[arg-type]


@pytest.mark.parametrize("command", [Command.HOLD, Command.RETURN])
def test_a_command_waits_for_one_message_on_a_gpu(device: CudaDevice, command: Command) -> None:
    """At most for the one in progress."""
    kernels.test_command_waits_for_one_message_at_most(device, command)  # type: ignore[arg-type]


@pytest.mark.parametrize("marks", MARKS, ids=lambda test: test.__name__[5:])
def test_dirty_marks_on_a_gpu(device: CudaDevice, marks: Callable[[object], None]) -> None:
    """Bitmaps are read by copies, beside the kernel that goes on marking."""
    marker = resident(device, "marker", grid=(7, 1, 1), block=(96, 1, 1), track_dirty=True)
    kernels.OPENED.append(marker)
    marker.launch(gate_open=True, timeout_s=DEADLINE_S)
    assert dirty.swapped(marker) == {"small": (0,)}
    marks(marker)
