"""One persistent kernel on one device: its memory, its rings and its launches.

- Whoever posts, commands and relaunches does so from one thread at a time for each of them.
- Memory outlives launches: after RETURN the regions hold the state, and ``relaunch`` goes on.
- The variables that the code writes to are regions too, after the declared ones.
- A message that was posted but not finished is the poster's to post again after a relaunch.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from ringflow.device import abi
from ringflow.device.abi import CONTROL, Command, KernelFault, KernelState
from ringflow.device.api import (
    Allocation,
    Device,
    Launch,
    LaunchStatus,
    LoadedCode,
    MappedAllocation,
    Stepping,
    stepping_of,
)
from ringflow.device.bulk import MessageArena, ReplyArena
from ringflow.device.dirty import DirtyMarks, DirtyTable, no_marks
from ringflow.device.native import native, timeout_ns
from ringflow.device.native.layouts import AWAIT_ENDED, AWAIT_REACHED, AWAIT_TIMEOUT, ENTRY
from ringflow.device.parameters import check_parameters
from ringflow.device.posting import Posting, check_bulk_size, encode_slots
from ringflow.device.pump import PumpReport, parse_reports
from ringflow.errors import (
    DeviceError,
    KernelStalledError,
    KernelStateError,
    KernelTrappedError,
    RegionMismatchError,
)
from ringflow.files import Buffer
from ringflow.spec import Dim3, KernelSpec, Region

if TYPE_CHECKING:
    from ringflow.device.host.memory import HostAllocation
    from ringflow.device.pump import Pump

COLLECT_BYTES: Final = 1 << 16
_SEQUENCE: Final = struct.Struct("<Q")
assert abi.MESSAGE_SLOT["sequence"] == 0


class ResidentKernel:
    """A persistent kernel's memory on a device, and its launch."""

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
        from ringflow.device.host.pieces import Piece

        check_parameters(spec, code)
        self._native = native()
        self.device, self.code, self.spec, self.grid = device, code, spec, grid
        self._stepping = stepping_of(device)
        self._launch: Launch | None = None
        self._pump: Pump | None = None
        self._key = 0
        self._allocations: list[Allocation] = []
        self._dirty: DirtyMarks | None = None
        self.bulk, self._reply_bulk = MessageArena(None), ReplyArena(None)
        self._entry: HostAllocation | None = Piece(ENTRY.size_bytes, label="entry")
        self._entry_address = self._entry.address
        self._collected: ctypes.Array[ctypes.c_char] | None = None
        self._collected_address = 0
        self._base_sequence, self._epoch = base_sequence, epoch
        self._posted_sequence = base_sequence
        self._output_index = 0
        try:
            self._allocate()
            self._prepare_entry()
        except BaseException:
            self.close()
            raise

    def _allocate(self) -> None:
        device, spec = self.device, self.spec
        label = spec.kernel_id

        def take(size_bytes: int, what: str) -> Allocation:
            self._allocations.append(device.allocate(size_bytes, label=f"{label}/{what}"))
            return self._allocations[-1]

        def take_mapped(size_bytes: int, what: str) -> tuple[int, int]:
            mapped = device.allocate_mapped(size_bytes, label=f"{label}/{what}")
            self._allocations.append(mapped)
            return mapped.address, mapped.host_address

        regions = {region.name: take(region.size_bytes, region.name) for region in spec.regions}
        variables = self.code.globals
        self.layout: tuple[Region, ...] = (*spec.regions, *(one.region for one in variables))
        self.regions: Mapping[str, Allocation] = {**regions, **{v.label: v for v in variables}}
        self._workspace = take(abi.workspace_bytes(spec.slot_bytes), "workspace")
        if spec.track_dirty:
            table = DirtyTable(self.regions)
            self._dirty = DirtyMarks(device, label, table, take(table.size_bytes, "dirty"))
        self._control, self._control_host = take_mapped(abi.CONTROL_BYTES, "control")
        self._messages = take_mapped(spec.ring_slots * spec.slot_bytes, "messages")
        self._replies = take_mapped(spec.reply_slots * spec.slot_bytes, "replies")

        def take_arena(size_bytes: int, what: str) -> MappedAllocation | None:
            if size_bytes == 0:
                return None
            arena = device.allocate_mapped(size_bytes, label=f"{label}/{what}")
            self._allocations.append(arena)
            return arena

        self.bulk = MessageArena(take_arena(spec.bulk_bytes, "bulk"))
        reply_bytes = spec.reply_shares * spec.reply_share_bytes
        self._reply_bulk = ReplyArena(take_arena(reply_bytes, "reply bulk"))

    # State

    def write_region(self, name: str, data: Buffer) -> None:
        """Fill a region; raises ``RegionMismatchError`` if the size is not the region's."""
        allocation = self._region(name)
        size_bytes = memoryview(data).nbytes
        if size_bytes != allocation.size_bytes:
            raise RegionMismatchError(name, f"{size_bytes} bytes", f"{allocation.size_bytes} bytes")
        self.device.copy_in(allocation, data)

    def read_region(self, name: str) -> memoryview:
        """Return a copy of a region: uint8[size_bytes]."""
        return self.device.copy_out(self._region(name))

    def digests(self) -> dict[str, bytes]:
        """Return each region's block digests (16 bytes a 64 KiB block), read on the device."""
        return {name: self.device.digest_blocks(region) for name, region in self.regions.items()}

    @property
    def unlisted(self) -> str:
        """Why the regions are not all of the kernel's state; empty where they are."""
        return self.code.unlisted

    @property
    def state_bytes(self) -> int:
        """Size of all regions, those of the code's variables included."""
        return sum(region.size_bytes for region in self.layout)

    def _region(self, name: str) -> Allocation:
        if name not in self.regions:
            self.spec.region(name)
        return self.regions[name]

    # Launches

    def launch(self, *, gate_open: bool, timeout_s: float) -> None:
        """Launch the grid, and wait until all of its blocks have arrived at their first boundary.

        Args:
            gate_open: if not, the kernel is held there, before any message; ``RUN`` opens it.
        Raises:
            KernelTrappedError: it trapped before.
            KernelStalledError: it did not arrive in time, or ended; it has been stopped.
        """
        if self._launch is not None and self._launch.status is LaunchStatus.RUNNING:
            raise KernelStateError(self.spec.kernel_id, "launched", "ended")
        if self._pump is not None:
            self._pump.suspend(self)
        try:
            generation = self._prepare(Command.RUN if gate_open else Command.HOLD)
            self._launch = self._start()
            self._put_entry("status", "Q", self._launch.status_address)
        finally:
            if self._pump is not None:
                self._pump.resume(self)
        try:
            self.await_generation(generation, timeout_s)
        except KernelStalledError:
            self._launch.abort()
            raise
        started = self._load("started")
        assert started == self._epoch, f"started word is {started}, the epoch {self._epoch}"

    def _start(self) -> Launch:
        spec = self.spec
        declared = (self.regions[region.name].address for region in spec.regions)
        addresses = [self._control, *declared]
        parameters = [struct.pack("<Q", address) for address in addresses]
        parameters += [argument.value for argument in spec.arguments]
        return self.device.launch(
            self.code,
            spec.code.entry_point,
            grid=self.grid,
            block=spec.block,
            parameters=tuple(parameters),
            dynamic_shared_bytes=spec.dynamic_shared_bytes,
            memory=tuple(self._allocations),
        )

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
        if self._launch is not None and self.status is LaunchStatus.RUNNING:
            raise KernelStateError(self.spec.kernel_id, "running", "ended before a relaunch")
        if self._load("reply_head") != self._load("reply_tail"):
            raise KernelStateError(self.spec.kernel_id, "not drained", "drained by the pump first")
        self._base_sequence, self._epoch = base_sequence, epoch
        self._posted_sequence = base_sequence
        self._output_index = output_index
        self.launch(gate_open=gate_open, timeout_s=timeout_s)

    def _prepare(self, command: Command) -> int:
        """Write control block, workspace and entry for a launch; return its generation."""
        spec = self.spec
        dirty = self._dirty
        if dirty is not None and self._launch is not None:
            dirty.note_swapped(self._load_u32("dirty_swapped"))
        generation = (self._load("doorbell") >> 32 & abi.GENERATION_MASK) + 1
        generation = generation & abi.GENERATION_MASK or 1
        ctypes.memset(self._control_host, 0, abi.CONTROL_BYTES)
        values = {
            "doorbell": abi.doorbell(0, generation, command),
            "magic": abi.ABI_MAGIC,
            "version": abi.ABI_VERSION,
            "work": self._workspace.address,
            "messages": self._messages[0],
            "replies": self._replies[0],
            "message_slots": spec.ring_slots,
            "reply_slots": spec.reply_slots,
            "slot_bytes": spec.slot_bytes,
            "max_replies": spec.max_replies,
            "base_sequence": self._base_sequence,
            "epoch": self._epoch,
            "emit_slots": abi.emit_slots(
                spec.ring_slots, spec.reply_slots, spec.max_replies, spec.reply_shares
            ),
            "done_sequence": self._base_sequence,
            "taken_sequence": self._base_sequence,
            "dirty_epoch": dirty.requested if dirty is not None else 0,
            "dirty_swapped": dirty.swapped if dirty is not None else 0,
        }
        for word in CONTROL.words:
            if word.name in values:
                kind = ctypes.c_uint64 if word.size_bytes == 8 else ctypes.c_uint32
                kind.from_address(self._control_host + word.offset_bytes).value = values[word.name]
        self.device.copy_in(self._workspace, self._new_workspace())
        self.bulk.reset()
        self._prepare_entry()
        return generation

    def _new_workspace(self) -> bytearray:
        """Return a workspace for a launch; the batch after it is overwritten as it fills."""
        spec, work = self.spec, bytearray(abi.WORKSPACE.size_bytes)
        values = {
            "sequence": self._base_sequence,
            "output_index": self._output_index,
            "bulk": self.bulk.address,
            "reply_bulk": self._reply_bulk.address,
            "share_bytes": spec.reply_share_bytes,
            "shares": spec.reply_shares,
            "max_reply_data": spec.max_reply_data_bytes,
            **(self._dirty.words if self._dirty is not None else {}),
        }
        for word in abi.WORKSPACE.words:
            if word.name in values:
                code = "<Q" if word.size_bytes == 8 else "<I"
                struct.pack_into(code, work, word.offset_bytes, values[word.name])
        return work

    def _prepare_entry(self) -> None:
        spec = self.spec
        ctypes.memset(self._entry_address, 0, ENTRY.size_bytes)
        self._put_entry("control", "Q", self._control_host)
        self._put_entry("messages", "Q", self._messages[1])
        self._put_entry("replies", "Q", self._replies[1])
        self._put_entry("room", "Q", self._native.room)
        self._put_entry("key", "I", self._key)
        self._put_entry("message_slots", "I", spec.ring_slots)
        self._put_entry("reply_slots", "I", spec.reply_slots)
        self._put_entry("slot_bytes", "I", spec.slot_bytes)
        credits = abi.credits(
            spec.ring_slots, spec.reply_slots, spec.max_replies, spec.reply_shares
        )
        self._put_entry("credits", "I", credits)
        self._put_entry("seen_done", "Q", self._base_sequence)

    def _put_entry(self, word: str, code: str, value: int) -> None:
        assert self._entry is not None, "the kernel is closed"
        struct.pack_into("=" + code, self._entry.view, ENTRY[word], value)

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

    def command(self, command: Command) -> int:
        """Give a command; return the generation under which the kernel will report."""
        generation = self._native.command(self._entry_address, command)
        self._rouse()
        return generation

    def ping(self, value: int) -> None:
        """Ask for a sign of life: while it waits for messages the kernel answers in ``echo``."""
        self._native.ping(self._entry_address, value)
        self._rouse()

    def _rouse(self) -> None:
        """On a device that is moved by the pump, let a waiting pump move it."""
        if self._stepping is not None and self._pump is not None:
            self._pump.wake()

    def await_generation(self, generation: int, timeout_s: float) -> KernelState:
        """Block until the kernel reports under a generation; return the state.

        Raises:
            KernelTrappedError: it trapped.
            KernelStalledError: the time is up, or it ended otherwise.
        """
        result = self._await(self._native.await_generation, generation, timeout_s)
        if result == AWAIT_REACHED:
            return self.state
        raise self._unreached(result, timeout_s)

    def _unreached(self, result: int, timeout_s: float) -> DeviceError:
        """Return the error for a wait that has ended in something else."""
        name = self.spec.kernel_id
        if result == AWAIT_TIMEOUT:
            return KernelStalledError(
                f"kernel {name!r} did not reach a message boundary within {timeout_s:g} s; look "
                "for a loop that does not end or a collective call that not all threads make",
                call="await",
                code="timeout",
            )
        if self.status is LaunchStatus.TRAPPED:
            return KernelTrappedError(
                f"kernel {name!r} trapped: {self.detail}; restore it from its recovery point",
                call="await",
                code=self.fault.name.lower(),
            )
        return KernelStalledError(
            f"kernel {name!r} ended ({self.status.name.lower()}) before it answered; it must "
            "call receive or step until that returns false",
            call="await",
            code="ended",
        )

    def _await(
        self, native_await: Callable[[int, int, int], int], number: int, timeout_s: float
    ) -> int:
        def look(longest_ns: int) -> int:
            return native_await(self._entry_address, number, longest_ns)

        if self._stepping is None:
            return look(timeout_ns(timeout_s))
        self._stepping.run_until(lambda: look(0) != AWAIT_TIMEOUT, timeout_s)
        return look(0)

    def wait_ended(self, timeout_s: float) -> LaunchStatus:
        """Block until the grid has ended or the time is up; return the launch's status."""
        return self._launched().wait(timeout_s)

    def abort(self) -> None:
        """Stop the grid where it is; its regions are then not to be trusted."""
        self._launched().abort()

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
    def launched(self) -> bool:
        return self._launch is not None

    @property
    def status(self) -> LaunchStatus:
        return self._launched().status

    @property
    def detail(self) -> str:
        """What trapped and where."""
        fault = self.fault
        detail = self._launched().detail
        return f"{fault.name.lower().replace('_', ' ')}, {detail}" if fault else detail

    @property
    def log(self) -> str:
        """What the kernel has printed in this launch, as far as it is kept."""
        return self._launched().log

    @property
    def state(self) -> KernelState:
        return KernelState(self._load("state") & 0xFF)

    @property
    def generation(self) -> int:
        """The generation of the last command that the kernel obeyed."""
        return self._load("state") >> 8

    @property
    def done_sequence(self) -> int:
        """The last message that the kernel has reported as finished."""
        return self._load("done_sequence")

    @property
    def taken_sequence(self) -> int:
        """The message in progress, or the last one: the suspect when the kernel trapped."""
        return self._load("taken_sequence")

    @property
    def echo(self) -> int:
        """The last ping that the kernel has seen."""
        return self._load("echo")

    @property
    def posted_sequence(self) -> int:
        """The last message posted in this launch, or its base sequence."""
        return self._posted_sequence

    @property
    def fault(self) -> KernelFault:
        return KernelFault(self._load_u32("fault"))

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

    def _load(self, word: str) -> int:
        return self._native.load(self._control_host + CONTROL[word])

    def _load_u32(self, word: str) -> int:
        return self._native.load_u32(self._control_host + CONTROL[word])

    def _launched(self) -> Launch:
        if self._launch is None:
            raise KernelStateError(self.spec.kernel_id, "not launched", "launched")
        return self._launch

    # The pump's side

    @property
    def stepping(self) -> Stepping | None:
        """What has to move the kernel's device; ``None`` if it goes on by itself."""
        return self._stepping

    @property
    def entry_address(self) -> int:
        """The address of what the native pump knows of the kernel."""
        return self._entry_address

    def take_array(self, handle: int) -> memoryview:
        """Return a copy of an output's array: uint8[n]; raises ``DeviceError`` once closed."""
        return self._reply_bulk.read(handle)

    def release_arrays(self) -> None:
        """Give the credits of messages whose outputs' arrays were reported: they are copied."""
        with self._reply_bulk.kept() as is_open:
            if is_open:
                self._native.release(self._entry_address)

    def attach(self, pump: Pump, key: int) -> None:
        """Note the pump that watches the kernel; for ``Pump.register``."""
        if self._pump is not None:
            raise KernelStateError(self.spec.kernel_id, "on a pump", "without one")
        self._pump, self._key = pump, key
        self._put_entry("key", "I", key)

    def detach(self) -> None:
        """Forget the pump; for ``Pump.unregister``."""
        self._pump, self._key = None, 0

    def close(self) -> None:
        """Stop the grid if it runs, and free everything; the second time nothing happens.

        Raises:
            DeviceError: the grid could not be stopped; nothing was freed.
        """
        if self._pump is not None:
            self._pump.unregister(self._key)
        if self._launch is not None and self._launch.status is LaunchStatus.RUNNING:
            self._launch.abort()
            if self._launch.status is LaunchStatus.RUNNING:
                raise DeviceError(f"kernel {self.spec.kernel_id!r} cannot be stopped", call="abort")
        self.bulk.close()
        self._reply_bulk.close()
        while self._allocations:
            self.device.free(self._allocations.pop())
        if self._entry is not None:
            self._entry.release()
            self._entry = None
