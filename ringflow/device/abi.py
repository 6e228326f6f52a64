"""The ABI between host and persistent kernels: every offset and code, version ``ABI_VERSION``.

- The first 128 bytes of a control block are written by the host only, the last by the kernel only.
- One 64-bit doorbell carries posted messages, generation and command, so that they never tear.
- Counters count from the launch and never go back; ``base_sequence`` ties them to the journal's.
- Change anything here and ``ABI_VERSION`` changes: kernels check it before they do anything.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from ringflow.device.layout import Layout, c_constants, u32, u64
from ringflow.spec import BULK_UNIT_BYTES
from ringflow.storage.blocks import BLOCK_BYTES

ABI_MAGIC: Final = 0x574C4652  # "RFLW"
ABI_VERSION: Final = 4
BATCH_SLOTS: Final = 32
SLOT_HEADER_BYTES: Final = 32
SHARED_PAYLOAD_BYTES: Final = 224
CONTROL_BYTES: Final = 256
GENERATION_BITS: Final = 24
ROUTE_SHIFT: Final = 16
GENERATION_MASK: Final = (1 << GENERATION_BITS) - 1


class Command(IntEnum):
    """What the host asks for; each command has a generation of its own."""

    RUN = 0
    HOLD = 1
    RETURN = 2
    RETURN_DRAINED = 3


class KernelState(IntEnum):
    """What the kernel reports, under the generation that it obeyed."""

    UNKNOWN = 0
    RUNNING = 1
    HELD = 2
    RETURNING = 3


class KernelFault(IntEnum):
    """Why a kernel trapped by itself; 0 if it did not."""

    NONE = 0
    ABI_MISMATCH = 1
    TOO_MANY_REPLIES = 2
    REPLY_TOO_LARGE = 3
    REPLY_DATA_TOO_LARGE = 4


class OutputFlag(IntEnum):
    """Bits in the flags of a reply slot; with ``ROUTED`` the bits from ``ROUTE_SHIFT`` on count."""

    EMITTED = 1
    ROUTED = 2


CONTROL: Final = Layout(
    "control",
    CONTROL_BYTES,
    (
        u64("doorbell", 0, "messages posted (32) | generation (24) | command (8)"),
        u64("reply_tail", 8, "outputs that the host has taken"),
        u64("ping", 16, "any value; the kernel answers in echo while it waits"),
        u32("dirty_epoch", 24, "raised by one to make the kernel swap its dirty bitmaps"),
        u32("emissions_closed", 28, "1: between messages emit and send_to send nothing"),
        u32("magic", 32, "ABI_MAGIC"),
        u32("version", 36, "ABI_VERSION"),
        u64("work", 40, "workspace, device address"),
        u64("messages", 48, "message ring, device address"),
        u64("replies", 56, "reply ring, device address"),
        u32("message_slots", 64, "a power of two"),
        u32("reply_slots", 68, "a power of two"),
        u32("slot_bytes", 72, "a power of two, 64 or more"),
        u32("max_replies", 76, "replies that one message may make"),
        u64("base_sequence", 80, "last sequence applied before this launch"),
        u64("epoch", 88, "of this launch"),
        u32("emit_slots", 96, "reply slots beyond those that replies are credited"),
        u32("withdrawn", 100, "1: return from the first boundary before all blocks are there"),
        u64("started", 128, "epoch, once all blocks have arrived at the first boundary"),
        u64("done_sequence", 136, "last finished message"),
        u64("done_count", 144, "messages finished since the launch"),
        u64("consumed", 152, "ring slots copied out since the launch"),
        u64("reply_head", 160, "outputs written since the launch"),
        u64("state", 168, "generation << 8 | KernelState"),
        u64("echo", 176, "the last ping seen"),
        u64("steps", 184, "step() boundaries passed since the launch"),
        u64("taken_sequence", 192, "message in progress, or the last one"),
        u32("fault", 200, "KernelFault"),
        u32("dirty_swapped", 204, "the last dirty_epoch obeyed"),
        u64(
            "busy_ns",
            208,
            "device's clock: spent in finished messages, in earlier launches too",
        ),
    ),
    alignment_bytes=128,
)

MESSAGE_SLOT: Final = Layout(
    "message_slot",
    SLOT_HEADER_BYTES,
    (
        u64("sequence", 0, "number of the message"),
        u32("type", 8, "message type"),
        u32("size", 12, "payload bytes after this header"),
        u64("correlation", 16, "the sender's own number"),
        u32("bulk_size", 24, "bytes in the bulk arena"),
        u32("handle", 28, "where they lie: 1 + offset / BULK_UNIT_BYTES; 0 for none"),
    ),
)

REPLY_SLOT: Final = Layout(
    "reply_slot",
    SLOT_HEADER_BYTES,
    (
        u64("sequence", 0, "message that caused it; for emit the last one taken"),
        u32("type", 8, "message type"),
        u32("size", 12, "payload bytes after this header"),
        u32("index", 16, "number among that message's outputs"),
        u32("correlation", 20, "low half of the message's"),
        u32("flags", 24, "OutputFlag bits | number of the route << ROUTE_SHIFT"),
        u32("handle", 28, "array: 1 + offset of its bulk_piece / BULK_UNIT_BYTES; 0 for none"),
    ),
)

BULK_PIECE: Final = Layout(
    "bulk_piece",
    BULK_UNIT_BYTES,
    (u64("size", 0, "bytes of the array that follows"),),
)

WORKSPACE: Final = Layout(
    "workspace",
    1024,
    (
        u32("arrived", 0, "blocks that arrived at boundaries, counted on for ever"),
        u64("decision", 128, "round << 32 | action << 8 | slot of the batch"),
        u32("barrier_arrived", 256, "blocks at the grid barrier"),
        u32("barrier_round", 384, "grid barriers passed"),
        u64("copied", 512, "ring slots copied into batches"),
        u32("batch_next", 520, "next slot of the batch"),
        u32("batch_count", 524, "slots in the batch"),
        u64("sequence", 528, "last message taken"),
        u64("taken", 536, "messages taken"),
        u64("flushed", 544, "messages reported as done"),
        u64("outputs", 552, "outputs written"),
        u32("output_index", 560, "outputs of the message in progress"),
        u32("replies", 564, "replies among them"),
        u64("obeyed", 568, "state word last reported"),
        u64("steps", 576, "step() boundaries passed"),
        u64("echo", 584, "last ping answered"),
        u64("bulk", 592, "bulk arena of messages, device address"),
        u64("reply_bulk", 600, "bulk arena of replies, device address"),
        u64("share_bytes", 608, "what the replies to one message may fill of it"),
        u32("shares", 616, "messages that have such a share; they take turns"),
        u32("max_reply_data", 620, "bytes of arrays that one message's replies may carry"),
        u64("share_used", 624, "bytes of its share that the message in progress has filled"),
        u64("reply_data", 632, "bytes of arrays among them"),
        u64("dirty_bitmap_0", 640, "marks under even dirty epochs: a bit a block of each region"),
        u64("dirty_bitmap_1", 648, "marks under odd ones"),
        u64("dirty_ranges", 656, "array of dirty_range; 0 where no marks are taken"),
        u32("dirty_range_count", 664, "its length"),
        u32("dirty_swapped", 668, "the dirty epoch of the marks that are taken now"),
        u64("busy_ns", 672, "what the control block has"),
        u64("busy_since_ns", 680, "clock when the first message not yet reported was taken, or 0"),
    ),
    alignment_bytes=128,
)

DIRTY_RANGE: Final = Layout(
    "dirty_range",
    24,
    (
        u64("begin", 0, "address of a region"),
        u64("end", 8, "address just past it"),
        u64("first_bit", 16, "its first block's bit in the bitmaps"),
    ),
)


def workspace_bytes(slot_bytes: int) -> int:
    """Return the size of a workspace, its batch of slots included."""
    return WORKSPACE.size_bytes + BATCH_SLOTS * slot_bytes


def credits(ring_slots: int, reply_slots: int, max_replies: int, reply_shares: int = 0) -> int:
    """Return how many unfinished messages a kernel may have at once.

    So many that their slots and all of their replies fit: a full ring never blocks a kernel.

    Args:
        reply_shares: messages whose replies' arrays fit into the bulk arena; 0: there are none.
    """
    fitting = min(ring_slots, reply_slots // max(max_replies, 1))
    return min(fitting, reply_shares) if reply_shares else fitting


def emit_slots(ring_slots: int, reply_slots: int, max_replies: int, reply_shares: int = 0) -> int:
    """Return the reply slots that unsolicited outputs may fill without touching the credits."""
    credited = credits(ring_slots, reply_slots, max_replies, reply_shares)
    return reply_slots - credited * max_replies


def bulk_handle(offset_bytes: int) -> int:
    """Return what a slot says of a piece of a bulk arena; 0 is for none."""
    assert offset_bytes % BULK_UNIT_BYTES == 0, f"{offset_bytes} is no piece's offset"
    return 1 + offset_bytes // BULK_UNIT_BYTES


def bulk_offset(handle: int) -> int:
    """Return a piece's offset in its arena, in bytes."""
    assert handle > 0, "the handle names no piece"
    return (handle - 1) * BULK_UNIT_BYTES


def doorbell(posted: int, generation: int, command: int) -> int:
    """Return a doorbell word."""
    return (posted & 0xFFFFFFFF) | (generation & GENERATION_MASK) << 32 | command << 56


def next_generation(doorbell: int) -> int:
    """Return the generation of the command after a doorbell's; 0 is none."""
    return ((doorbell >> 32 & GENERATION_MASK) + 1) & GENERATION_MASK or 1


def is_reached(generation: int, wanted: int) -> bool:
    """Whether a generation is the wanted one or a later one: a parking gives commands anew."""
    behind = (wanted - generation) & GENERATION_MASK
    return behind == 0 or behind > GENERATION_MASK // 2


def state_word(generation: int, state: int) -> int:
    return generation << 8 | state


def generated_header() -> str:
    """Return the part of ``ringflow.cuh`` that this module is the source of."""
    constants = [
        ("ABI_MAGIC", ABI_MAGIC),
        ("ABI_VERSION", ABI_VERSION),
        ("BATCH_SLOTS", BATCH_SLOTS),
        ("SHARED_PAYLOAD_BYTES", SHARED_PAYLOAD_BYTES),
        ("BULK_UNIT_BYTES", BULK_UNIT_BYTES),
        ("DIRTY_BLOCK_BYTES", BLOCK_BYTES),
        ("GENERATION_MASK", GENERATION_MASK),
        ("ROUTE_SHIFT", ROUTE_SHIFT),
        *((f"COMMAND_{command.name}", command.value) for command in Command),
        *((f"STATE_{state.name}", state.value) for state in KernelState),
        *((f"FAULT_{fault.name}", fault.value) for fault in KernelFault),
        *((f"OUTPUT_{flag.name}", flag.value) for flag in OutputFlag),
    ]
    structs = (CONTROL, MESSAGE_SLOT, REPLY_SLOT, BULK_PIECE, WORKSPACE, DIRTY_RANGE)
    return "\n\n".join([c_constants(constants), *(layout.c_struct() for layout in structs)])
