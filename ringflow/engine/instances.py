"""Instances: a kernel's code and memory on one device; built, filled, read and freed here.

- Every function blocks and is called in a worker thread.
- What fails half-way gives back what it took.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import attrs

from ringflow.code_source import CodeFormat
from ringflow.device.api import Device, LaunchStatus, LoadedCode, check_room
from ringflow.device.arrays import read
from ringflow.device.compiler.api import CompiledCode, code_from_ptx, compile_source
from ringflow.device.compiler.cache import CompileCache
from ringflow.device.compiler.headers import spec_headers
from ringflow.device.resident import ResidentKernel
from ringflow.errors import (
    CorruptError,
    DeviceError,
    KernelStalledError,
    RegionMismatchError,
    SpecError,
    UnlistedStateError,
)
from ringflow.spec import GLOBAL_PREFIX, Dim3, KernelSpec, Region
from ringflow.storage import Checkpoint, CheckpointBuilder, region_digest

OUTPUT_INDEX_KEY: Final = "output_index"


@attrs.frozen(eq=False)
class Instance:
    """A kernel's loaded code and its resident memory on one device."""

    device: Device
    spec: KernelSpec
    compiled: CompiledCode
    code: LoadedCode
    resident: ResidentKernel

    def close(self) -> None:
        """Give memory and code back; a grid that still runs is aborted first.

        Raises:
            DeviceError: the grid can't be stopped, and keeps what it may use until it has ended; or
                some memory can't be given back. All the rest was.
        """
        if (left := self._give_up()) is not None:
            raise left

    def discard(self) -> None:
        """Close it; memory that can't be given back keeps nobody from work.

        Raises:
            DeviceError: the grid can't be stopped, and keeps what it may use until it has ended.
        """
        self._give_up()

    def _give_up(self) -> DeviceError | None:
        """Stop the grid and give all back; return why some memory can't be."""
        try:
            self.resident.end()
        finally:
            left = None
            try:
                self.resident.free()
            except DeviceError as error:
                left = error
            self.device.unload(self.code)
        return left


def compile_for(spec: KernelSpec, device: Device, cache: CompileCache | None) -> CompiledCode:
    """Compile a spec's code for a device.

    Raises:
        CompileError, EntryPointError: the source is at fault.
        SpecError: the code is in a form that this device does not run.
    """
    code = spec.code
    if code.format is CodeFormat.SOURCE:
        return compile_source(
            code.text,
            entry_point=code.entry_point,
            target=device.target,
            headers=spec_headers(spec),
            name=f"{spec.kernel_type}.cu",
            cache=cache,
        )
    if code.format is CodeFormat.PTX and device.target.is_host:
        return code_from_ptx(code.text, entry_point=code.entry_point)
    raise SpecError(f"device {device.name!r} does not run {code.format.value}; give CUDA source")


def create(
    device: Device, spec: KernelSpec, compiled: CompiledCode, *, grid: Dim3 | None, epoch: int
) -> Instance:
    """Load code and reserve all memory of a kernel; nothing is launched.

    The regions' initial arrays are the caller's to write; the instance keeps none of them alive.

    Args:
        grid: blocks, or None to ask the spec, which may say ``"fill"``; then there must be room for
            them beside the kernels that run.
    Raises:
        EntryPointError: the kernel's parameters are not control, regions, arguments.
        LimitExceededError: there is no room for the blocks.
        DeviceError: the device has no room, or refuses the code.
    """
    spec = spec.without_arrays
    code = device.load(compiled)
    try:
        if grid is None:
            fits = (
                device.grid_that_fits(
                    code,
                    compiled.entry_point,
                    spec.block,
                    dynamic_shared_bytes=spec.dynamic_shared_bytes,
                )
                if spec.grid == "fill"
                else 0
            )
            grid = (fits, 1, 1) if spec.grid == "fill" else spec.grid
            check_room(device, grid)
        resident = ResidentKernel(device, code, spec, grid=grid, base_sequence=0, epoch=epoch)
    except BaseException:
        device.unload(code)
        raise
    return Instance(device, spec, compiled, code, resident)


def write_initial(instance: Instance, regions: Iterable[Region]) -> None:
    """Write the initial arrays of regions; memory without one is zero already.

    Raises:
        DeviceError: an array of another library's can't be read.
    """
    for region in regions:
        if region.initial is not None:
            instance.resident.write_region(region.name, read(region.initial))


def region_digests(instance: Instance) -> dict[str, str]:
    """Return the SHA-256 (hex) by region, from the blocks that lie in the device's memory."""
    return {name: region_digest(blocks) for name, blocks in instance.resident.digests().items()}


@attrs.frozen(eq=False)
class CopiedState:
    """A copy of an instance's regions, with their blocks' digests, at one sequence."""

    applied_sequence: int
    layout: tuple[Region, ...]
    regions: Mapping[str, memoryview]
    blocks: Mapping[str, bytes]

    @property
    def digests(self) -> dict[str, str]:
        return {name: region_digest(blocks) for name, blocks in self.blocks.items()}

    @property
    def size_bytes(self) -> int:
        return sum(len(region) for region in self.regions.values())


def copy_state(instance: Instance, applied_sequence: int) -> CopiedState:
    """Copy a held, quiesced or never launched instance's regions."""
    resident = instance.resident
    blocks = resident.digests()
    regions = {region.name: resident.read_region(region.name) for region in resident.layout}
    return CopiedState(applied_sequence, resident.layout, regions, blocks)


def build_checkpoint(
    spec: KernelSpec,
    state: CopiedState,
    *,
    grid: Dim3,
    epoch: int,
    outbox: bytes,
    sends: bytes,
    output_index: int,
    at_ns: int,
) -> Checkpoint:
    """Return the checkpoint of a copied state and the outputs that nobody acknowledged.

    Args:
        outbox: replies and unsolicited outputs (``encode_outbox``).
        sends: what waits for other kernels (``encode_sends``).
    """
    builder = (
        CheckpointBuilder(spec.kernel_id, spec.kernel_type)
        .step(state.applied_sequence)
        .grid_size(*grid)
        .tile_size(*spec.block)
        .created_at(at_ns // 1000)
        .recovery(
            replay_from=state.applied_sequence + 1,
            code_version=spec.code.hash,
            epoch=epoch,
            replay_mode=spec.replay,
        )
        .custom(OUTPUT_INDEX_KEY, str(output_index))
        .k2h_queue(outbox)
    )
    if spec.routes:
        builder.k2k_routing(sends)
    for region in state.layout:
        builder.device_memory(
            region.name,
            state.regions[region.name],
            dtype=region.dtype,
            shape=region.shape,
            digests=state.blocks[region.name],
        )
    return builder.build()


def write_checkpoint(instance: Instance, checkpoint: Checkpoint) -> None:
    """Fill an instance's regions from a checkpoint and read their digests back.

    Raises:
        CorruptError: a region is missing, has another layout, or did not arrive whole.
    """
    difference = layout_difference(instance, checkpoint)
    if difference is not None:
        name, got, expected = difference
        raise CorruptError(
            f"checkpoint has {got} as region {name!r}, the kernel {expected}; use one of this code"
        )
    for region in instance.resident.layout:
        chunk = checkpoint.get_device_memory(region.name)
        assert chunk is not None
        instance.resident.write_region(region.name, chunk.data)
    for name, digest in region_digests(instance).items():
        stored = checkpoint.get_device_memory(name)
        if stored is None or stored.digest != digest:
            raise CorruptError(f"region {name!r} differs from its checkpoint after the restore")


def layout_difference(instance: Instance, checkpoint: Checkpoint) -> tuple[str, str, str] | None:
    """Return the first region that differs in name or form: its name, the checkpoint's, ours.

    Variables of the code are compared by size: a compiler may call their elements otherwise.
    """
    layout = {region.name: region for region in instance.resident.layout}
    for region in layout.values():
        chunk = checkpoint.get_device_memory(region.name)
        if chunk is not None and region.implicit and chunk.size_bytes == region.size_bytes:
            continue
        got = "nothing" if chunk is None else f"{chunk.dtype}{tuple(chunk.shape)}"
        if got != f"{region.dtype}{region.shape}":
            return region.name, got, f"{region.dtype}{region.shape}"
    for chunk in checkpoint.regions:
        if chunk.name.startswith(GLOBAL_PREFIX) and chunk.name not in layout:
            return chunk.name, f"{chunk.dtype}{tuple(chunk.shape)}", "nothing"
    return None


def check_listed(instance: Instance, what: str) -> None:
    """Raise ``UnlistedStateError`` if the instance has state that its regions don't hold."""
    if instance.resident.unlisted:
        raise UnlistedStateError(instance.spec.kernel_id, what, instance.resident.unlisted)


def check_same_globals(source: Instance, target: Instance) -> None:
    """Raise ``RegionMismatchError`` unless both codes of a kernel have the same variables."""
    ours, theirs = (
        {region.name: f"{region.size_bytes} bytes" for region in one.resident.layout}
        for one in (source, target)
    )
    for name in sorted(ours.keys() | theirs.keys()):
        got, expected = ours.get(name, "nothing"), theirs.get(name, "nothing")
        if got != expected:
            raise RegionMismatchError(name, got, expected)


def transfer(source: Instance, target: Instance, names: frozenset[str]) -> tuple[str, int]:
    """Copy regions from one instance to another; return the path and the bytes."""
    paths, size = set(), 0
    for name in sorted(names):
        allocation = source.resident.regions[name]
        paths.add(
            source.device.copy_to_peer(allocation, target.device, target.resident.regions[name])
        )
        size += allocation.size_bytes
    return "+".join(sorted(paths)) or "none", size


def shared_regions(old: KernelSpec, new: KernelSpec) -> frozenset[str]:
    """Return the regions that both specs have with the same dtype and shape."""
    layouts = {region.layout for region in old.regions}
    return frozenset(region.name for region in new.regions if region.layout in layouts)


def shared_globals(old: Instance, new: Instance) -> frozenset[str]:
    """Return the variables' regions that both codes have with the same name and size."""
    sizes = {region.name: region.size_bytes for region in old.resident.layout if region.implicit}
    return frozenset(
        region.name
        for region in new.resident.layout
        if region.implicit and sizes.get(region.name) == region.size_bytes
    )


def lost_globals(old: Instance, new: Instance) -> tuple[str, ...]:
    """Return the variables' regions that the new code lacks, or has in another size; by name."""
    shared = shared_globals(old, new)
    implicit = {region.name for region in old.resident.layout if region.implicit}
    return tuple(sorted(implicit - shared))


def run_convert(old: Instance, new: Instance, entry_point: str, *, timeout_s: float) -> None:
    """Run the new code's conversion kernel over old and new regions, once, to its end.

    Raises:
        KernelStalledError: it has not ended in time.
        DeviceError: it trapped.
    """
    allocations = [old.resident.regions[region.name] for region in old.spec.regions]
    allocations += [new.resident.regions[region.name] for region in new.spec.regions]
    allocations += [old.resident.regions[name] for name in lost_globals(old, new)]
    launch = new.device.launch(
        new.code,
        entry_point,
        grid=new.resident.grid,
        block=new.spec.block,
        parameters=tuple(allocation.address.to_bytes(8, "little") for allocation in allocations),
        memory=allocations,
    )
    status = launch.wait(timeout_s)
    if status is LaunchStatus.RUNNING:
        launch.abort()
        raise KernelStalledError(
            f"convert kernel {entry_point!r} has not ended within {timeout_s} s; look for a loop",
            call=entry_point,
        )
    if status is not LaunchStatus.COMPLETED:
        raise DeviceError(
            f"convert kernel {entry_point!r} ended {status.name.lower()}: {launch.detail}; mend it",
            call=entry_point,
            code=status.name.lower(),
        )
