"""Layouts of the memory that the host device's scheduler and its Python side share.

- A worker steps the slots of its own table only; a slot is one CTA, placed for good.
- ``LAUNCH.status`` leaves ``RUNNING`` when the last of its CTAs has left the tables: its memory is
  then nobody's.
- Nothing in a ``STEPPER`` depends on an address or on the real time: a trace is a function of its
  seed and of what the host did between rounds.
"""

from __future__ import annotations

from typing import Final

from ringflow.device.layout import Layout, c_constants, u32, u64

LAUNCH: Final = Layout(
    "launch",
    64,
    (
        u32("status", 0, "LaunchStatus"),
        u32("outcome", 4, "status decided on while CTAs are still in the tables, or 0"),
        u32("abort", 8, "1: the host wants it stopped"),
        u32("remaining", 12, "CTAs in the tables"),
        u64("watch", 16, "control block whose news are rung to the host, or 0"),
        u64("seen", 24, "sum of its device words at the last look"),
        u64("trapped", 32, "context of the CTA that trapped first"),
    ),
    alignment_bytes=64,
)

SLOT: Final = Layout(
    "cta_slot",
    64,
    (
        u64("step", 0, "step function of the kernel"),
        u64("cta", 8, "the CTA's context"),
        u64("launch", 16, "its launch"),
        u32("budget", 24, "argument of step"),
        u32("active", 28, "1: in use; set last by the host, cleared by the worker"),
        u64("steps", 32, "calls of step"),
        u32("launch_number", 40, "launches of the pool before this one"),
        u32("index", 44, "of the CTA in its grid"),
    ),
    alignment_bytes=64,
)

WORKER: Final = Layout(
    "worker",
    128,
    (
        u64("slots", 0, "table of slots"),
        u64("room", 8, "waiting room"),
        u32("used", 16, "slots to look at"),
        u32("stop", 20, "1: return"),
        u32("spin_ns", 24, "time without progress before yielding"),
        u32("yield_ns", 28, "time without progress before sleeping"),
        u64("rounds", 64, "rounds made"),
        u64("sleeps", 72, "times asleep"),
        u64("rung_ns", 80, "when it last woke other workers"),
        u32("owed", 88, "1: progress was made that sleeping workers were not told of"),
    ),
    alignment_bytes=128,
)

STEPPER: Final = Layout(
    "stepper",
    128,
    (
        u64("worker", 0, "whose table it steps"),
        u64("order", 8, "uint32 for each slot: the order of a round"),
        u64("random", 16, "state of the generator"),
        u64("time_ns", 24, "virtual time"),
        u64("digest_low", 32, "of all steps so far"),
        u64("digest_high", 40, "the same with another mixing"),
        u64("rounds", 48, "rounds made"),
        u32("idle", 56, "1: no CTA went on in the last round"),
    ),
    alignment_bytes=64,
)

STEP_DONE: Final = 0
STEP_IDLE: Final = 1
STEP_PROGRESS: Final = 2
STEP_TRAPPED: Final = 3
STEP_PREEMPTED: Final = 4
STEP_DROPPED: Final = 5  # not a step's result: the CTA was taken out because its launch ends


def generated_scheduler() -> str:
    constants = [
        ("STEP_DONE", STEP_DONE),
        ("STEP_IDLE", STEP_IDLE),
        ("STEP_PROGRESS", STEP_PROGRESS),
        ("STEP_TRAPPED", STEP_TRAPPED),
        ("STEP_PREEMPTED", STEP_PREEMPTED),
        ("STEP_DROPPED", STEP_DROPPED),
    ]
    structs = (LAUNCH, SLOT, WORKER, STEPPER)
    return "\n\n".join([c_constants(constants), *(layout.c_struct() for layout in structs)])
