"""A GPU's memory: pieces of what was taken when the device was opened, copies, and digests.

- Two arenas: the GPU's own memory, and pinned host memory that kernels see. Nothing is taken from
  the driver later, since that may wait for running kernels.
- Copies go by DMA, so they work beside grids that fill the GPU; what needs SMs asks the ledger.
- A freed piece is handed out again when no grid, no other library and no late copy can use it.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Any, Final, final

from ringflow.device.api import Allocation, Device, DeviceGlobal
from ringflow.device.cuda import driver
from ringflow.device.cuda.arena import CudaAllocation, CudaArena, rounded
from ringflow.device.cuda.context import CudaContext
from ringflow.device.cuda.launches import Launches
from ringflow.device.cuda.loans import Loan, Loans
from ringflow.device.cuda.memory_kernels import MemoryKernels
from ringflow.device.cuda.peers import SCRATCH_BYTES, Member, shared_peers
from ringflow.device.cuda.staging import STAGING_BYTES, Staging
from ringflow.device.cuda.topology import STAGED, WITHIN
from ringflow.device.cuda.unfinished import Unfinished
from ringflow.errors import DeviceError
from ringflow.files import Buffer
from ringflow.storage.blocks import block_digests

MEMORY_SHARE: Final = 0.9
"""Of the memory that is free when the device is opened, unless a limit is given."""
OUT_OF_MEMORY: Final = 2
THROUGH_HOST_BYTES: Final = 64 << 20
"""What passes through the host's memory at a time."""
LATE_DEADLINE_S: Final = 1.0
"""How long a closing waits for copies that had been given up; their memory is left after it."""


@final
class CudaMemory:
    """The memory of one device.

    Attributes:
        arena, mapped: the GPU's own, and the host's that kernels see.
        scratch: address of ``SCRATCH_BYTES`` behind the arena; see ``Member``.
        launches, kernels, member: what uses the memory, set once each is there.
    """

    launches: Launches
    kernels: MemoryKernels | None = None
    member: Member

    def __init__(
        self, context: CudaContext, *, memory_bytes: int | None, mapped_bytes: int
    ) -> None:
        """Take the memory; ``current`` is needed.

        Raises:
            DeviceError: there is not so much; nothing stays taken.
        """
        self._context = context
        if memory_bytes is None:
            free_bytes, _ = context.call("cuMemGetInfo")
            memory_bytes = int(free_bytes * MEMORY_SHARE)
        memory_bytes, mapped_bytes = rounded(memory_bytes), rounded(mapped_bytes)
        self._memory = context.call("cuMemAlloc", memory_bytes + SCRATCH_BYTES)
        self.scratch = int(self._memory) + memory_bytes
        flags = driver.bindings()
        try:
            self._pinned = context.call(
                "cuMemHostAlloc",
                mapped_bytes + STAGING_BYTES,
                flags.CU_MEMHOSTALLOC_DEVICEMAP | flags.CU_MEMHOSTALLOC_PORTABLE,
            )
        except DeviceError as error:
            driver.give_back("cuMemFree", self._memory)
            if error.code != driver.code_name(OUT_OF_MEMORY):
                raise
            raise DeviceError(
                f"{error.call} failed with {error.code}: the host has no {mapped_bytes} bytes of "
                "memory that can be locked; give open_device a smaller mapped_limit_bytes, or "
                "raise the limit of locked memory (ulimit -l, or the container's)",
                call=error.call,
                code=error.code,
            ) from error
        try:
            self._divide(memory_bytes, mapped_bytes)
        except DeviceError:
            self.release_pinned()
            self.release()
            raise

    def _divide(self, memory_bytes: int, mapped_bytes: int) -> None:
        context, host_address = self._context, int(self._pinned)
        self.arena = CudaArena(context.name, int(self._memory), memory_bytes)
        self.mapped = CudaArena(
            context.name,
            int(context.call("cuMemHostGetDevicePointer", self._pinned, 0)),
            mapped_bytes,
            host_address=host_address,
            what="of memory shared with the host",
            advice="stop a kernel, give it smaller rings or less bulk, or open the device with a "
            "larger mapped_limit_bytes",
        )
        self.staging = Staging(context, host_address + mapped_bytes)
        self.loans = Loans(self.arena.settle)
        self._unfinished = Unfinished(context)
        self._elsewhere: frozenset[Unfinished] = frozenset()  # other GPUs' that keep memory here
        self._variables: dict[int, CudaAllocation] = {}

    def release_pinned(self) -> None:
        """Give the host's memory back; ``current`` is needed, and no kernel may run."""
        driver.give_back("cuMemFreeHost", self._pinned)

    def release(self) -> None:
        """Give the GPU's memory back; ``current`` is needed, and no kernel may run."""
        driver.give_back("cuMemFree", self._memory)

    def await_late_copies(self) -> None:
        """Wait a moment for copies that were given up."""
        self._unfinished.wait(LATE_DEADLINE_S)

    def add_variable(self, variable: DeviceGlobal) -> None:
        """Let copies find a variable of loaded code."""
        self._variables[variable.address] = CudaAllocation(
            variable.address, variable.size_bytes, variable.label
        )

    def remove_variable(self, variable: DeviceGlobal) -> None:
        """Forget a variable: its code is unloaded."""
        self._variables.pop(variable.address, None)

    # Pieces

    def allocate(self, size_bytes: int, *, label: str) -> CudaAllocation:
        """Take zeroed memory of the GPU; raises ``DeviceMemoryError``."""
        self._context.check()
        self.collect()
        made = self.arena.take(size_bytes, label=label)
        try:
            with _kept_if_late((self, self.staging.streams[0], made)):
                self.staging.zero(made.address, size_bytes)
        except BaseException:
            self.free(made)
            raise
        return made

    def collect(self) -> None:
        """Take back what was freed while something else could still use it."""
        for unfinished in (self._unfinished, *self._elsewhere):
            unfinished.settle()
        self.loans.collect()

    def allocate_mapped(self, size_bytes: int, *, label: str) -> CudaAllocation:
        """Take zeroed host memory that kernels see; raises ``DeviceMemoryError``."""
        self._context.check()
        made = self.mapped.take(size_bytes, label=label)
        ctypes.memset(made.host_address, 0, size_bytes)
        return made

    def lend(self, allocation: Allocation) -> Loan:
        """Keep an allocation's memory as it is, freed or not, for as long as the result lives.

        Raises:
            DeviceError: it is not this device's own memory.
        """
        self._checked(allocation, 0, allocation.size_bytes, "lend")
        if self.arena.find(allocation.address) is None:
            raise DeviceError(
                f"{allocation.label!r} can't be lent: it is shared with the host, or a variable of "
                "loaded code; copy it",
                call="lend",
                code="not lendable",
            )
        return self.loans.lend(allocation.address)

    def free(self, allocation: Allocation) -> None:
        """Give memory back; what a live grid, or another library, may use is kept until it ends.

        Raises:
            DeviceError: it is not this device's, or was freed before.
        """
        address = allocation.address
        arena = self.mapped if self.mapped.has(address) else self.arena
        with self.launches.still, self.loans.freeing(address) as is_lent:
            users = self.launches.users_of(address)
            arena.free(address, holds=len(users) + is_lent)
            for user in users:
                user.when_ended.append(lambda: arena.settle(address))

    def copy_in(self, target: Allocation, data: Buffer, *, offset_bytes: int = 0) -> None:
        """Copy bytes to device memory; raises ``DeviceError`` if they reach past its end."""
        source = memoryview(data).cast("B")
        at = self._checked(target, offset_bytes, len(source), "copy_in")
        if not len(source):
            return
        if at.host_address:
            memory = (ctypes.c_ubyte * len(source)).from_address(at.host_address + offset_bytes)
            memoryview(memory).cast("B")[:] = source
        else:
            with _kept_if_late((self, self.staging.streams[0], at)):
                self.staging.copy_in(at.address + offset_bytes, source)

    def copy_out(
        self, source: Allocation, *, offset_bytes: int = 0, size_bytes: int | None = None
    ) -> memoryview:
        """Return a copy (uint8) of device memory; raises ``DeviceError`` past its end."""
        if size_bytes is None:
            size_bytes = source.size_bytes - offset_bytes
        at = self._checked(source, offset_bytes, size_bytes, "copy_out")
        if at.host_address:
            data = ctypes.string_at(at.host_address + offset_bytes, size_bytes)
            return memoryview(bytearray(data))
        if not size_bytes:
            return memoryview(bytearray())
        with _kept_if_late((self, self.staging.streams[1], at)):
            return self.staging.copy_out(at.address + offset_bytes, size_bytes)

    def view(self, source: Allocation) -> memoryview | None:
        """Return mapped memory itself; ``None`` for memory of the GPU, which needs a copy."""
        at = self._checked(source, 0, source.size_bytes, "view")
        if not at.host_address:
            return None
        return memoryview((ctypes.c_ubyte * at.size_bytes).from_address(at.host_address)).cast("B")

    def copy_to_gpu(self, source: Allocation, peer: CudaMemory, target: Allocation) -> str:
        """Copy a whole allocation to a GPU's memory, which may be this one; return the path."""
        at = self._checked(source, 0, source.size_bytes, "copy_to_peer")
        there = peer._checked(target, 0, target.size_bytes, "copy_to_peer")
        is_within = peer._context.uuid == self._context.uuid
        if at.host_address or there.host_address:
            return self._through_host(at, peer, there)
        if not is_within:
            with _kept_if_late((self, self.member.stream, at), (peer, peer.member.stream, there)):
                return shared_peers().copy(
                    self.member, at.address, peer.member, there.address, at.size_bytes
                )
        # A copy of the driver's would use SMs, which grids may hold for ever.
        if self.kernels and self.kernels.copy(at.address, there.address, at.size_bytes):
            return WITHIN
        return self._through_host(at, peer, there)

    def _through_host(self, source: CudaAllocation, peer: CudaMemory, target: Allocation) -> str:
        for start, data in self.pieces(source):
            peer.copy_in(target, data, offset_bytes=start)
        return STAGED

    def copy_to_host(self, source: Allocation, peer: Device, target: Allocation) -> None:
        """Copy a whole allocation to a device of another kind."""
        at = self._checked(source, 0, source.size_bytes, "copy_to_peer")
        into = peer.view(target)
        if into is None or at.host_address:
            for start, data in self.pieces(at):
                peer.copy_in(target, data, offset_bytes=start)
        elif at.size_bytes:
            with _kept_if_late((self, self.staging.streams[1], at)):
                self.staging.copy_out(at.address, at.size_bytes, into=into)

    def pieces(self, source: Allocation) -> Iterator[tuple[int, memoryview]]:
        """Copy an allocation out piece by piece: each piece's offset and its bytes (uint8)."""
        for start in range(0, source.size_bytes, THROUGH_HOST_BYTES):
            size_bytes = min(THROUGH_HOST_BYTES, source.size_bytes - start)
            yield start, self.copy_out(source, offset_bytes=start, size_bytes=size_bytes)

    def digest_blocks(self, source: Allocation) -> bytes:
        """Return the 16-byte xxh3-128 of each 64 KiB block, read from the device's memory.

        A kernel reads it there if there is room for one beside what runs, else it is copied out.
        """
        at = self._checked(source, 0, source.size_bytes, "digest_blocks")
        if self.kernels is not None and not at.host_address:
            digests = self.kernels.digest(at.address, at.size_bytes)
            if digests is not None:
                return digests
        return b"".join(block_digests(data) for _, data in self.pieces(at))

    def _checked(
        self, allocation: Allocation, offset_bytes: int, size_bytes: int, call: str
    ) -> CudaAllocation:
        """Return an allocation as the device knows it; raises ``DeviceError`` past its end."""
        self._context.check()
        address = allocation.address
        arena = self.mapped if self.mapped.has(address) else self.arena
        found = arena.find(address) or self._variables.get(address)
        if found is None:
            raise DeviceError(
                f"{allocation.label!r} is not an allocation of {self._context.name!r}",
                call=call,
                code="unknown allocation",
            )
        if offset_bytes < 0 or size_bytes < 0 or offset_bytes + size_bytes > found.size_bytes:
            raise DeviceError(
                f"{size_bytes} bytes at {offset_bytes} reach past the {found.size_bytes} bytes of "
                f"{found.label!r}",
                call=call,
                code="range",
            )
        return found


@contextlib.contextmanager
def _kept_if_late(*ends: tuple[CudaMemory, Any, CudaAllocation]) -> Iterator[None]:
    """Where the block fails, keep what it copies from other uses until no copy can come any more.

    Args:
        ends: a device's memory, the stream of it that may make the copy, and the piece.
    """
    try:
        yield
    except BaseException:  # whatever it was: what has been issued still comes
        for memory, stream, _ in ends:
            for holder, _, at in ends:
                if holder is not memory:
                    holder._elsewhere |= {memory._unfinished}
                memory._unfinished.add(stream, holder.loans.keep(at.address))
        raise
