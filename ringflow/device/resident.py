"""One persistent kernel on one device: its launches, messages and commands.

- Whoever posts, commands and relaunches does so from one thread at a time for each of them.
- Memory outlives launches: after RETURN the regions hold the state, and ``relaunch`` goes on.
- The variables that the code writes to are regions too, after the declared ones.
- A message that was posted but not finished is the poster's to post again after a relaunch.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterable, Sequence
from typing import Final

from ringflow.device import abi
from ringflow.device.abi import CONTROL
from ringflow.device.api import Device, LaunchStatus, LoadedCode
from ringflow.device.dirty import DirtyMarks, no_marks
from ringflow.device.grid import KernelGrid
from ringflow.device.native import timeout_ns
from ringflow.device.native.layouts import AWAIT_ENDED, AWAIT_REACHED
from ringflow.device.posting import Posting, check_bulk_size, encode_slots
from ringflow.device.pump import PumpReport, parse_reports
from ringflow.errors import KernelStateError
from ringflow.spec import Dim3, KernelSpec

COLLECT_BYTES: Final = 1 << 16
_SEQUENCE: Final = struct.Struct("<Q")
assert abi.MESSAGE_SLOT["sequence"] == 0


class ResidentKernel(KernelGrid):
    """A persistent kernel on a device: its memory, its grid and its messages."""

    def __init__(
        self,
        device: Device,
        code: LoadedCode,
        spec: KernelSpec,
        *,
        grid: Dim3,
        base_sequence: int,
        epoch: int,
    ) -> None:
        """Allocate everything, zeroed; all is freed again if one piece fails.

        Args:
            grid: blocks in x, y, z (a spec's ``"fill"`` is resolved by the caller).
            base_sequence: the last message that the regions hold already.
            epoch: the launch's, it comes back in the started word.
        Raises:
            EntryPointError: the kernel's parameters are not the spec's.
            DeviceMemoryError: the device is full.
        """
        super().__init__(device, code, spec, grid=grid, base_sequence=base_sequence, epoch=epoch)
        self._collected: ctypes.Array[ctypes.c_char] | None = None
        self._collected_address = 0
        self._posted_sequence = base_sequence

    def relaunch(
        self,
        *,
        base_sequence: int,
        epoch: int,
        gate_open: bool,
        timeout_s: float,
        output_index: int = 0,
    ) -> None:
        """Launch the code again on the same regions; what was not finished is posted anew.

        Also for the first launch, where the base sequence was not known before.

        Args:
            output_index: what an output before the next message is numbered.

        Raises:
            KernelStateError: the last launch has not ended, or its outputs are not all taken.
        """
        name = self.spec.kernel_id
        with self._exclusively():  # a parked grid looks as if it had ended
            if self._launch is not None and self.status is LaunchStatus.RUNNING:
                raise KernelStateError(name, "running", "ended before a relaunch")
            if self._load("reply_head") != self._load("reply_tail"):
                raise KernelStateError(name, "not drained", "drained by the pump first")
            self._base_sequence, self._epoch = base_sequence, epoch
            self._posted_sequence = base_sequence
            self._output_index = output_index
            self.launch(gate_open=gate_open, timeout_s=timeout_s)

    # Messages and commands

    def room(self) -> int:
        """Return how many messages can be posted now."""
        return self._native.room_for(self._entry_address)

    def post(self, postings: Iterable[Posting]) -> int:
        """Post messages in ascending order of sequence; return how many there was room for.

        Bulk that is not in the arena yet (``reserve_bulk``, ``bulk.fill``) is copied here.
        Raises:
            LimitExceededError: a payload, or bulk, is larger than the spec has room for; messages
                before it may have been posted.
        """
        waiting = tuple(postings)
        ready = waiting if all(one.bulk is None for one in waiting) else self._with_bulk(waiting)
        slots = encode_slots(self.spec, ready, place=self.bulk.offset_of)
        return self.post_slots(slots, len(ready))

    def _with_bulk(self, postings: Sequence[Posting]) -> tuple[Posting, ...]:
        """Return the postings up to the first for whose bulk there is no room; copy the bulk."""
        ready = []
        for posting in postings[: self.room()]:
            if posting.bulk is not None:
                if not self.reserve_bulk(posting):
                    break
                if not self.bulk.is_filled(posting.sequence):
                    self.bulk.fill(posting.sequence, posting.bulk)
            ready.append(posting)
        return tuple(ready)

    def reserve_bulk(self, posting: Posting) -> bool:
        """Take room in the arena for a message's bulk; False if messages must be done before.

        It is called for messages in order, up to those that may be posted next.
        Raises:
            LimitExceededError: the arena is smaller than the bulk.
        """
        assert posting.bulk is not None, "the message has no bulk"
        size_bytes = posting.bulk.size_bytes
        check_bulk_size(self.spec, size_bytes)
        done = self._load("done_sequence")
        return self.bulk.reserve(posting.sequence, size_bytes, done_sequence=done)

    def post_slots(self, slots: bytearray, count: int) -> int:
        """Post encoded slots (``encode_slots``); return how many there was room for."""
        if count == 0:
            return 0
        slot_bytes = self.spec.slot_bytes
        assert len(slots) == count * slot_bytes, "the slots are not of the spec's size"
        (first,) = _SEQUENCE.unpack_from(slots)
        assert first > self._posted_sequence, f"{first} posted after {self._posted_sequence}"
        address = ctypes.addressof(ctypes.c_char.from_buffer(slots))
        accepted = self._native.post(self._entry_address, address, count)
        if accepted:
            (self._posted_sequence,) = _SEQUENCE.unpack_from(slots, (accepted - 1) * slot_bytes)
            if self._stepping is not None:
                self._rouse()
        return accepted

    def expect(self, within_s: float) -> None:
        """Wake what sleeps for messages that will be posted within that time.

        On an idle machine a thread takes longer to wake than a small kernel to answer.
        """
        if self._stepping is None:
            self._native.rouse(self._entry_address, timeout_ns(within_s))

    def close_emissions(self, closed: bool) -> None:
        """Let ``emit`` and ``send_to`` send nothing between messages, or let them again.

        What the kernel has sent before it sees this still comes. It lasts over relaunches.
        """
        if closed != self._emissions_closed:
            self._emissions_closed = closed
            self._native.store_u32(self._control_host + CONTROL["emissions_closed"], closed)

    # Dirty marks

    def request_dirty_swap(self) -> int:
        """Raise the dirty epoch: at its next boundary the kernel swaps the bitmaps of its marks.

        Raises:
            UsageError: the spec does not ask for marks; so for all of this section.
            KernelStateError: the marks of the last swap have not been collected.
        """
        epoch = self._marks().request()
        self._native.store_u32(self._control_host + CONTROL["dirty_epoch"], epoch)
        self._native.ring_workers(self._native.room)
        self._rouse()
        return epoch

    def await_dirty_swap(self, timeout_s: float) -> None:
        """Block until the kernel has swapped, or its grid has completed, which is as good.

        Raises:
            KernelTrappedError: it trapped.
            KernelStalledError: the time is up.
        """
        result = self._await(self._native.await_swap, self._marks().requested, timeout_s)
        ended = result == AWAIT_ENDED and self.status is LaunchStatus.COMPLETED
        if result != AWAIT_REACHED and not ended:
            raise self._unreached(result, timeout_s)

    def collect_dirty(self) -> dict[str, tuple[int, ...]]:
        """Return the 64 KiB blocks marked before the last swap, by region, and clear their marks.

        While no grid runs, all blocks marked since they were last collected. Regions without a
        marked block are left out. What the host writes (initial arrays, a restore) has no marks.
        Raises:
            KernelStateError: no swap was requested since the last call, or it has not come yet.
        """
        resting = self._launch is None or self.status is not LaunchStatus.RUNNING
        return self._marks().collect(swapped=self._load_u32("dirty_swapped"), resting=resting)

    def _marks(self) -> DirtyMarks:
        if self._dirty is None:
            raise no_marks(self.spec.kernel_id)
        return self._dirty

    # What the kernel says, for code that has no pump running

    @property
    def posted_sequence(self) -> int:
        """The last message posted in this launch, or its base sequence."""
        return self._posted_sequence

    def collect(self) -> PumpReport | None:
        """Take outputs and news without a pump; ``None`` if there are none.

        Raises:
            KernelStateError: a pump watches the kernel and takes its outputs.
        """
        if self._pump is not None:
            raise KernelStateError(self.spec.kernel_id, "on a pump", "without one to collect")
        if self._collected is None:  # most kernels have a pump and never need it
            self._collected = ctypes.create_string_buffer(COLLECT_BYTES + self.spec.slot_bytes)
            self._collected_address = ctypes.addressof(self._collected)
        size_bytes = self._native.collect(
            self._entry_address, self._collected_address, len(self._collected)
        )
        if size_bytes == 0:
            return None
        data = ctypes.string_at(self._collected_address, size_bytes)
        report = parse_reports(data, lambda _key, handle: self.take_array(handle))[0]
        self.release_arrays()
        return report

    # The pump's side

    def take_array(self, handle: int) -> memoryview:
        """Return a copy of an output's array: uint8[n]; raises ``DeviceError`` once closed."""
        return self._reply_bulk.read(handle)

    def release_arrays(self) -> None:
        """Give the credits of messages whose outputs' arrays were reported: they are copied."""
        with self._reply_bulk.kept() as is_open:
            if is_open:
                self._native.release(self._entry_address)

    def close(self) -> None:
        """Stop the grid if it runs, and free everything; the second time nothing happens.

        Raises:
            DeviceError: the grid could not be stopped, and nothing was freed; or memory could not
                be freed, all the rest was.
        """
        self.end()
        self.free()
