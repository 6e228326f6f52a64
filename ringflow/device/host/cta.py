"""The memory of one CTA: every offset, and how large it is.

- A CTA is one flat block that starts at a multiple of 64 bytes: header, then units, then local
  memory thread by thread, then shared memory.
- A unit is a structure-of-arrays slot of 4 bytes a thread; unit u of thread t lies at
  ``HEADER_BYTES + u * unit_stride + 4 * t``; a 64-bit spill takes two units and lies at
  ``HEADER_BYTES + u * unit_stride + 8 * t``.
- ``unit_stride`` is an odd multiple of 64 bytes, so that units do not alias in the L1 cache; those
  of at most ``UNPADDED_LINES`` times 64 bytes don't anyway, and parked kernels are many.
- Unit 0 is the state word of each thread, units 1 to 4 its mailbox for collectives.
- The layout is used by the translated code, by the runtime in CUDA C++ and by the scheduler.
"""

from __future__ import annotations

from typing import Final

HEADER_BYTES: Final = 256
ALIGN_BYTES: Final = 64
FIRST_SPILL_UNIT: Final = 5
UNPADDED_LINES: Final = 4

# Offsets in the header; u32 unless said otherwise.
STATUS: Final = 0  # what the last step returned
FUEL: Final = 4  # i32, back edges left before a loop that does not poll gives way
UNIFORM: Final = 8  # the state word that all threads share, MIXED if the unit has to be read
THREADS: Final = 12
BLOCK_X: Final = 16
BLOCK_Y: Final = 20
BLOCK_Z: Final = 24
INDEX_X: Final = 28
INDEX_Y: Final = 32
INDEX_Z: Final = 36
GRID_X: Final = 40
GRID_Y: Final = 44
GRID_Z: Final = 48
UNIT_STRIDE: Final = 52  # bytes
PARAMETERS: Final = 56  # u64, native address of the parameter block
SHARED: Final = 64  # u64, native address of shared memory
LOCAL: Final = 72  # u64, native address of thread 0's local memory
LOCAL_BYTES: Final = 80  # of one thread
SHARED_BYTES: Final = 84  # static and dynamic
DYNAMIC_SHARED: Final = 88  # bytes of dynamic shared memory
TRAP_THREAD: Final = 92
TRAP_KIND: Final = 96  # 0 none, else a TRAP_ constant
TRAP_LINE: Final = 100  # line of the PTX text
EXITED: Final = 104  # threads that have left the kernel
SETTLED: Final = 108  # 1: nothing that waits can go on before a poller changes something
POLLERS: Final = 112  # number of entries in the list of pollers, or POLLERS_UNKNOWN
POLLER_LIST: Final = 116  # 8 thread indices, ends at 148
CONTEXT_BYTES: Final = 152  # u64, size of the whole block
LAUNCH: Final = 160  # u64, for the scheduler's own use
BOUNDS: Final = 168  # u64, address of the word that holds the table of memcheck's ranges, or 0
MISUSE: Final = 176  # u64, memcheck's function that looks for misused collectives, or 0
RESERVED_SHARED: Final = 184  # bytes at the start of shared memory that memcheck keeps
FAULT_ACCESS: Final = 188  # kind of the first wrong access, size << 8, space << 16; 0 none
FAULT_THREAD: Final = 192
FAULT_LINE: Final = 196  # line of the PTX text, or the region of the other thread
FAULT_ADDRESS: Final = 200  # u64
LOG: Final = 208  # u64, where prints go, or 0
ARRIVED: Final = 216  # 16 u16: threads that came to a barrier and went on, ends at 248

STACK: Final = 248  # u64, where the native stack of a call from a kernel begins

POLLER_LIST_LENGTH: Final = 8

# What a step returns.
DONE: Final = 0
IDLE: Final = 1
PROGRESS: Final = 2
TRAPPED: Final = 3
PREEMPTED: Final = 4

TRAP_INSTRUCTION: Final = 1
TRAP_BREAKPOINT: Final = 2
TRAP_ASSERTION: Final = 3
TRAP_MEMORY: Final = 4  # memcheck's, as those that follow
TRAP_LEFT: Final = 5
TRAP_DIVERGED: Final = 6
TRAP_STUCK: Final = 7
TRAP_NAMES: Final = {
    1: "trap",
    2: "breakpoint",
    3: "assertion",
    4: "memory access",
    5: "early exit",
    6: "divergence",
    7: "deadlock",
}

ACCESS_LOAD: Final = 1
ACCESS_STORE: Final = 2
ACCESS_ATOMIC: Final = 3
ACCESS_DEPTH: Final = 4  # no accesses: native calls nested too deeply, or that do not end, or
ACCESS_FUEL: Final = 5
ACCESS_CALL: Final = 6  # of what is no function
SPACE_GENERIC: Final = 0
SPACE_SHARED: Final = 1
SPACE_LOCAL: Final = 2

# State words: the index of a region, or one with a kind. Plain indices are ready to run.
STATE_REGION: Final = 0xFFFF
STATE_POLL: Final = 0x10000
STATE_BARRIER: Final = 0x20000
STATE_WARP: Final = 0x40000
STATE_EXITED: Final = 0x80000
STATE_TRAPPED: Final = 0x90000
STATE_MIXED: Final = 0xF0000
STATE_MASK: Final = 0xFFFFF
FLAG_EFFECT: Final = 0x1000000  # a poller stored something or changed a spill
FLAG_OUT_OF_FUEL: Final = 0x2000000

# The launch record that ``init_function`` reads.
RECORD_BYTES: Final = 40
RECORD_BLOCK: Final = 0  # 3 u32
RECORD_GRID: Final = 12  # 3 u32
RECORD_DYNAMIC_SHARED: Final = 24  # u32
RECORD_PARAMETERS: Final = 32  # u64, native address


def unit_stride_bytes(threads: int) -> int:
    """Return the distance of two units: an odd multiple of 64 bytes, but for short ones."""
    lines = (threads * 4 + 63) // 64
    return (lines | 1 if lines > UNPADDED_LINES else lines) * 64


def local_offset_bytes(unit_count: int, threads: int) -> int:
    """Return where local memory starts in the block."""
    return HEADER_BYTES + unit_count * unit_stride_bytes(threads)


def shared_offset_bytes(unit_count: int, threads: int, local_bytes: int) -> int:
    """Return where shared memory starts in the block."""
    end = local_offset_bytes(unit_count, threads) + threads * local_bytes
    return (end + 127) // 128 * 128


def context_bytes(unit_count: int, threads: int, *, local_bytes: int, shared_bytes: int) -> int:
    """Return the size of the whole block; ``shared_bytes`` is static and dynamic together."""
    end = shared_offset_bytes(unit_count, threads, local_bytes) + shared_bytes
    return (end + ALIGN_BYTES - 1) // ALIGN_BYTES * ALIGN_BYTES
