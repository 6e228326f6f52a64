"""Layouts of the memory that the native pump and its Python side share.

- ``LISTENER``: an event descriptor (eventfd) that is written once when a kernel has news; an event
  loop sleeps there. ``ROOM`` holds all of the process.
- ``ROOM``: where threads of the process sleep; one a process, in ``ringflow.device.native``.
- ``ENTRY``: what the pump knows of one persistent kernel; host memory, owned by the kernel.
- ``REPORT``: header of one kernel's news; ``outputs`` slots of ``slot_bytes`` follow it.
"""

from __future__ import annotations

from typing import Final

from ringflow.device.layout import Layout, c_constants, u32, u64

ROOM: Final = Layout(
    "room",
    256,
    (
        u32("worker_bell", 0, "futex of the host device's workers"),
        u32("worker_sleepers", 4, "workers asleep or about to sleep"),
        u32("host_bell", 128, "futex of pumps and of those who wait for a kernel"),
        u32("host_sleepers", 132, "of these asleep or about to sleep"),
        u32("futex_call", 192, "number of the futex system call"),
        u32("write_call", 196, "number of the write system call"),
        u64("awake_until_ns", 200, "monotonic; workers and pumps yield instead of sleeping"),
        u64("listeners", 208, "array of listeners"),
        u32("listener_count", 216, "how many of them were ever used"),
    ),
    alignment_bytes=128,
)

LISTENER: Final = Layout(
    "listener",
    64,
    (
        u32("event", 0, "file descriptor"),
        u32("armed", 4, "1: write to it at the next ring"),
    ),
    alignment_bytes=64,
)

ENTRY: Final = Layout(
    "entry",
    192,
    (
        u64("control", 0, "control block, host address"),
        u64("messages", 8, "message ring, host address"),
        u64("replies", 16, "reply ring, host address"),
        u64("status", 24, "the launch's status word, host address; 0 if there is none"),
        u64("room", 32, "waiting room"),
        u32("key", 40, "the pump's name for the kernel"),
        u32("message_slots", 44, "a power of two"),
        u32("reply_slots", 48, "a power of two"),
        u32("slot_bytes", 52, "a power of two"),
        u32("credits", 56, "most messages that may be unfinished"),
        u32("holding", 60, "1: outputs with arrays were reported, the host still copies them"),
        u64("posted", 64, "messages posted since the launch"),
        u64("credited", 72, "messages done whose outputs have all been taken"),
        u64("withheld", 80, "what credited becomes once the arrays are copied"),
        u32("polled", 88, "1: nobody rings for its news"),
        u64("seen_done", 128, "done_sequence last reported"),
        u64("seen_state", 136, "state last reported"),
        u32("seen_status", 144, "status last reported"),
        u32("seen_fault", 148, "fault last reported"),
    ),
    alignment_bytes=64,
)

REPORT: Final = Layout(
    "report",
    64,
    (
        u32("key", 0, "which kernel"),
        u32("outputs", 4, "slots that follow"),
        u32("slot_bytes", 8, "bytes of each"),
        u32("status", 12, "of the launch; 0 where it has no status word"),
        u64("done_sequence", 16, "last finished message; its outputs have all been reported"),
        u64("taken_sequence", 24, "message in progress, or the last one"),
        u64("state", 32, "generation << 8 | KernelState"),
        u64("steps", 40, "step() boundaries since the launch"),
        u32("fault", 48, "KernelFault"),
        u32("more", 52, "1: the buffer was too small, more outputs wait"),
        u64("busy_ns", 56, "by the device's clock, spent in finished messages"),
    ),
)

PUMP: Final = Layout(
    "pump",
    128,
    (
        u64("entries", 0, "array of addresses of entries"),
        u64("room", 8, "waiting room"),
        u32("capacity", 16, "length of the array"),
        u32("count", 20, "entries in use"),
        u32("lock", 24, "held while the array is read or changed"),
        u32("woken", 28, "1: wait() is to return"),
        u32("cursor", 32, "entry at which the next scan starts"),
        u32("sleeps", 40, "times that wait() slept"),
        u32("scans", 44, "scans made"),
    ),
    alignment_bytes=64,
)

AWAIT_REACHED: Final = 0
AWAIT_ENDED: Final = 1
AWAIT_TIMEOUT: Final = 2


def generated_room() -> str:
    return "\n\n".join([LISTENER.c_struct(), ROOM.c_struct()])


def generated_pump() -> str:
    constants = [
        ("AWAIT_REACHED", AWAIT_REACHED),
        ("AWAIT_ENDED", AWAIT_ENDED),
        ("AWAIT_TIMEOUT", AWAIT_TIMEOUT),
    ]
    structs = (ENTRY, REPORT, PUMP)
    return "\n\n".join([c_constants(constants), *(layout.c_struct() for layout in structs)])
