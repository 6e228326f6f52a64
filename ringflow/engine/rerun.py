"""Runs an exact kernel again, from each kept recovery point to the next, and compares its memory.

- Nothing in the engine's folder is changed and no lock is taken: the kernel runs beside it.
- The code changes at the sequences at which the journal's reloads changed it.
- What can't be run again is named, never passed in silence.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

import attrs

from ringflow.device.api import Device
from ringflow.device.compiler.cache import CompileCache
from ringflow.device.registry import open_device
from ringflow.engine import instances
from ringflow.engine.bulk import posting_of
from ringflow.engine.instances import OUTPUT_INDEX_KEY, Instance
from ringflow.engine.outputs import decode_outbox
from ringflow.engine.rerun_plan import RerunPlan, Span, plan_rerun
from ringflow.engine.rerun_run import Run
from ringflow.engine.restoring import code_of
from ringflow.errors import DeviceError, StorageError, UsageError
from ringflow.events.registry import default_codec
from ringflow.files import FileSystem, SystemFiles
from ringflow.journal.reader import find_journal, read_history
from ringflow.spec import KernelSpec
from ringflow.spec_codec import decode_spec
from ringflow.statemachines.lifecycle import RecoveryPoint
from ringflow.storage import Checkpoint, ChunkType, FileStorage, ObjectStore
from ringflow.storage.api import CHECKPOINT_FOLDER
from ringflow.storage.blocks import BLOCK_BYTES, BLOCK_DIGEST_BYTES
from ringflow.workers import in_thread

EPOCH: Final = 1


@attrs.frozen(kw_only=True)
class SpanReport:
    """What became of one span.

    Attributes:
        start, end: the checkpoints' names.
        messages, outputs: how many were applied again, and what the kernel put out.
        skipped: why it was not run; empty if it was.
        difference: what differs first; empty if nothing does.
    """

    start: str
    end: str
    messages: int
    outputs: int = 0
    skipped: str = ""
    difference: str = ""


@attrs.frozen(kw_only=True)
class RerunReport:
    """All spans between the recovery points that are kept, oldest first."""

    kernel_id: str
    spans: tuple[SpanReport, ...]

    @property
    def equal(self) -> bool:
        """Whether no span that was run differs."""
        return not any(span.difference for span in self.spans)


async def rerun_kernel(
    path: Path | str,
    kernel_id: str,
    *,
    device: str | Device = "host:0",
    files: FileSystem | None = None,
    step_timeout_s: float = 30.0,
) -> RerunReport:
    """Run a kernel again between the recovery points that its folder keeps.

    Args:
        path: the engine's folder, or its journal's; it may be open in another process.
        device: a name, opened for the run, or an open device, which stays open.
        step_timeout_s: how long the kernel may take for one message.
    Raises:
        UnknownKernelError, UsageError: no such kernel, it is not ``exact``, or it has fewer than
            two recovery points.
        CorruptJournalError, StorageError: the journal is damaged, or an object is missing.
    """
    used = files or SystemFiles()

    def prepare() -> tuple[Path, RerunPlan, Device]:
        journal = find_journal(Path(path), used)
        codec = default_codec()
        base, raw = read_history(journal, files=used)
        records = (record.decoded(codec) for record in raw)
        objects = ObjectStore(journal.parent / "objects", files=used)
        plan = plan_rerun(
            records, kernel_id, posting_of=lambda event: posting_of(event, objects), base=base
        )
        return journal.parent, plan, open_device(device) if isinstance(device, str) else device

    root, plan, opened = await in_thread(prepare)
    rerun = _Rerun(root, plan, opened, used, step_timeout_s)
    try:
        reports = [await rerun.span(span) for span in plan.spans]
    finally:
        if isinstance(device, str):
            await in_thread(opened.close)
    return RerunReport(kernel_id=kernel_id, spans=tuple(reports))


class _Rerun:
    """What all spans of one rerun share."""

    def __init__(
        self, root: Path, plan: RerunPlan, device: Device, files: FileSystem, timeout_s: float
    ) -> None:
        self._plan = plan
        self._device = device
        self._timeout_s = timeout_s
        self._objects = ObjectStore(root / "objects", files=files)
        self._checkpoints = FileStorage(root / CHECKPOINT_FOLDER, files=files)
        self._cache = CompileCache.default()

    async def span(self, span: Span) -> SpanReport:
        report = SpanReport(
            start=span.start.checkpoint, end=span.end.checkpoint, messages=len(span.messages)
        )
        if span.obstacle:
            return attrs.evolve(report, skipped=span.obstacle)
        try:
            start = await self._checkpoints.load(span.start.checkpoint)
            end = await self._checkpoints.load(span.end.checkpoint)
        except StorageError as error:
            return attrs.evolve(report, skipped=str(error))
        return await in_thread(partial(self._run, span, report, start, end))

    def _run(
        self, span: Span, report: SpanReport, start: Checkpoint, end: Checkpoint
    ) -> SpanReport:
        spec = self._spec(span.start)
        if spec.replay != "exact":
            raise UsageError(
                f"kernel {spec.kernel_id!r} is in replay mode {spec.replay!r}; only an exact "
                "kernel's state follows from its messages"
            )
        run = Run(timeout_s=self._timeout_s)
        instance = self._instance(span.start, spec)
        try:
            instances.write_checkpoint(instance, start)
            applied, index = span.start.replay_from - 1, start.metadata.custom.get(OUTPUT_INDEX_KEY)
            run.begin(applied, output_index=int(index or 0))
            for change in span.changes:
                run.through(instance, span.messages, change.first - 1)
                new = self._instance(change.point, self._spec(change.point))
                old, instance = instance, new
                try:
                    fresh = _swap(old, new)
                finally:
                    old.close()
                if fresh:
                    return attrs.evolve(report, skipped=fresh)
            run.through(instance, span.messages, span.end.replay_from - 1)
            difference = _difference(instance, end) or _output_difference(run, span, end)
        except DeviceError as error:
            difference = f"it did not come through: {error}"
        finally:
            instance.close()
        return attrs.evolve(report, outputs=len(run.outputs), difference=difference)

    def _spec(self, point: RecoveryPoint) -> KernelSpec:
        return decode_spec(self._objects.get(point.spec_digest))

    def _instance(self, point: RecoveryPoint, spec: KernelSpec) -> Instance:
        compiled = code_of(point, spec, self._device, self._objects, self._cache)
        return instances.create(self._device, spec, compiled, grid=self._plan.grid, epoch=EPOCH)


def _swap(old: Instance, new: Instance) -> str:
    """Copy what both codes have; return why the rest can't be known, empty if there is none."""
    shared = instances.shared_regions(old.spec, new.spec)
    instances.transfer(old, new, shared | instances.shared_globals(old, new))
    fresh = sorted({region.name for region in new.spec.regions} - shared)
    version = new.spec.code.version_id
    return f"the reload to {version!r} made new regions: {', '.join(fresh)}" if fresh else ""


def _difference(instance: Instance, end: Checkpoint) -> str:
    """Return the first region and block that differ from a checkpoint's, empty if none do."""
    found = instance.resident.digests()
    for region in instance.resident.layout:
        chunk = end.get_device_memory(region.name)
        if chunk is None:
            return f"region {region.name!r} is not in checkpoint {end.metadata.kernel_id!r}"
        stored, replayed = chunk.block_digests, found[region.name]
        for block, at in enumerate(range(0, len(replayed), BLOCK_DIGEST_BYTES)):
            if stored[at : at + BLOCK_DIGEST_BYTES] != replayed[at : at + BLOCK_DIGEST_BYTES]:
                start = block * BLOCK_BYTES
                ours = instance.resident.read_region(region.name)[start : start + BLOCK_BYTES]
                theirs = chunk.data[start : start + BLOCK_BYTES]
                said = _bytes_difference(theirs, ours, start)
                return f"region {region.name!r}, block {block}, {said}"
    return ""


def _bytes_difference(stored: memoryview, replayed: memoryview, start_bytes: int) -> str:
    """Say where two blocks differ first, and the 8 bytes there that are aligned."""
    pairs = zip(bytes(stored), bytes(replayed), strict=True)
    first = next(index for index, (ours, theirs) in enumerate(pairs) if ours != theirs)
    word = slice(first // 8 * 8, first // 8 * 8 + 8)
    return (
        f"from byte {start_bytes + first} on; at {start_bytes + word.start} the checkpoint has "
        f"{bytes(stored[word]).hex()}, the replay {bytes(replayed[word]).hex()}"
    )


def _output_difference(run: Run, span: Span, end: Checkpoint) -> str:
    """Compare outputs with those that the later checkpoint still holds for its consumers."""
    queue = end.get_chunk(ChunkType.K2H_QUEUE)
    for output in decode_outbox(memoryview(queue.data)) if queue is not None else ():
        if output.sequence < span.start.replay_from:
            continue
        replayed = run.outputs.get((output.sequence, output.index))
        if replayed is not None and replayed[1] != output.data:
            return (
                f"the array of output {output.index} of message {output.sequence}: the replay's "
                "differs from that in the checkpoint's outbox"
            )
        if replayed is None or replayed[0] != output.payload:
            said = "nothing" if replayed is None else replayed[0].hex()
            return (
                f"output {output.index} of message {output.sequence}: the checkpoint's outbox has "
                f"{output.payload.hex()}, the replay {said}"
            )
    return ""
