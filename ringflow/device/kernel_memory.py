"""A persistent kernel's memory on one device: regions, rings, and the words that both sides read.

- The variables that the code writes to are regions too, after the declared ones.
- It outlives launches: ``prepare`` writes anew what a launch begins with, never the regions.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ringflow.device import abi
from ringflow.device.abi import CONTROL, Command, KernelFault, KernelState
from ringflow.device.api import Allocation, Device, LoadedCode, MappedAllocation
from ringflow.device.bulk import MessageArena, ReplyArena
from ringflow.device.dirty import DirtyMarks, DirtyTable
from ringflow.device.native import native
from ringflow.device.native.layouts import ENTRY
from ringflow.errors import DeviceError, RegionMismatchError
from ringflow.files import Buffer
from ringflow.spec import KernelSpec, Region

if TYPE_CHECKING:
    from ringflow.device.host.memory import HostAllocation


class KernelMemory:
    """What a kernel has on its device, and in memory that host and device share.

    Attributes:
        layout: all regions, those of the code's variables last.
        regions: their allocations by name.
        bulk: the arena for messages' arrays.
    """

    def __init__(self, device: Device, code: LoadedCode, spec: KernelSpec) -> None:
        """Allocate everything, zeroed; all is freed again if one piece fails."""
        from ringflow.device.host.pieces import Piece

        self._native = native()
        self.device, self.code, self.spec = device, code, spec
        self._allocations: list[Allocation] = []
        self._dirty: DirtyMarks | None = None
        self._prepared = False
        self._emissions_closed = False
        self.bulk, self._reply_bulk = MessageArena(None), ReplyArena(None)
        self._entry: HostAllocation | None = Piece(ENTRY.size_bytes, label="entry")
        try:
            self._allocate()
            self._prepare_entry(key=0, base_sequence=0)
        except BaseException:
            self.free()
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

    def free(self) -> None:
        """Give everything back; the second time nothing happens.

        Raises:
            DeviceError: a piece was not freed, and is lost; all others are.
        """
        self.bulk.close()
        self._reply_bulk.close()
        failure: DeviceError | None = None
        while self._allocations:
            try:
                self.device.free(self._allocations.pop())
            except DeviceError as error:
                failure = failure or error
        if self._entry is not None:
            self._entry.release()
            self._entry = None
        if failure is not None:
            raise failure

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

    # What a launch begins with

    def prepare(
        self, command: Command, *, key: int, base_sequence: int, epoch: int, output_index: int
    ) -> int:
        """Write control block, workspace and entry for a launch; return its generation.

        Args:
            key: the pump's name for the kernel, 0 without a pump.
        """
        spec = self.spec
        dirty = self._dirty
        if dirty is not None and self._prepared:
            dirty.note_swapped(self._load_u32("dirty_swapped"))
        busy_ns = self._load("busy_ns") if self._prepared else 0
        self._prepared = True
        generation = abi.next_generation(self._load("doorbell"))
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
            "base_sequence": base_sequence,
            "epoch": epoch,
            "emit_slots": abi.emit_slots(
                spec.ring_slots, spec.reply_slots, spec.max_replies, spec.reply_shares
            ),
            "done_sequence": base_sequence,
            "taken_sequence": base_sequence,
            "dirty_epoch": dirty.requested if dirty is not None else 0,
            "emissions_closed": self._emissions_closed,
            "dirty_swapped": dirty.swapped if dirty is not None else 0,
            "busy_ns": busy_ns,
        }
        for word in CONTROL.words:
            if word.name in values:
                kind = ctypes.c_uint64 if word.size_bytes == 8 else ctypes.c_uint32
                kind.from_address(self._control_host + word.offset_bytes).value = values[word.name]
        work = self._new_workspace(base_sequence, output_index, busy_ns)
        self.device.copy_in(self._workspace, work)
        self.bulk.reset()
        self._prepare_entry(key, base_sequence)
        return generation

    def _new_workspace(self, base_sequence: int, output_index: int, busy_ns: int) -> bytearray:
        """Return a workspace for a launch, with a batch of zeros."""
        spec, work = self.spec, bytearray(abi.workspace_bytes(self.spec.slot_bytes))
        values = {
            "sequence": base_sequence,
            "output_index": output_index,
            "busy_ns": busy_ns,
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

    def _prepare_entry(self, key: int, base_sequence: int) -> None:
        spec = self.spec
        ctypes.memset(self._entry_address, 0, ENTRY.size_bytes)
        self._put_entry("control", "Q", self._control_host)
        self._put_entry("messages", "Q", self._messages[1])
        self._put_entry("replies", "Q", self._replies[1])
        self._put_entry("room", "Q", self._native.room)
        self._put_entry("key", "I", key)
        self._put_entry("polled", "I", not self.device.rings)
        self._put_entry("message_slots", "I", spec.ring_slots)
        self._put_entry("reply_slots", "I", spec.reply_slots)
        self._put_entry("slot_bytes", "I", spec.slot_bytes)
        credits = abi.credits(
            spec.ring_slots, spec.reply_slots, spec.max_replies, spec.reply_shares
        )
        self._put_entry("credits", "I", credits)
        self._put_entry("seen_done", "Q", base_sequence)

    def _put_entry(self, word: str, code: str, value: int) -> None:
        assert self._entry is not None, "the kernel is closed"
        struct.pack_into("=" + code, self._entry.view, ENTRY[word], value)

    # What the kernel says

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
    def busy_ns(self) -> int:
        """Nanoseconds in finished messages by the device's clock, since the memory was made.

        Source: ``%globaltimer``, from the first message of each batch to its report as done.
        """
        return self._load("busy_ns")

    @property
    def steps(self) -> int:
        """``step()`` boundaries that the kernel has passed since its launch."""
        return self._load("steps")

    @property
    def echo(self) -> int:
        """The last ping that the kernel has seen."""
        return self._load("echo")

    @property
    def fault(self) -> KernelFault:
        return KernelFault(self._load_u32("fault"))

    def _load(self, word: str) -> int:
        return self._native.load(self._control_host + CONTROL[word])

    def _load_u32(self, word: str) -> int:
        return self._native.load_u32(self._control_host + CONTROL[word])

    @property
    def entry_address(self) -> int:
        """The address of what the native pump knows of the kernel."""
        return self._entry_address

    @property
    def _entry_address(self) -> int:
        assert self._entry is not None, "the kernel is closed"
        return self._entry.address
