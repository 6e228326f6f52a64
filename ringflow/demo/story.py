"""The demo's two runs: the eventful one, and the quiet one that it is compared with.

- The eventful run performs ``plan.PLAN`` while the producer sends; after a kill it goes on where
  the journal says that it stood.
- The quiet run is a fresh engine in another folder: the same messages, the good reload at the same
  sequence, nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np

import ringflow
from ringflow.demo import DemoError
from ringflow.demo.kernels import CONVERT, KERNEL_ID, code, first_spec, second_regions
from ringflow.demo.plan import DEVICES, Phase, Seen, done_phases, plan_for
from ringflow.demo.records import Identity, ReplyLog, TimingLog
from ringflow.demo.seafloor import Seafloor
from ringflow.demo.traffic import Traffic
from ringflow.errors import OperationFailedError

ACTOR: Final = "demo"
PROBATION_MESSAGES: Final = 8

Regions = Mapping[str, np.ndarray[Any, Any]]
Say = Callable[[str], None]


@attrs.frozen(kw_only=True, eq=False)
class Ending:
    """Where a run ended.

    Attributes:
        regions: copies of all regions after the last message, by name.
        replies: payloads by (sequence, index).
        absorb_at: the first message that version 2 handled.
        operations: what did the phases of the plan, in its order; empty for the quiet run.
    """

    last_number: int
    regions: Regions
    replies: Mapping[Identity, bytes]
    absorb_at: int
    operations: tuple[ringflow.OperationStatus, ...] = ()


def seen_operations(statuses: Iterable[ringflow.OperationStatus]) -> tuple[Seen, ...]:
    """Return the engine's operations in the plan's terms."""
    return tuple(
        Seen(
            operation_id=status.operation_id,
            kind=status.kind,
            state=status.state,
            target=status.details.get("target") or status.details.get("new_version", ""),
            failure=status.details.get("failure", ""),
        )
        for status in statuses
    )


class Eventful:
    """The run with two migrations, a good reload and one that must roll back."""

    def __init__(
        self,
        engine: ringflow.Engine,
        seafloor: Seafloor,
        *,
        timings: TimingLog,
        message_count: int,
        devices: Sequence[str] = DEVICES,
        say: Say,
    ) -> None:
        self._engine, self._seafloor = engine, seafloor
        self._home, self._plan = devices[0], plan_for(devices)
        self._timings, self._message_count, self._say = timings, message_count, say

    async def run(self, log: ReplyLog, on_reply: Callable[[int], None]) -> Ending:
        kernel = await kernel_of(self._engine, self._seafloor, self._home)
        traffic = Traffic(
            kernel,
            log,
            shape=self._seafloor.shape,
            message_count=self._message_count,
            on_reply=on_reply,
        )
        await traffic.run(lambda traffic: self._direct(kernel.id, traffic))
        self._say("reading the regions")
        plan, done = self._plan, self._done()
        if len(done) != len(plan):
            raise DemoError(f"the journal shows {len(done)} of {len(plan)} operations as done")
        statuses = {status.operation_id: status for status in self._engine.operations()}
        operations = tuple(statuses[seen.operation_id] for seen in done)
        return Ending(
            last_number=traffic.last_number,
            regions=await copy_regions(kernel),
            replies=log.payloads,
            absorb_at=operations[1].details["applied_sequence"] + 1,
            operations=operations,
        )

    def _done(self) -> tuple[Seen, ...]:
        return done_phases(seen_operations(self._engine.operations()), self._plan)

    async def _direct(self, kernel_id: str, traffic: Traffic) -> None:
        for phase in self._plan[len(self._done()) :]:
            self._say("stepping")
            starts_at = phase.starts_at(self._message_count)
            await traffic.until(lambda at=starts_at: traffic.reply_count >= at)  # type: ignore[misc]
            self._say(phase.title)
            start_ns = time.monotonic_ns()
            operation_id = await self._perform(kernel_id, phase)
            end_ns = time.monotonic_ns()
            await traffic.until_seen_after(end_ns)
            timing = traffic.timeline.timing(start_ns, end_ns)
            self._timings.add(operation_id, timing)
        self._say("stepping")

    async def _perform(self, kernel_id: str, phase: Phase) -> str:
        if phase.kind == "migration":
            result = await self._engine.migrate(
                kernel_id, to=phase.target, reason=phase.title, actor=ACTOR
            )
            return result.operation_id
        operation = await start_reload(
            self._engine, kernel_id, self._seafloor, phase.target, at_sequence=None
        )
        try:
            await operation.result()
        except OperationFailedError as error:
            if error.state != phase.ending or "trap" not in error.reason.lower():
                raise
        else:
            if phase.ending != "completed":
                raise DemoError(f"{phase.title}: the reload should have rolled back, it completed")
        return operation.id


async def quiet_run(
    folder: Path,
    seafloor: Seafloor,
    log: ReplyLog,
    *,
    home: str,
    last_number: int,
    absorb_at: int,
    on_reply: Callable[[int], None],
) -> Ending:
    """Say the same messages to a fresh engine, with the good reload at the same sequence."""
    async with ringflow.open_engine(folder, devices=[home]) as engine:
        kernel = await kernel_of(engine, seafloor, home)
        operation = await start_reload(engine, kernel.id, seafloor, "v2", at_sequence=absorb_at)
        traffic = Traffic(
            kernel, log, shape=seafloor.shape, message_count=last_number, on_reply=on_reply
        )

        async def direct(_: Traffic) -> None:
            result = await operation.result()
            if result.at_sequence != absorb_at:
                raise DemoError(f"version 2 began at {result.at_sequence}, not at {absorb_at}")

        await traffic.run(direct)
        return Ending(
            last_number=traffic.last_number,
            regions=await copy_regions(kernel),
            replies=log.payloads,
            absorb_at=absorb_at,
        )


async def kernel_of(
    engine: ringflow.Engine, seafloor: Seafloor, home: str
) -> ringflow.KernelHandle:
    """Return the demo's kernel, launching it if no launch has succeeded yet.

    A kill in the middle of a launch leaves a kernel that never ran; its id is used up.
    """
    kernels = engine.kernels()
    for status in kernels:
        if status.state != "failed":
            return engine.kernel(status.kernel_id)
    kernel_id = f"{KERNEL_ID}-{len(kernels) + 1}" if kernels else KERNEL_ID
    spec = attrs.evolve(first_spec(seafloor), kernel_id=kernel_id)
    return await engine.launch(spec, device=home, actor=ACTOR, reason="the demo's beginning")


async def start_reload(
    engine: ringflow.Engine,
    kernel_id: str,
    seafloor: Seafloor,
    version: str,
    *,
    at_sequence: int | None,
) -> ringflow.Operation[ringflow.ReloadResult]:
    """Start the reload of version 2 (with its conversion) or 3."""
    first = version == "v2"
    return await engine.start_reload(
        kernel_id,
        code(version),
        regions=second_regions(seafloor) if first else None,
        convert=CONVERT if first else None,
        at_sequence=at_sequence,
        probation_messages=PROBATION_MESSAGES,
        probation_timeout_s=30.0,
        reason=f"try {version}",
        actor=ACTOR,
    )


async def copy_regions(kernel: ringflow.KernelHandle) -> Regions:
    """Return copies of all regions at one message boundary."""
    async with kernel.held() as state:
        return {name: np.array(state[name].numpy()) for name in state}
